//! The way of a call, in order: it is **admitted** under its class, **placed** on the cluster that
//! owns its keys, **forwarded** there, and its answer **relayed**.
//!
//! `rpc` decodes requests and decides what a method means on several clusters; here is what every
//! call has in common. May import what is below it.

mod answering;
mod call;
mod census;
mod metrics;
mod mirrored;
mod patience;
mod placement;
mod read;
mod relay;
mod responder;
mod steer;
mod token;
mod turn;
mod whole;

pub use answering::{Answering, send_pieces};
pub use call::{Call, Peer};
pub use census::Counting;
pub use metrics::{Account, Metrics, Record, Totals};
pub use mirrored::{Mirrored, NotMirrored};
pub use patience::{Patience, Stalled};
pub use placement::{Placed, Topology, UnknownCluster};
pub use read::{Failure, Flown, Read, Reads, for_all, is_shareable};
pub use relay::{Cut, LAST_MAX, relay, relay_streams};
pub use responder::{Gone, Responder};
pub use steer::steer;
pub use token::{Tokens, has_token};
pub use whole::Whole;

use crate::{
    admission::{Class, Kind, Shape},
    etcd::method::{Affinity, Effect, Method},
    upstream::{self, Answer, Lane, Outbound},
};
use bytes::Bytes;
use std::sync::Arc;
use tokio::time::timeout_at;

/// How a call is to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    pub class: Class,
    pub lane: Lane,
    pub affinity: Affinity,
    pub effect: Effect,
}

impl Manner {
    /// As the method's row says, under `class`.
    pub fn of(method: Method, class: Class) -> Self {
        let lane = match class {
            Class::Watch => Lane::Watch,
            Class::HeavyList | Class::PagedList => Lane::Heavy,
            _ if method == Method::Snapshot => Lane::Heavy,
            _ => Lane::Light,
        };
        Self { class, lane, affinity: method.affinity(), effect: method.effect() }
    }

    /// The same for a range: whatever reads many keys stays away from what is small, be it in no
    /// hurry. A count has no keys in its answer.
    pub fn of_range(method: Method, kind: Kind) -> Self {
        let lane = match (kind.class, kind.shape) {
            (Class::Critical, _) => Lane::Light,
            (
                _,
                Shape::Keys
                | Shape::Page
                | Shape::CheckPage
                | Shape::BulkPage
                | Shape::List
                | Shape::SortedList,
            ) => Lane::Heavy,
            _ => Lane::Light,
        };
        Self { lane, ..Self::of(method, kind.class) }
    }
}

/// Sends a unary call to the cluster it was placed on and waits for the head of the answer, no
/// longer than the client does.
///
/// # Errors
///
/// See [`upstream::Error`]; statuses that etcd gave are answers.
pub async fn forward(
    placed: &Placed<'_>,
    call: &Call,
    manner: Manner,
    body: Bytes,
) -> Result<Answer, upstream::Error> {
    let outbound = outbound(placed, call, manner, Some(body));
    resend(placed, &outbound, manner).await
}

/// The same for a call that was put together before.
///
/// # Errors
///
/// As of [`forward`].
pub async fn resend(
    placed: &Placed<'_>,
    outbound: &Outbound,
    manner: Manner,
) -> Result<Answer, upstream::Error> {
    let calling = placed.cluster.call(outbound, manner.effect);
    match outbound.deadline {
        Some(deadline) => {
            timeout_at(deadline, calling).await.unwrap_or(Err(upstream::Error::Deadline))
        }
        None => calling.await,
    }
}

/// `call` as it goes to the cluster it was placed on. Without a `body` our side of the stream stays
/// open.
pub fn outbound(placed: &Placed<'_>, call: &Call, manner: Manner, body: Option<Bytes>) -> Outbound {
    let mut headers = Arc::clone(&call.headers);
    placed.tokens().apply(placed.index, &mut headers);
    Outbound {
        path: call.path.clone(),
        headers,
        body,
        lane: manner.lane,
        affinity: manner.affinity,
        worker: call.worker,
        deadline: call.deadline,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admission::classify, etcd::proto::etcdserverpb::RangeRequest};
    use std::collections::HashSet;

    fn range(start: &'static str, end: &'static str) -> RangeRequest {
        RangeRequest { key: start.into(), range_end: end.into(), ..RangeRequest::default() }
    }

    /// Pages of 10,000 objects went on the connections of puts and leases.
    #[test]
    fn ranges_over_many_keys_have_connections_of_their_own() {
        let pods = || range("/registry/pods/", "/registry/pods0");
        let sorted = RangeRequest { max_mod_revision: 7, ..pods() };
        let table = [
            (Lane::Light, range("/registry/health", "")),
            (Lane::Light, range("/registry/pods/a/b", "")),
            (Lane::Light, range("/registry/pods", "")),
            (Lane::Light, RangeRequest { count_only: true, ..pods() }),
            (Lane::Heavy, RangeRequest { keys_only: true, ..pods() }),
            (Lane::Heavy, RangeRequest { limit: 500, ..pods() }),
            (Lane::Heavy, RangeRequest { limit: 10_000, revision: 7, ..pods() }),
            (Lane::Heavy, RangeRequest { limit: 10_000, ..pods() }),
            (Lane::Heavy, pods()),
            (Lane::Heavy, sorted),
        ];
        let shapes: HashSet<_> =
            table.iter().map(|(_, request)| classify::range(request).shape).collect();
        assert_eq!(shapes.len(), table.len(), "each shape that a range can have");
        for (lane, request) in table {
            let manner = Manner::of_range(Method::Range, classify::range(&request));
            assert_eq!(manner.lane, lane, "{request:?}");
        }
        for shape in Shape::ALL.iter().filter(|shape| !shapes.contains(shape)) {
            let lane = Manner::of_range(Method::Range, Kind::of(*shape)).lane;
            assert_eq!(lane, Lane::Light, "{shape:?} is no range");
        }
        let serving = range("/registry/masterleases/", "/registry/masterleases0");
        let manner = Manner::of_range(Method::Range, classify::range(&serving));
        assert_eq!(manner.lane, Lane::Light, "lists of what the control plane hangs on");
    }
}
