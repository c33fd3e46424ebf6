//! `Watch`: one stream of a client, one stream to each cluster that its watchers' keys live in, one
//! more for those that memory could serve, and one task for those of a cluster that it does serve.
//!
//! Watchers keep the ids that etcd would give them, so events go through as bytes. Requests are
//! handled in their order by the session's loop; each upstream stream has a task that relays its
//! responses, message by message, into the client's stream.

mod away;
mod head;
mod homecoming;
mod ids;
mod memory;
mod outlet;
mod seat;
mod session;
mod upstreams;

use super::{Context, error::Error, status};
use crate::{
    admission::Class,
    etcd::{errors, method::Method},
    grpc::Incoming,
    pipeline::{Manner, Responder},
    upstream,
};
use session::Session;
use std::future::pending;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

/// How the loop of a stream ended.
enum End {
    /// The client has left.
    Gone,
    /// The client is told why.
    Status(Status),
}

pub(super) async fn watch(context: Context, incoming: Incoming, mut responder: Responder) {
    let manner = Manner::of(Method::Watch, Class::Watch);
    responder.record.placed(manner.class, &context.topology.default().cluster.name);
    let mut session = Session::new(&context, manner, responder);
    let end = tokio::select! {
        end = session.run(incoming) => end,
        // Between two messages, and so that clients open their watchers anew elsewhere: at another
        // Seawall, or where their keys are now.
        () = context.topology.ended.cancelled() => stopped(),
        () = deadline(context.call.deadline) => {
            End::Status(status::of(&Error::Upstream(upstream::Error::Deadline)))
        }
    };
    session.finish(end).await;
}

/// etcd keeps the client's deadline too, and breaks the stream off without a word.
async fn deadline(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

fn stopped() -> End {
    End::Status(status::of(&Error::Known(errors::SERVER_STOPPED)))
}
