//! The shape of `mirror`.

use super::{Mode, gib, mib, millis, seconds};
use crate::config::units::{Duration, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is answered from memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Mirror {
    /// How far it goes: `off` holds nothing, `observe` holds and follows collections and counts what
    /// it could have answered, and etcd answers.
    pub(in crate::config) mode: Mode,
    /// Bytes of the collections of one cluster, and of what is remembered of their past. At the bound,
    /// values are given up before keys, and what was not read for longest before the rest. Raising it
    /// costs as much memory.
    pub(in crate::config) memory: Size,
    /// Bytes of its past that are remembered of each collection: continued lists, reads at past
    /// revisions and watches that begin there are answered from it. Raising it costs as much of
    /// `memory`.
    pub(in crate::config) history: Size,
    /// A read waits this long until what etcd has stored is here as well, and is then forwarded.
    /// Raising it makes reads slower when the feed is.
    pub(in crate::config) wait_max: Duration,
    /// Collections that are loaded at once, and given up last: `/registry/pods`. Others are loaded
    /// when they are listed or counted.
    pub(in crate::config) pinned: Vec<String>,
    /// Between two comparisons of a collection with etcd, one collection at a time; 0s for never.
    /// Lowering it costs etcd a list of keys each time.
    pub(in crate::config) verify_interval: Duration,
    /// Whether kube-apiserver's own comparison of its cache with etcd is answered, too. It then
    /// compares with Seawall.
    pub(in crate::config) consistency_checks: bool,
}

impl Default for Mirror {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            // The pods, secrets and config maps of a cluster of a thousand nodes.
            memory: gib(1),
            // Of small objects some 10,000 changes: minutes, which outlast a list's continuation.
            history: mib(16),
            // A feed that is well is behind by a millisecond.
            wait_max: millis(500),
            pinned: Vec::new(),
            // Ten kinds of objects are compared once in 50 minutes.
            verify_interval: seconds(300),
            // The comparison is there to find out what a cache gets wrong.
            consistency_checks: false,
        }
    }
}
