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
pub use relay::{Cut, relay, relay_streams};
pub use responder::{Gone, Responder};
pub use steer::steer;
pub use token::{Tokens, has_token};
pub use whole::Whole;

use crate::{
    admission::Class,
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
