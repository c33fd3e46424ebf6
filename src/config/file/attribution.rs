//! The shape of `attribution`.

use super::{mib, seconds};
use crate::config::units::{Duration, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is remembered of who loads etcd, and what is logged of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Attribution {
    /// The heaviest clients, prefixes and kinds of calls that are told apart, in each list; lighter
    /// ones may go unnamed. Raising it costs memory and lines of metrics.
    #[schemars(range(min = 1, max = 100_000))]
    pub(in crate::config) entries: u32,
    /// Calls that took longer are logged; watches and other streams are not. Lowering it fills the
    /// log, up to `log_per_minute`.
    pub(in crate::config) slow: Duration,
    /// Calls that moved more bytes are logged.
    pub(in crate::config) heavy: Size,
    /// Lines of that log a minute at most; 0 logs none. What was left out is counted.
    pub(in crate::config) log_per_minute: u32,
    pub(in crate::config) trace: Trace,
}

/// A record of calls, one a line of JSON: shapes, keys, sizes and times, and never values. It is for
/// replaying them, and for `seawall explain --trace`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Trace {
    /// Where it is written, anew with each start; without it nothing is recorded.
    pub(in crate::config) file: Option<PathBuf>,
    /// Recording ends when the file would grow beyond this.
    pub(in crate::config) max: Size,
    /// Whether names of objects and namespaces are replaced by hashes, which are others with each
    /// start.
    pub(in crate::config) hash_keys: bool,
}

impl Default for Attribution {
    fn default() -> Self {
        Self {
            // A large cluster has a few hundred resources and as many clients.
            entries: 1_000,
            // Where kube-apiserver's own objective for calls on one object ends.
            slow: seconds(1),
            // Ten of etcd's largest requests; the list of a resource that is worth knowing.
            heavy: mib(16),
            // One a second: an incident is seen, and does not fill a disk.
            log_per_minute: 60,
            trace: Trace::default(),
        }
    }
}

impl Default for Trace {
    fn default() -> Self {
        // A million calls of usual length.
        Self { file: None, max: mib(256), hash_keys: false }
    }
}
