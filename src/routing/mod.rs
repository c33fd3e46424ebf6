//! Which cluster owns a key.
//!
//! Decides from keys alone, and knows clusters only as values it was given. Promises the next
//! stage that every key of a call lies where it is sent. Uses only the vocabulary of etcd.

pub mod overrides;
mod table;
pub mod txn;

pub use table::{Error, Located, Route, Segment, Table, normalize};
