use std::{net::SocketAddr, time::Duration};

/// The operator's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub address: SocketAddr,
    /// `/livez` fails when no member of a listener's default cluster has answered for this long.
    pub livez_after: Duration,
}
