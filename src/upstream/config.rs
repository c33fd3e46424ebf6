use std::{path::PathBuf, time::Duration};

/// One etcd cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name in routes, logs, metrics and the `seawall-cluster` metadata.
    pub name: String,
    /// At least one; every member of the cluster should be listed.
    pub endpoints: Vec<Endpoint>,
    /// Used for `https` endpoints.
    pub tls: TlsConfig,
    pub connect_timeout: Duration,
    /// First pause after a failed connection; it doubles, with jitter, up to `backoff_max`.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// HTTP/2 ping on a connection with open calls; etcd answers pings faster than 5 s with GOAWAY.
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    pub probe: ProbeConfig,
    pub retry: RetryConfig,
    pub lanes: Lanes<LaneConfig>,
}

/// `http://host:port` or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub tls: bool,
    pub host: String,
    pub port: u16,
}

/// What is shown to etcd and asked of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Authorities that sign the servers' certificates; the system's own when absent.
    pub ca_file: Option<PathBuf>,
    /// Client certificate and key, both or neither.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Name to check in the servers' certificates instead of the host of the URL.
    pub server_name: Option<String>,
    /// How often the files are looked at for changes.
    pub reload_interval: Duration,
}

/// How members are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeConfig {
    /// A linearizable point read and `Status` of each member, this often.
    pub interval: Duration,
    /// A probe without an answer after this long has failed.
    pub timeout: Duration,
    /// So many failed probes in a row take a member out and close its connections.
    pub failures: u32,
}

/// Repeating of reads that failed as unavailable on one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryConfig {
    /// Repeats allowed, in percent of the calls made.
    pub budget_percent: u32,
}

/// One value for each kind of connection; see [`super::Lane`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lanes<T> {
    pub watch: T,
    pub light: T,
    pub heavy: T,
}

/// Connections of one lane to one member, opened by each data thread as it needs them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneConfig {
    /// Connections at most, at least 1; calls beyond `connections_max * streams_max` wait.
    pub connections_max: usize,
    /// With this many calls on every connection another one is opened ...
    pub streams_spread: usize,
    /// ... and no connection takes more than this many.
    pub streams_max: usize,
    /// Bytes of one answer etcd may send ahead of our client's reading.
    pub stream_window: u32,
    /// The same over all calls of one connection.
    pub connection_window: u32,
}

impl<T> Lanes<T> {
    pub fn of(&self, lane: super::Lane) -> &T {
        match lane {
            super::Lane::Watch => &self.watch,
            super::Lane::Light => &self.light,
            super::Lane::Heavy => &self.heavy,
        }
    }
}

impl Endpoint {
    /// `host:port`, with brackets around an IPv6 address, which `host` has not.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

impl TlsConfig {
    pub(super) fn files(&self) -> crate::tls::ConnectorFiles {
        crate::tls::ConnectorFiles {
            protocols: crate::tls::Protocols::Http2,
            ca: self.ca_file.clone(),
            identity: self.cert_file.clone().zip(self.key_file.clone()),
            reload_interval: self.reload_interval,
        }
    }
}
