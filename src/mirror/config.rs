use super::Limits;
use bytes::Bytes;
use std::time::Duration;

/// What is answered from memory, and how much of it that may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Bytes of all collections of one cluster. Over them, values go first, then whole collections,
    /// those that were not read for the longest time before others.
    pub memory_bytes: u64,
    /// What is remembered of the past of each collection.
    pub history: Limits,
    /// A read waits this long for the feed to reach its revision, and is then forwarded.
    pub wait_max: Duration,
    /// Collections that are loaded at once, and kept as long as there is memory for anything.
    pub pinned: Vec<Bytes>,
    /// Between two comparisons of a collection with etcd; `None` for never.
    pub verify_interval: Option<Duration>,
    /// Whether the control plane's own comparisons with etcd are answered, too.
    pub consistency_checks: bool,
}
