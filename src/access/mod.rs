//! Who may do what: the names of clients, what they may do, and the keys they may do it with.
//!
//! Without a configuration everybody may do everything, as etcd without authentication has it. With
//! one, what no grant allows is refused in etcd's own words. A call is judged by what it asks for,
//! before it is placed, shared or answered from memory: a range has to lie inside one prefix of one
//! grant as a whole, and so has each operation of a transaction.

mod config;
mod need;
mod policy;

pub use config::{Config, Grant, Verb};
pub use need::{Need, for_method, of_delete, of_lock, of_observe, of_put, of_range, of_txn};
pub use policy::{Access, Verdict};
