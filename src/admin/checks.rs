//! Liveness and readiness by function.

use super::View;
use crate::{
    etcd::{
        method::Method,
        proto::etcdserverpb::{RangeRequest, RangeResponse},
    },
    upstream::{CONTROL, Cluster, is_about_permission},
    worker::Worker,
};
use bytes::Bytes;
use http::HeaderMap;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};

/// kube-apiserver gives its own check of etcd as long.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Honest turns are far shorter, also where a large list is sorted in memory or a busy machine
/// has no processor to give for a while.
const TURN_MAX: Duration = Duration::from_secs(10);

/// What was looked at, and what is wrong with it.
pub(super) type Results = BTreeMap<String, Result<(), String>>;

/// Whether the process should go on: not if a data thread does nothing any more, or if no member of
/// a default cluster has said anything for too long, which a restart may cure.
pub(super) fn live(view: &View) -> Results {
    let now = Instant::now();
    let mut results: Results = view.workers.iter().map(|worker| turns(worker, now)).collect();
    let limit = *view.livez_after.borrow();
    let check = |cluster: &Arc<Cluster>| {
        let silent = cluster.silent_for();
        let result = match silent > limit {
            true => Err(format!("no member has answered for {}s", silent.as_secs())),
            false => Ok(()),
        };
        (format!("cluster/{}", cluster.name), result)
    };
    results.extend(view.default_clusters().iter().map(check));
    results
}

/// Whether a data thread comes around to what it is asked.
fn turns(worker: &Worker, now: Instant) -> (String, Result<(), String>) {
    let late = worker.late(now);
    let result = match late > TURN_MAX {
        true => Err(format!("it has been stuck for {}s", late.as_secs())),
        false => Ok(()),
    };
    (format!("thread/data-{}", worker.index), result)
}

/// Whether clients should come here: not while stopping, and not without a real read of every
/// listener's default cluster.
pub(super) async fn ready(view: &View) -> Results {
    let mut results = Results::new();
    let leaving = view.signals.leaving.is_cancelled();
    results.insert("serving".into(), if leaving { Err("stopping".into()) } else { Ok(()) });
    for cluster in view.default_clusters() {
        results.insert(format!("cluster/{}", cluster.name), read(&cluster).await);
    }
    results
}

async fn read(cluster: &Cluster) -> Result<(), String> {
    let deadline = Instant::now() + READ_TIMEOUT;
    let key = Bytes::from_static(b"/registry/health");
    let request = RangeRequest { key, limit: 1, ..RangeRequest::default() };
    let asking = cluster.ask::<RangeResponse>(
        Method::Range,
        &request,
        HeaderMap::new(),
        CONTROL,
        Some(deadline),
    );
    match timeout_at(deadline, asking).await {
        Ok(Ok(Ok(_))) => Ok(()),
        Ok(Ok(Err(status))) if is_about_permission(&status) => Ok(()),
        Ok(Ok(Err(status))) => Err(status.message().to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer for {}s", READ_TIMEOUT.as_secs())),
    }
}
