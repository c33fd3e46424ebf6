//! Says in the log when etcd is reached, or that it is not: clients can connect before.

use crate::{
    listener::Listener,
    upstream::{Cluster, Member},
};
use futures_util::future::join_all;
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Members are probed at once, so an etcd that has not answered after this long is worth a warning.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Says `ready` once the default cluster of every listener answers, as `/readyz` does, and warns of
/// clusters of which no member has answered for a while. Ends with the stop.
pub(super) fn await_etcd(
    listeners: &[Arc<Listener>],
    leaving: &CancellationToken,
) -> AbortOnDropHandle<()> {
    let mut clusters: Vec<(Arc<Cluster>, bool)> = Vec::new();
    for listener in listeners {
        for (index, cluster) in listener.edge().topology().clusters.iter().enumerate() {
            match clusters.iter_mut().find(|(known, _)| Arc::ptr_eq(known, cluster)) {
                Some((_, default)) => *default |= index == 0,
                None => clusters.push((Arc::clone(cluster), index == 0)),
            }
        }
    }
    let (defaults, others): (Vec<_>, Vec<_>) =
        clusters.into_iter().partition(|(_, default)| *default);
    let awaiting = async move {
        let ready = async {
            join_all(defaults.iter().map(|(cluster, _)| reached(cluster))).await;
            let names: Vec<_> = defaults.iter().map(|(cluster, _)| &*cluster.name).collect();
            tracing::info!(clusters = ?names, "ready");
        };
        tokio::join!(ready, join_all(others.iter().map(|(cluster, _)| reached(cluster))));
    };
    let leaving = leaving.clone();
    AbortOnDropHandle::new(tokio::spawn(async move {
        // A process that leaves has nothing to wait for.
        leaving.run_until_cancelled(awaiting).await;
    }))
}

async fn reached(cluster: &Cluster) {
    let mut healthy = pin!(cluster.healthy());
    if timeout(SILENCE_MAX, healthy.as_mut()).await.is_ok() {
        return;
    }
    let members: Vec<_> = cluster.members.iter().map(|member| said_of(member)).collect();
    let name = &*cluster.name;
    tracing::warn!(cluster = name, ?members, "etcd does not answer: calls fail until it does");
    healthy.await;
    tracing::info!(cluster = name, "etcd answers");
}

fn said_of(member: &Member) -> String {
    let reason = member.last_error();
    format!("{}: {}", member.name, reason.as_deref().unwrap_or_else(|| member.state().as_str()))
}
