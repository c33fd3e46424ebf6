//! The etcd clusters behind Seawall: which members they have, how those are, and calls to them.
//!
//! A call asks a [`Cluster`] for a place on a connection to a suitable [`Member`]; what it gets is
//! an [`Exchange`], and from that an [`Answer`]. Nothing here knows where a call came from.

mod ask;
mod balance;
mod cluster;
mod config;
mod connect;
mod error;
mod exchange;
mod lane;
#[cfg(test)]
pub(crate) mod loopback;
mod member;
mod metrics;
mod probe;
mod retry;
mod timeline;

pub use ask::{CONTROL, outbound};
pub use balance::MEMBERS_MAX;
pub use cluster::{Cluster, Identity};
pub use config::{Config, Endpoint, LaneConfig, Lanes, ProbeConfig, RetryConfig, TlsConfig};
pub use error::Error;
pub use exchange::{Answer, Exchange, Outbound};
pub use lane::{Lane, Slot};
pub use member::{Member, State};
pub use metrics::Metrics;
pub use probe::is_about_permission;
pub use timeline::Timeline;
