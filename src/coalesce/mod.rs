//! One read of etcd for all who ask the same, without anybody seeing the past.
//!
//! A read must reflect every write that was acknowledged before it arrived. So it may share the
//! answer of a read that is sent after it arrived, and of no other: [`Book`] keeps that rule,
//! [`Flights`] carries it out, and leaves time for an answer to be [`Given`] before the next is read.

mod book;
mod flights;
mod given;
#[cfg(test)]
mod interleavings;
mod pinned;
#[cfg(test)]
mod simulation;

pub use book::Book;
pub use flights::{Flights, Fly, Joined, Key, Lead, Outcome, Seal, TooMany, Waiter};
pub use given::Given;
pub use pinned::Pinned;
