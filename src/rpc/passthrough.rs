//! Methods that are only forwarded, to the default cluster or the one the client names.

use super::{Context, admit::in_turn, error::Error, status};
use crate::{
    access::Need,
    admission::{Class, classify},
    etcd::method::{Affinity, Effect, Method},
    grpc::Incoming,
    pipeline::{self, Gone, Manner, Responder},
    upstream::Lane,
};

/// One message there; one back, or a stream of them.
pub(super) async fn unary(
    context: Context,
    mut incoming: Incoming,
    responder: Responder,
    method: Method,
) {
    let Some(responder) = context.allowed_method(method, responder) else { return };
    let Some((message, mut responder)) = context.request(&mut incoming, responder).await else {
        return;
    };
    let placed = match context.topology.named(&context.call) {
        Ok(placed) => placed,
        Err(error) => return responder.status(&status::of(&error.into())),
    };
    let kind = classify::method(method.path());
    let subject = context.subject(method, kind, None, 0);
    context.attribute(&placed, &subject, &message, &mut responder);
    let mut permit = match context.enter(&placed, &subject, &mut responder).await {
        Ok(Ok(permit)) => permit,
        Ok(Err(error)) => return responder.status(&status::of(&error)),
        Err(Gone) => return,
    };
    let manner = Manner::of(method, kind.class);
    in_turn(&mut permit, context.forward(placed, manner, &message, responder)).await;
}

/// A call of unknown shape: both directions as they come.
pub(super) async fn streams(context: Context, incoming: Incoming, responder: Responder) {
    let Some(mut responder) = context.allowed_to(Need::everything(), responder) else { return };
    let placed = match context.topology.named(&context.call) {
        Ok(placed) => placed,
        Err(error) => return responder.status(&status::of(&error.into())),
    };
    let manner = Manner {
        class: Class::Admin,
        lane: Lane::Watch,
        affinity: Affinity::Any,
        effect: Effect::Write,
    };
    responder.record.placed(manner.class, &placed.cluster.name);
    relay_both(&context, &placed, manner, incoming, responder).await;
}

/// Opens the call at the cluster it was placed on and relays both directions.
pub(super) async fn relay_both(
    context: &Context,
    placed: &pipeline::Placed<'_>,
    manner: Manner,
    mut incoming: Incoming,
    mut responder: Responder,
) {
    let outbound = pipeline::outbound(placed, &context.call, manner, None);
    let exchange = match responder.unless_gone(placed.cluster.stream(&outbound)).await {
        Ok(Ok(exchange)) => exchange,
        Ok(Err(error)) => return responder.status(&status::of(&Error::Upstream(error))),
        Err(_) => return,
    };
    // etcd sends no head before it has read something, so what the client sends goes up meanwhile.
    match responder.unless_gone(exchange.answer_while_sending(&mut incoming)).await {
        Ok(Ok(answer)) => {
            let cut = |cut| context.cut(cut);
            pipeline::relay_streams(incoming, answer, responder, context.stop(), cut).await;
        }
        Ok(Err(error)) => responder.status(&status::of(&Error::Upstream(error))),
        Err(_) => {}
    }
}
