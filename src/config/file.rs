//! The shape of the configuration file.
//!
//! The comments are the descriptions in the JSON schema: what a key does, and what raising it
//! costs. `Default` gives the defaults, with the reason for each number.

mod access;
mod attribution;
mod mirror;
mod protection;

pub(super) use access::{Access, Grant};
pub(super) use attribution::{Attribution, Trace};
pub(super) use mirror::Mirror;
pub(super) use protection::{
    Coalescing, Deletes, Limit, Match, Mode, Paging, Per, Priority, Protection, Queue, Queues,
    Quota, Rule, Space,
};

use super::units::{Address, Duration, OptionalAddress, Percent, Size, Url};
use crate::{routing::overrides, upstream::Endpoint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time};

/// Configuration of Seawall, a load-protection proxy in front of etcd.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Seawall")]
pub(super) struct File {
    /// Addresses that clients connect to. Without any there is one with all defaults.
    pub(super) listeners: Vec<Listener>,
    /// The etcd clusters behind Seawall, by name. A name appears in routes, logs and metrics and
    /// consists of letters, digits, `-` and `_`.
    pub(super) clusters: BTreeMap<String, Cluster>,
    /// What clients may do; nothing else passes. Without it everybody may do everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) access: Option<Access>,
    /// What stands between a load and etcd.
    pub(super) protection: Protection,
    /// What is answered from memory.
    pub(super) mirror: Mirror,
    /// What is remembered of who loads etcd, and what is logged of it.
    pub(super) attribution: Attribution,
    /// The operator's port: metrics, readiness, status.
    pub(super) admin: Admin,
    /// Threads that carry calls, each with connections of its own to every etcd member; 0 takes one
    /// per core, at most 8. More than there are cores only costs connections.
    #[schemars(range(max = 256))]
    pub(super) workers: u32,
    /// How a stopping process takes leave of its clients.
    pub(super) drain: Drain,
    /// What is logged, and how it looks.
    pub(super) log: Log,
    /// Where traces of calls go. Without it calls are not traced, and the context that a client sends
    /// goes on to etcd as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tracing: Option<Tracing>,
}

/// One address that clients connect to, and where the keys they ask for live.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Listener {
    /// Name in logs, metrics and `seawall explain`.
    pub(super) name: String,
    /// IP address and port to listen on.
    pub(super) address: Address,
    /// Certificates; without them the port speaks plaintext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls: Option<ServerTls>,
    /// URLs that clients are told when they ask for the members of the cluster. Without any, each
    /// is told the address it connected to. Name those of every Seawall that clients may use.
    pub(super) advertise: Vec<Url>,
    /// The cluster of every key that no route takes. May be left out when there is one cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) default: Option<String>,
    /// Prefixes whose keys live in other clusters. A prefix takes whole segments, the longest wins.
    pub(super) routes: Vec<Route>,
    /// Routes in the form of kube-apiserver's flag of this name: `/events#https://a:2379;https://b:2379`,
    /// several of them separated by commas. Clusters that are not among `clusters` are added with
    /// the settings of the default cluster, its certificates included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) etcd_servers_overrides: Option<String>,
    /// kube-apiserver's `--etcd-prefix`, below which `etcd_servers_overrides` are looked for.
    pub(super) etcd_prefix: String,
    /// Connections held at once; more are closed as soon as they are accepted. kube-apiserver opens
    /// one for each kind of resource. Each costs about 50 KiB, with TLS about 100 KiB.
    #[schemars(range(min = 1))]
    pub(super) connections_max: u32,
    /// Calls that one connection may have open, each watch stream being one. More calls of a client
    /// wait on its side.
    #[schemars(range(min = 1))]
    pub(super) streams_per_connection_max: u32,
    /// Bytes of one request that a client may send ahead of Seawall reading them.
    pub(super) stream_window: Size,
    /// The same over all calls of one connection, and so the most memory that a client's unread
    /// requests take on one connection.
    pub(super) connection_window: Size,
    /// Largest request that is taken. etcd refuses those above its `--max-request-bytes` (1.5 MiB)
    /// itself.
    pub(super) request_size_max: Size,
    /// A silent connection is pinged after this long, which finds out clients that are gone.
    pub(super) keepalive_interval: Duration,
    /// A client that does not answer a ping for this long is disconnected.
    pub(super) keepalive_timeout: Duration,
}

