//! Collections in memory: what is in them now and lately, and the answers that etcd would give.
//!
//! [`Object`]s are etcd's own bytes. A [`Snapshot`] is the state of a collection at one revision, a
//! [`History`] what has happened to it; both belong to its [`Store`], which one [`Writer`] changes
//! and everybody reads without waiting.

mod batch;
mod collection;
mod config;
mod cursor;
mod entries;
mod feed;
mod following;
mod history;
mod load;
mod metrics;
#[cfg(test)]
mod model;
mod object;
mod range;
mod reader;
#[cfg(test)]
mod schedules;
mod snapshot;
mod store;
mod tree;
mod turn;
mod verify;

pub use collection::{Collection, State};
pub use config::Config;
pub use cursor::{Batch, Behind, EventMessage, Watcher};
pub use feed::{Running, start};
pub use history::{Event, History, Kind, Limits, Trimmed};
pub use metrics::{Families, Metrics};
pub use object::Object;
pub use range::{Found, Response, Stream, answers};
pub use reader::{Mirror, Pass, Position, is_collection, is_whole};
pub use snapshot::{Snapshot, Tier};
pub use store::{Change, Store, Writer};
pub use tree::{Totals, Tree};
pub use turn::Turn;
