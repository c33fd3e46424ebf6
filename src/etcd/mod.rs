//! The vocabulary of etcd: its keys, methods, messages and error texts. Pure, and free of policy.
//!
//! Everything may use this module; it uses nothing of ours.

pub mod errors;
pub mod key_range;
pub mod method;
pub mod proto;
mod range_request;
pub mod range_response;
pub mod wire;
