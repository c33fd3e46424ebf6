//! The etcd clusters behind Seawall.

mod config;

pub use config::{Config, Endpoint, LaneConfig, Lanes, ProbeConfig, RetryConfig, TlsConfig};