/// What is shown to clients and asked of them, under etcd's own names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["cert_file", "key_file"]))]
pub(super) struct ServerTls {
    /// PEM file with the certificate shown to clients, followed by those that link it to its
    /// authority.
    pub(super) cert_file: PathBuf,
    /// PEM file with the key of that certificate.
    pub(super) key_file: PathBuf,
    /// PEM file with the authorities that sign client certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trusted_ca_file: Option<PathBuf>,
    /// Refuse clients that show no certificate of `trusted_ca_file`. Follows from `trusted_ca_file`
    /// being given, as at etcd; with `false`, certificates are optional but checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client_cert_auth: Option<bool>,
    /// The oldest TLS version that is spoken.
    pub(super) min_version: TlsVersion,
    /// A client that has not finished its handshake after this long is disconnected.
    pub(super) handshake_timeout: Duration,
    /// How often the files are looked at for changes.
    pub(super) reload_interval: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) enum TlsVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

/// Sends the key `prefix` and every key below `prefix/` to a cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["prefix", "cluster"]))]
pub(super) struct Route {
    /// Such as `/registry/events`; a slash at its end changes nothing.
    pub(super) prefix: String,
    /// A name among `clusters`.
    pub(super) cluster: String,
}

/// One etcd cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["endpoints"]))]
pub(super) struct Cluster {
    /// Client URLs of its members. List them all, or the others get no calls.
    #[schemars(length(min = 1))]
    pub(super) endpoints: Vec<Url>,
    /// For `https` endpoints.
    pub(super) tls: ClusterTls,
    /// A connection that is not ready after this long has failed.
    pub(super) connect_timeout: Duration,
    /// First pause after a failed connection; it doubles up to `backoff_max`.
    pub(super) backoff_min: Duration,
    /// Longest pause between attempts to connect.
    pub(super) backoff_max: Duration,
    /// A connection with open calls is pinged when it was silent for this long. etcd closes
    /// connections that ping more often than every 5 seconds.
    pub(super) keepalive_interval: Duration,
    /// A member that does not answer a ping for this long loses the connection.
    pub(super) keepalive_timeout: Duration,
    /// How members are found healthy or not.
    pub(super) probe: Probe,
    /// Repeating of reads that failed on one member on another.
    pub(super) retry: Retry,
    /// Connections to each member by kind of call, so that a large list cannot hold up a write.
    pub(super) lanes: Lanes,
}

/// What is shown to etcd and asked of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ClusterTls {
    /// PEM file with the authorities that sign etcd's certificates; without it the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ca_file: Option<PathBuf>,
    /// PEM file with the client certificate shown to etcd; goes with `key_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cert_file: Option<PathBuf>,
    /// PEM file with the key of that certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key_file: Option<PathBuf>,
    /// Name that etcd's certificates must carry, when it is not the host of the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server_name: Option<String>,
    /// How often the files are looked at for changes.
    pub(super) reload_interval: Duration,
}

/// How members are found healthy or not: by a linearizable read and `Status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Probe {
    /// Time between probes of one member; each is a consensus read.
    pub(super) interval: Duration,
    /// A probe that is not answered after this long has failed.
    pub(super) timeout: Duration,
    /// So many failures in a row take a member out until a probe succeeds.
    #[schemars(range(min = 1))]
    pub(super) failures: u32,
}

/// Repeating of reads that failed on one member on another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Retry {
    /// Repeats allowed, in percent of all calls; `0%` repeats nothing. More lets a failing cluster be
    /// hit harder.
    pub(super) budget: Percent,
}

