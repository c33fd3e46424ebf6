//! The configuration file and the flags, turned into the components' own configurations.

use crate::{admin, drain, listener, telemetry, upstream};

/// Everything that was configured, checked and complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// At least one; names and addresses differ.
    pub listeners: Vec<Listener>,
    /// Names differ; every cluster named by a listener is here.
    pub clusters: Vec<upstream::Config>,
    pub admin: Option<admin::Config>,
    /// Data threads, each with its own connections; at least 1.
    pub workers: usize,
    pub drain: drain::Config,
    pub log: telemetry::LogConfig,
}

/// A listener and where its keys live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub listener: listener::Config,
    /// URLs that `MemberList` shows to clients; empty: the address each client connected to.
    pub advertise: Vec<String>,
    /// The cluster of every key that no route takes.
    pub default: String,
    pub routes: Vec<Route>,
}

/// Sends `prefix` and every key below `prefix/` to `cluster`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub prefix: String,
    pub cluster: String,
}
