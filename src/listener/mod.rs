//! Where clients connect: bounded accepting, TLS, and HTTP/2 or HTTP/1.1 as the client speaks it.
//!
//! Connections are accepted by one task and served by the data threads, each connection by one of
//! them. May import `rpc`, which serves the calls.

mod accept;
mod config;
mod http1;
mod http2;
mod metrics;

pub use accept::{Listener, acceptor};
pub use config::Config;
pub use metrics::Metrics;
