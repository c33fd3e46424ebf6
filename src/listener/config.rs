use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// One address that clients connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name in logs, metrics and `seawall explain`.
    pub name: String,
    pub address: SocketAddr,
    /// Without it the port speaks plaintext.
    pub tls: Option<TlsConfig>,
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

/// What a listener shows to clients and asks of them, under etcd's own names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM file with the certificate chain shown to clients.
    pub cert_file: PathBuf,
    /// PEM file with its private key.
    pub key_file: PathBuf,
    /// PEM file with the authorities that sign client certificates.
    pub trusted_ca_file: Option<PathBuf>,
    /// Refuse clients that show no certificate signed by `trusted_ca_file`.
    pub client_cert_auth: bool,
    pub min_version: TlsVersion,
    /// A client that has not finished its handshake after this long is disconnected.
    pub handshake_timeout: Duration,
    /// How often the files are looked at for changes.
    pub reload_interval: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}
