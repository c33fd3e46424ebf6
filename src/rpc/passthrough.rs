//! Methods that are only forwarded, to the default cluster or the one the client names.

use super::{Context, error::Error, status};
use crate::{
    access::Need,
    admission::{Kind, Shape, classify},
    etcd::method::{Affinity, Effect, Method},
    grpc::Incoming,
    pipeline::{self, Cut, Gone, Manner, Responder},
    upstream::Lane,
};
use std::{pin::pin, time::Duration};
use tokio::time::timeout;

/// A snapshot of a large database takes minutes, for which lists must not wait.
const TURN_MAX: Duration = Duration::from_secs(10);

/// One message there; one back, or a stream of them.
pub(super) async fn unary(
    context: Context,
    mut incoming: Incoming,
    responder: Responder,
    method: Method,
) {
    let Some(responder) = context.allowed_method(method, responder) else { return };
    let Some((message, responder)) = context.request(&mut incoming, responder).await else {
        return;
    };
    let Some((placed, responder)) = context.named(responder) else { return };
    let permitted = context.permitted(&placed, method, &message, responder).await;
    let Some((mut permit, mut responder)) = permitted else { return };
    let turn = permit.take_turn();
    responder.record.in_turn(permit);
    let manner = Manner::of(method, classify::method(method.path()).class);
    let mut forwarding = pin!(context.forward(placed, manner, &message, responder));
    if timeout(TURN_MAX, forwarding.as_mut()).await.is_err() {
        drop(turn);
        forwarding.await;
    }
}

/// A call of unknown shape: both directions as they come.
pub(super) async fn streams(context: Context, mut incoming: Incoming, responder: Responder) {
    let Some(responder) = context.allowed_to(Need::everything(), responder) else { return };
    let Some((placed, mut responder)) = context.named(responder) else { return };
    let kind = Kind::of(Shape::Admin);
    let manner = Manner {
        class: kind.class,
        lane: Lane::Watch,
        affinity: Affinity::Any,
        effect: Effect::Write,
    };
    responder.record.placed(manner.class, &placed.cluster.name);
    let subject = context.subject(None, kind, None, 0);
    // It meets rules when it begins, and nothing while it stays.
    match context.plan(&placed, &subject, &mut responder).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return responder.status(&status::of(&error)),
        Err(Gone) => return,
    }
    let outbound = pipeline::outbound(&placed, &context.call, manner, None);
    let exchange = match responder.unless_gone(pin!(placed.cluster.stream(&outbound))).await {
        Ok(Ok(exchange)) => exchange,
        Ok(Err(error)) => return responder.status(&status::of(&Error::Upstream(error))),
        Err(_) => return,
    };
    // etcd sends no head before it has read something, so what the client sends goes up meanwhile. A
    // stream that stays open ends as one with an answer does; what has been sent whole may be a write.
    let stop = &context.topology.ended;
    let answering = exchange.answer_while_sending(&mut incoming, stop);
    let answered = responder.unless_gone(pin!(answering)).await;
    match answered {
        Ok(Ok(Some(answer))) => {
            let cut = |cut| context.cut(cut);
            pipeline::relay_streams(incoming, answer, responder, Some(stop), cut).await;
        }
        Ok(Ok(None)) => responder.status(&context.cut(Cut::Stopped)),
        Ok(Err(error)) => responder.status(&status::of(&Error::Upstream(error))),
        Err(_) => {}
    }
}
