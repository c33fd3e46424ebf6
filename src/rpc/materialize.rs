//! Leases on the clusters where their keys live.
//!
//! A lease carries no key, so it is granted on the default cluster. A key that is attached to it
//! may live on another cluster, which does not know it: the lease is granted there under the same
//! id when the first such write is refused for its sake. Nothing is remembered. All that is needed
//! is known to etcd, so this works after a restart and with several Seawalls side by side.

use super::Context;
use crate::{
    etcd::{
        errors::LEASE_NOT_FOUND,
        method::Method,
        proto::etcdserverpb::{
            LeaseGrantRequest, LeaseGrantResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
        },
    },
    pipeline::{self, Manner, Placed},
    upstream::{self, Answer, Outbound},
};
use http::HeaderMap;
use std::sync::Arc;
use tonic::{Code, Status};

/// Makes a write that attaches keys to `leases` on a cluster that is not the default one. The
/// write is sent a second time only after etcd said that it did not carry out the first.
pub(super) async fn with_leases(
    context: &Context,
    placed: &Placed<'_>,
    outbound: &Outbound,
    manner: Manner,
    leases: &[i64],
) -> Result<Answer, upstream::Error> {
    let answer = pipeline::resend(placed, outbound, manner).await?;
    if !is_lease_not_found(&answer) {
        return Ok(answer);
    }
    for &lease in leases {
        // A lease that cannot be had leaves the second try with the error of the first.
        materialize(context, placed, lease).await?;
    }
    pipeline::resend(placed, outbound, manner).await
}

/// Grants `lease` of the default cluster on the one of `placed` too, if it exists.
///
/// With the lease's whole time, not what remains of it: a lease can be renewed only to the time it
/// was granted with, and keys must not vanish early. A lease that is never renewed thus lives
/// longer here by what had passed before its first key.
pub(super) async fn materialize(
    context: &Context,
    placed: &Placed<'_>,
    lease: i64,
) -> Result<(), upstream::Error> {
    let call = &context.call;
    let default = context.topology.default();
    let request = LeaseTimeToLiveRequest { id: lease, keys: false };
    let headers = credentials(context, &default);
    let known = default
        .cluster
        .ask::<LeaseTimeToLiveResponse>(
            Method::LeaseTimeToLive,
            &request,
            headers,
            call.worker,
            call.deadline,
        )
        .await?;
    let granted = match known {
        // Rounded down: a lease in its last second has 0 left, one that does not exist -1.
        Ok(LeaseTimeToLiveResponse { ttl, granted_ttl, .. }) if ttl >= 0 => granted_ttl,
        Ok(_) => return Ok(()),
        Err(status) => return log(placed, lease, &status),
    };
    let request = LeaseGrantRequest { id: lease, ttl: granted };
    let headers = credentials(context, placed);
    let grant = placed.cluster.ask::<LeaseGrantResponse>(
        Method::LeaseGrant,
        &request,
        headers,
        call.worker,
        call.deadline,
    );
    match grant.await? {
        // Two writes may find the lease missing at once.
        Err(status) if status.code() != Code::FailedPrecondition => log(placed, lease, &status),
        _ => Ok(()),
    }
}

fn log(placed: &Placed<'_>, lease: i64, status: &Status) -> Result<(), upstream::Error> {
    let (cluster, lease) = (&*placed.cluster.name, format!("{lease:x}"));
    tracing::warn!(cluster, lease, %status, "lease could not be granted where its key lives");
    Ok(())
}

/// The client's credentials for the cluster, so that what Seawall asks on its behalf is judged by
/// its permissions.
pub(super) fn credentials(context: &Context, placed: &Placed<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in ["token", "authorization"] {
        if let Some(value) = context.call.headers.get(name) {
            headers.insert(name, value.clone());
        }
    }
    let mut headers = Arc::new(headers);
    placed.tokens().apply(placed.index, &mut headers);
    Arc::unwrap_or_clone(headers)
}

fn is_lease_not_found(answer: &Answer) -> bool {
    answer.refusal().is_some_and(|status| (status.code(), status.message()) == LEASE_NOT_FOUND)
}
