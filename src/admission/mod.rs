//! What a call is, and so how it may be treated.

pub mod classify;

pub use classify::Class;