/// Connections of each worker to each member, by kind of call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Lanes {
    /// Calls that stay open: watches, keep-alives, locks and elections.
    pub(super) watch: Lane,
    /// Calls on few keys, transactions and grants of leases.
    pub(super) light: Lane,
    /// Ranges over many keys.
    pub(super) heavy: Lane,
}

/// Connections of one kind, from one worker to one member.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Lane {
    /// Connections at most; calls beyond `connections_max` times `streams_max` wait.
    #[schemars(range(min = 1))]
    pub(super) connections_max: Option<u32>,
    /// With this many calls open on each connection, another one is opened.
    #[schemars(range(min = 1))]
    pub(super) streams_spread: Option<u32>,
    /// Calls on one connection at most.
    #[schemars(range(min = 1))]
    pub(super) streams_max: Option<u32>,
    /// Bytes of one answer that etcd may send ahead of the client reading them. More is faster over
    /// long lines and costs as much memory for each slow client.
    pub(super) stream_window: Option<Size>,
    /// The same over all calls of one connection. Below `streams_max` times `stream_window`, clients
    /// that stop reading can hold up the others on their connection.
    pub(super) connection_window: Option<Size>,
}

/// The operator's port: metrics, readiness, status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admin {
    /// IP address and port, or `off`. Whoever reaches it sees names of keys and clients.
    pub(super) address: OptionalAddress,
    /// Certificates; without them the port speaks plaintext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls: Option<ServerTls>,
    /// File with the token that whoever switches anything has to show; at least 16 characters. It is
    /// read anew each time. Without one, switches are taken from this machine only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_file: Option<PathBuf>,
    /// `/livez` fails when no member of a listener's default cluster has answered for this long.
    pub(super) livez_after: Duration,
}

/// How a stopping process takes leave of its clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Drain {
    /// `/readyz` fails for this long before listeners close, so that balancers look elsewhere first.
    pub(super) delay: Duration,
    /// Calls that still run after this long are cut.
    pub(super) grace: Duration,
}

/// What is logged, and how it looks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter such as `info,seawall::upstream=debug`.
    pub(super) level: String,
    /// For people or for machines.
    pub(super) format: LogFormat,
    /// File that the audit log is written to as well, a line of JSON for each event. SIGHUP opens it
    /// anew, after it was moved away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) audit_file: Option<PathBuf>,
}

/// Where traces of calls go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tracing {
    /// A collector of OpenTelemetry that takes OTLP over gRPC.
    pub(super) endpoint: Url,
    /// One call in so many is traced, and each whose client traces it. Lowering it costs as many spans.
    #[schemars(range(min = 1))]
    pub(super) sample_one_in: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum LogFormat {
    Text,
    Json,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            name: "main".into(),
            // The port of etcd's own grpc-proxy; etcd itself usually has 2379 on the same machine.
            address: Address(SocketAddr::from(([127, 0, 0, 1], 23790))),
            tls: None,
            advertise: Vec::new(),
            default: None,
            routes: Vec::new(),
            etcd_servers_overrides: None,
            etcd_prefix: overrides::ETCD_PREFIX.into(),
            // An apiserver with 1900 custom resources opens about 2000; five of those fit.
            connections_max: 10_000,
            // etcd has no bound; a busy client holds thousands of watches.
            streams_per_connection_max: 10_000,
            // A request of common size arrives without waiting for a window update.
            stream_window: mib(1),
            // Four such requests.
            connection_window: mib(4),
            // gRPC's own bound, above etcd's 2 MiB, so that etcd is the one to refuse.
            request_size_max: mib(4),
            // Clients such as kube-apiserver ping more often than this; it is for the others.
            keepalive_interval: minutes(1),
            // etcd's own.
            keepalive_timeout: seconds(20),
        }
    }
}

