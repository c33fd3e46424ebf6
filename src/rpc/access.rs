//! Who may do what, asked before anything else is made of a call.

use super::{Context, error::Error, lease, status};
use crate::{
    access::{self, Need, Verb},
    etcd::{errors, key_range::KeyRange, method::Method},
    grpc::Message,
    pipeline::Responder,
};
use bytes::Bytes;
use std::{pin::pin, time::Duration};
use tokio::time::timeout;

/// Leases that one call may name for a client that may not write every key: each is asked about.
const LEASES_MAX: usize = 128;

/// To count what would be refused holds a call up for so long: a cluster that it is not about may be down.
const COUNTED_MAX: Duration = Duration::from_secs(1);

/// What a request needs for what may be hidden in it.
pub(super) fn hidden(request: &impl prost::Message, message: &Message) -> Vec<Need> {
    if message.is_all_in(request) { Vec::new() } else { Need::everything().collect() }
}

impl Context {
    /// Whether anybody has to be judged at all.
    pub(super) fn judges(&self) -> bool {
        !self.edge.access.is_open()
    }

    /// Gives the responder back if the client may do all of what is needed; else answers the call.
    pub(super) fn allowed<T: prost::Message>(
        &self,
        request: &T,
        message: &Message,
        needs: impl IntoIterator<Item = Need>,
        responder: Responder,
    ) -> Option<Responder> {
        if !self.judges() {
            return Some(responder);
        }
        self.allowed_to(needs.into_iter().chain(hidden(request, message)), responder)
    }

    /// The same for a call that is not judged by its request.
    pub(super) fn allowed_to(
        &self,
        needs: impl IntoIterator<Item = Need>,
        responder: Responder,
    ) -> Option<Responder> {
        if self.may(needs) {
            return Some(responder);
        }
        responder.status(&status::of(&Error::Known(errors::PERMISSION_DENIED)));
        None
    }

    /// Whether the client may do all of what is needed; that it may not is counted and written down.
    pub(super) fn may(&self, needs: impl IntoIterator<Item = Need>) -> bool {
        let method = match self.call.method {
            Some(method) => method.name(),
            None => self.call.path.path(),
        };
        self.edge.access.allows(&self.call.peer.client, method, needs)
    }

    /// The same for every key that is attached to these leases: whoever attaches a key to a lease may
    /// have it deleted with those of others, and whoever revokes one deletes them. A key that another
    /// client attaches at this very moment is overlooked.
    pub(super) async fn allowed_leases(
        &self,
        verb: Verb,
        leases: &[i64],
        mut responder: Responder,
    ) -> Option<Responder> {
        let all = Need::with(verb, KeyRange::prefix(Bytes::new()));
        let access = &self.edge.access;
        if leases.is_empty() || access.lets(&self.call.peer.client, &all) {
            return Some(responder);
        }
        if leases.len() > LEASES_MAX {
            return self.allowed_to([all], responder);
        }
        let patience = if access.enforces() { Duration::MAX } else { COUNTED_MAX };
        for &lease in leases {
            let looking = timeout(patience, lease::attached(self, lease));
            let Ok(attached) = responder.unless_gone(pin!(looking)).await.ok()? else {
                return Some(responder);
            };
            let keys = match attached {
                Ok(keys) => keys,
                // What is only counted fails no call.
                Err(_) if !access.enforces() => return Some(responder),
                Err(error) => {
                    responder.status(&status::of(&error));
                    return None;
                }
            };
            let mut needs = keys.into_iter().map(|key| Need::with(verb, KeyRange::single(key)));
            if let Some(need) = needs.find(|need| !access.lets(&self.call.peer.client, need)) {
                return self.allowed_to([need], responder);
            }
        }
        Some(responder)
    }

    /// For a method whose request does not matter.
    pub(super) fn allowed_method(&self, method: Method, responder: Responder) -> Option<Responder> {
        if !self.judges() {
            return Some(responder);
        }
        self.allowed_to(access::for_method(method), responder)
    }
}
