//! Compaction of all clusters at what was the same time.
//!
//! A compaction names a revision of the default cluster, which means nothing to another one. Each
//! other cluster is compacted at the revision it had when the default cluster reached the one that
//! was asked for.

use super::{Context, materialize, status};
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
use std::{pin::pin, sync::Arc};
use tonic::Code;

pub(super) async fn compact(context: Context, mut incoming: Incoming, responder: Responder) {
    let Some((request, message, responder)) =
        context.decode::<CompactionRequest>(&mut incoming, responder).await
    else {
        return;
    };
    let Some(mut responder) = context.allowed_method(Method::Compact, responder) else { return };
    let placed = match context.topology.named(&context.call) {
        Ok(placed) => placed,
        Err(error) => return responder.status(&status::of(&error.into())),
    };
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
    let Some(reached) = default.cluster.timeline().time_of(request.revision) else {
        let revision = request.revision;
        return tracing::info!(
            revision,
            "other clusters are not compacted: the revision is older than what was seen of them"
        );
    };
    for placed in context.topology.secondaries() {
        let Some(revision) = placed.cluster.timeline().revision_at(reached) else { continue };
        let request = CompactionRequest { revision, physical: request.physical };
        let headers = materialize::credentials(context, &placed);
        // Ends by itself: the call has a time limit of etcd's, and the lane closes with the member.
        tokio::spawn(compact_at(Arc::clone(placed.cluster), request, headers, context.call.worker));
    }
}

async fn compact_at(
    cluster: Arc<Cluster>,
    request: CompactionRequest,
    headers: HeaderMap,
    worker: usize,
) {
    let asked = cluster.ask::<CompactionResponse>(Method::Compact, &request, headers, worker, None);
    let (cluster, revision) = (&*cluster.name, request.revision);
    match asked.await {
        Ok(Ok(_)) => tracing::info!(cluster, revision, "compacted along with the default cluster"),
        // Nothing has happened there since the last time.
        Ok(Err(status)) if status.code() == Code::OutOfRange => {}
        Ok(Err(error)) => tracing::warn!(cluster, revision, %error, "cluster was not compacted"),
        Err(error) => tracing::warn!(cluster, revision, %error, "cluster was not compacted"),
    }
}
