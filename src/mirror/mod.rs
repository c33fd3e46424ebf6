//! Collections in memory: what is in them now and lately, and the answers that etcd would give.
//!
//! [`Object`]s are etcd's own bytes. A [`Snapshot`] is the state of a collection at one revision, a
//! [`History`] what has happened to it; both belong to its [`Store`], which one [`Writer`] changes
//! and everybody reads without waiting.

mod cursor;
mod history;
#[cfg(test)]
mod model;
mod object;
mod range;
mod snapshot;
mod store;
mod tree;

pub use cursor::{Batch, Behind, EventMessage, Watcher};
pub use history::{Event, History, Kind, Limits, Trimmed};
pub use object::Object;
pub use range::{Found, Response, Stream, answers};
pub use snapshot::{Snapshot, Tier};
pub use store::{Change, Store, Writer};
pub use tree::{Totals, Tree};
