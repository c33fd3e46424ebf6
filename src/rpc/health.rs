//! `grpc.health.v1`, for the proxy and the default cluster behind it.

use super::{Context, error::Error, status};
use crate::{
    admission::Class,
    etcd::proto::health::{
        HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    },
    grpc::{self, Incoming},
    pipeline::Responder,
};
use bytes::Bytes;
use tonic::{Code, Status};

pub(super) async fn check(context: Context, mut incoming: Incoming, responder: Responder) {
    let Some((request, _, mut responder)) =
        context.decode::<HealthCheckRequest>(&mut incoming, responder).await
    else {
        return;
    };
    responder.record.placed(Class::Critical, &context.topology.default().cluster.name);
    if request.service.is_empty() {
        responder.message(encode(context.serving())).await;
    } else {
        responder.status(&Status::new(Code::NotFound, "unknown service"));
    }
}

/// Tells the state now and at every change, until the client leaves, Seawall drains, or another
/// cluster is the default one.
pub(super) async fn watch(context: Context, mut incoming: Incoming, responder: Responder) {
    let Some((request, _, mut responder)) =
        context.decode::<HealthCheckRequest>(&mut incoming, responder).await
    else {
        return;
    };
    let cluster = context.topology.default().cluster;
    responder.record.placed(Class::Watch, &cluster.name);
    let Ok((mut out, record)) = responder.open(grpc::head()) else { return };
    let mut told = None;
    loop {
        // Looked at before the state, so that a drain is told as one.
        let ended = context.topology.ended.is_cancelled();
        let changed = cluster.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let state = match request.service.is_empty() {
            true => context.serving(),
            false => ServingStatus::ServiceUnknown,
        };
        if told.replace(state) != Some(state) && out.send(encode(state)).await.is_err() {
            return;
        }
        if ended {
            break;
        }
        tokio::select! {
            () = changed => {}
            () = context.topology.ended.cancelled() => {}
            _ = std::future::poll_fn(|cx| out.poll_reset(cx)) => return,
        }
    }
    let status = status::of(&Error::Known(crate::etcd::errors::SERVER_STOPPED));
    if out.finish(grpc::trailers(&status)).is_ok() {
        record.end(status.code());
    }
}

impl Context {
    fn serving(&self) -> ServingStatus {
        let serving =
            !self.edge.draining.is_cancelled() && self.topology.default().cluster.is_healthy();
        if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
    }
}

fn encode(state: ServingStatus) -> Bytes {
    grpc::encode(&HealthCheckResponse { status: state.into() })
}
