//! Watches how a cluster bears its load, and opens or narrows its gate.

use crate::{
    admission::{Gate, Protection},
    etcd::{
        method::Method,
        proto::etcdserverpb::{RangeRequest, RangeResponse},
    },
    mirror::Mirror,
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
pub async fn steer(
    cluster: Weak<Cluster>,
    gate: Arc<Gate>,
    protection: Arc<Protection>,
    mirror: Arc<Mirror>,
) {
    let mut warned = false;
    loop {
        let Some(cluster) = cluster.upgrade() else { return };
        look(&cluster, &gate, &mirror).await;
        let config = protection.space();
        cluster.assume_quota(config.quota_bytes);
        if let Some(percent) = cluster.space_percent() {
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

/// Times a read that costs etcd the same whatever else it does, one key, linearizable; and how long
/// watches take to come as far as it says, where there is one of our own.
async fn look(cluster: &Cluster, gate: &Gate, mirror: &Mirror) {
    let key = Bytes::from_static(b"/registry/health");
    let request = RangeRequest { key, count_only: true, ..RangeRequest::default() };
    let sent = Instant::now();
    let asking =
        cluster.ask::<RangeResponse>(Method::Range, &request, HeaderMap::new(), CONTROL, None);
    match timeout(TIMEOUT, asking).await {
        Ok(Ok(Ok(RangeResponse { header: Some(header), .. }))) => {
            let answered = Instant::now();
            match mirror.reached(header.revision, header.cluster_id).await {
                Ok(_) => mirror.metrics.lag.observe(answered.elapsed().as_secs_f64()),
                // Nothing is followed: the answer has to do.
                Err(_) if !mirror.position().live => return gate.sample(answered - sent),
                // Further behind than a read would wait for it.
                Err(_) => {}
            }
            gate.sample(sent.elapsed());
        }
        // That etcd refuses is about as fast as that it answers.
        Ok(Ok(_)) => gate.sample(sent.elapsed()),
        // That members are gone is not for a gate to mend.
        Ok(Err(_)) => {}
        Err(_) => gate.overloaded(),
    }
}