impl Default for ServerTls {
    fn default() -> Self {
        Self {
            cert_file: PathBuf::new(),
            key_file: PathBuf::new(),
            trusted_ca_file: None,
            client_cert_auth: None,
            min_version: TlsVersion::Tls12,
            // Many round trips over a bad line; without it, idle sockets would cost connections.
            handshake_timeout: seconds(10),
            reload_interval: RELOAD_INTERVAL,
        }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            tls: ClusterTls::default(),
            // One lost SYN is sent again after a second and once more after three.
            connect_timeout: seconds(3),
            backoff_min: millis(100),
            // A member that restarts is found again within the time its election takes.
            backoff_max: seconds(10),
            // The least that clients of etcd use; see `KEEPALIVE_INTERVAL_MIN`.
            keepalive_interval: seconds(10),
            keepalive_timeout: seconds(10),
            probe: Probe::default(),
            retry: Retry::default(),
            lanes: Lanes::default(),
        }
    }
}

impl Default for ClusterTls {
    fn default() -> Self {
        Self {
            ca_file: None,
            cert_file: None,
            key_file: None,
            server_name: None,
            reload_interval: RELOAD_INTERVAL,
        }
    }
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            interval: seconds(1),
            // kube-apiserver gives its own health check as long.
            timeout: seconds(2),
            // An election (1 s) passes unnoticed.
            failures: 3,
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        // Covers one member of five failing, and bounds what a failing cluster gets on top.
        Self { budget: Percent(20) }
    }
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            // 8192 streams; 128 windows of 64 KiB are the connection's 8 MiB, so that a client
            // which stops reading holds up nobody else.
            watch: lane(64, 32, 128, kib(64), mib(8)),
            // Answers are small, so that windows rarely fill: 64 of them fit at once.
            light: lane(4, 32, 256, kib(256), mib(16)),
            // Few lists at a time, each with room for a whole page, so that etcd never waits for us in
            // the middle of one: that costs it as much as the page. 8 such windows are the 16 MiB.
            heavy: lane(16, 2, 8, mib(2), mib(16)),
        }
    }
}

const fn lane(
    connections_max: u32,
    streams_spread: u32,
    streams_max: u32,
    stream_window: Size,
    connection_window: Size,
) -> Lane {
    Lane {
        connections_max: Some(connections_max),
        streams_spread: Some(streams_spread),
        streams_max: Some(streams_max),
        stream_window: Some(stream_window),
        connection_window: Some(connection_window),
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            // Beside the listener's. Not 2381, where etcd shows its own metrics on kubeadm's machines.
            address: OptionalAddress(Some(SocketAddr::from(([127, 0, 0, 1], 23791)))),
            tls: None,
            token_file: None,
            // Elections and restarts of members end sooner; a restart of Seawall would not help.
            livez_after: seconds(30),
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            delay: seconds(0),
            // Below the 30 s that Kubernetes gives a container.
            grace: seconds(25),
        }
    }
}

impl Default for Tracing {
    fn default() -> Self {
        // A busy apiserver's 5,000 calls a second make five spans a second.
        let endpoint = Endpoint { tls: false, host: "127.0.0.1".into(), port: 4317 };
        Self { endpoint: Url(endpoint), sample_one_in: 1_000 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text, audit_file: None }
    }
}

/// Soon enough for certificates that are renewed days before they expire.
const RELOAD_INTERVAL: Duration = seconds(10);

const fn millis(millis: u64) -> Duration {
    Duration(time::Duration::from_millis(millis))
}

const fn seconds(seconds: u64) -> Duration {
    millis(seconds * 1_000)
}

const fn minutes(minutes: u64) -> Duration {
    seconds(minutes * 60)
}

const fn kib(kib: u64) -> Size {
    Size(kib << 10)
}

const fn mib(mib: u64) -> Size {
    kib(mib << 10)
}

const fn gib(gib: u64) -> Size {
    mib(gib << 10)
}
