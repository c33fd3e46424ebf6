//! Compaction of all clusters at what was the same time.
//!
//! A compaction names a revision of the default cluster, which means nothing to another one. Each
//! other cluster is compacted at the revision it had when the default cluster reached the one that
//! was asked for.

use super::{Context, materialize};
use crate::{
    etcd::{
        method::Method,
        proto::etcdserverpb::{CompactionRequest, CompactionResponse},
    },
    grpc::Incoming,
    pipeline::{self, Manner, Responder},
    upstream::Cluster,
};
use http::HeaderMap;
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::time::timeout;
use tonic::Code;

pub(super) async fn compact(context: Context, mut incoming: Incoming, responder: Responder) {
    let Some((request, message, responder)) =
        context.decode::<CompactionRequest>(&mut incoming, responder).await
    else {
        return;
    };
    let Some(responder) = context.allowed_method(Method::Compact, responder) else { return };
    let Some((placed, mut responder)) = context.named(responder) else { return };
    let subject = context.attribute_method(&placed, Method::Compact, &message, &mut responder);
    let manner = Manner::of(Method::Compact, subject.class);
    let forwarding = pipeline::forward(&placed, &context.call, manner, message.framed());
    let answered = responder.unless_gone(pin!(forwarding)).await;
    let done = matches!(&answered, Ok(Ok(answer)) if !answer.is_refused());
    if done && context.call.cluster.is_none() {
        follow(&context, &request);
    }
    context.finish(placed, answered, responder).await;
}

/// The default cluster was compacted as `request` says: the others follow, without the client
/// waiting for them.
fn follow(context: &Context, request: &CompactionRequest) {
    let default = context.topology.default();
    if context.topology.is_single() {
        return;
    }
    let Some(before) = default.cluster.timeline().before(request.revision) else {
        let revision = request.revision;
        return tracing::warn!(
            revision,
            "other clusters are not compacted: when the default cluster reached the revision is not \
             known, it was before Seawall started"
        );
    };
    for placed in context.topology.secondaries() {
        let Some(revision) = placed.cluster.timeline().revision_at(before) else {
            let cluster = &*placed.cluster.name;
            tracing::warn!(cluster, "cluster is not compacted: it was not seen that long ago");
            continue;
        };
        let request = CompactionRequest { revision, physical: request.physical };
        let headers = materialize::credentials(context, &placed);
        // Ends with the answer, or after `ANSWER_WAIT`.
        tokio::spawn(compact_at(Arc::clone(placed.cluster), request, headers, context.call.worker));
    }
}

/// Longer than etcd takes to remove what was compacted, for which a physical compaction waits. It goes
/// on with that by itself.
const ANSWER_WAIT: Duration = Duration::from_secs(10 * 60);

async fn compact_at(
    cluster: Arc<Cluster>,
    request: CompactionRequest,
    headers: HeaderMap,
    worker: usize,
) {
    let asked = cluster.ask::<CompactionResponse>(Method::Compact, &request, headers, worker, None);
    let (cluster, revision) = (&*cluster.name, request.revision);
    let error = match timeout(ANSWER_WAIT, asked).await {
        Ok(Ok(Ok(_))) => {
            return tracing::info!(cluster, revision, "compacted along with the default cluster");
        }
        // Nothing has happened there since the last time.
        Ok(Ok(Err(status))) if status.code() == Code::OutOfRange => return,
        Ok(Ok(Err(status))) => status.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::warn!(cluster, revision, error, "cluster was not compacted");
}
