//! Watches how a cluster bears its load, and opens or narrows its gate.

use crate::{
    admission::{Gate, Protection},
    etcd::{
        method::Method,
        proto::etcdserverpb::{RangeRequest, RangeResponse},
    },
    upstream::{CONTROL, Cluster},
};
use bytes::Bytes;
use http::HeaderMap;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

/// Between looks while lists are under way: several within the time that one list takes.
const BUSY: Duration = Duration::from_millis(50);

/// Between looks at rest, which tell what a small read takes then.
const REST: Duration = Duration::from_secs(1);

/// A read that takes longer says enough.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Goes on until the cluster is dropped.
pub async fn steer(cluster: Weak<Cluster>, gate: Arc<Gate>, protection: Arc<Protection>) {
    let mut warned = false;
    loop {
        let Some(cluster) = cluster.upgrade() else { return };
        look(&cluster, &gate).await;
        let config = protection.space();
        if let Some(percent) = cluster.space_percent(config.quota_bytes) {
            gate.set_space(percent);
            let full = percent >= config.warn_percent;
            if full && !warned {
                tracing::warn!(cluster = &*cluster.name, percent, "etcd's database fills up");
            }
            warned = full;
        }
        gate.publish();
        protection.publish();
        drop(cluster);
        let (running, waiting, _) = gate.lists();
        if running > 0 || waiting > 0 {
            sleep(BUSY).await;
        } else {
            tokio::select! {
                () = sleep(REST) => {}
                () = gate.busy() => {}
            }
        }
    }
}

/// Times a read that costs etcd the same whatever else it does: one key, linearizable.
async fn look(cluster: &Cluster, gate: &Gate) {
    let key = Bytes::from_static(b"/registry/health");
    let request = RangeRequest { key, count_only: true, ..RangeRequest::default() };
    let sent = Instant::now();
    let asking =
        cluster.ask::<RangeResponse>(Method::Range, &request, HeaderMap::new(), CONTROL, None);
    match timeout(TIMEOUT, asking).await {
        // An error is about as fast as an answer; that members are gone is not for a gate to mend.
        Ok(Ok(_)) => gate.sample(sent.elapsed()),
        Ok(Err(_)) => {}
        Err(_) => gate.overloaded(),
    }
}
