use crate::tls;
use std::{net::SocketAddr, time::Duration};

/// One address that clients connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name in logs, metrics and `seawall explain`.
    pub name: String,
    pub address: SocketAddr,
    /// Without it the port speaks plaintext.
    pub tls: Option<tls::AcceptorConfig>,
    /// Connections held at once; more are accepted and closed at once, which the client sees as a
    /// connection that was reset.
    pub connections_max: usize,
    /// Streams (calls) a client may have open on one connection (`SETTINGS_MAX_CONCURRENT_STREAMS`).
    pub streams_per_connection_max: u32,
    /// Bytes of one request a client may send ahead of our reading.
    pub stream_window: u32,
    /// The same over all streams of one connection.
    pub connection_window: u32,
    /// Largest request message; etcd's own limit is 2 MiB unless it was raised there.
    pub request_bytes_max: usize,
    /// A silent connection is pinged after this long ...
    pub keepalive_interval: Duration,
    /// ... and closed when the answer takes longer than this.
    pub keepalive_timeout: Duration,
}
