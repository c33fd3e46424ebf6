//! What protects etcd, as configured.

use super::{Class, Line, Shape};
use crate::etcd::method::Method;
use ipnet::IpNet;
use std::{fmt, time::Duration};
use wildmatch::WildMatch;

/// How far a protection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Not looked at.
    Off,
    /// Counts what it would have delayed or refused, and does neither.
    Observe,
    Enforce,
}

impl Mode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }

    /// The one that [`Mode::as_str`] gives this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Off, Self::Observe, Self::Enforce].into_iter().find(|mode| mode.as_str() == name)
    }
}

/// Everything that stands between a load and etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// No protection goes further than this.
    pub mode: Mode,
    /// Bytes of answers held at once, for all clients and clusters.
    pub memory_bytes: u64,
    pub coalescing: CoalescingConfig,
    pub paging: PagingConfig,
    pub queues: QueuesConfig,
    pub space: SpaceConfig,
    pub deletes: DeletesConfig,
    /// How far answers from memory go, as far as the switches let them.
    pub mirror: Mode,
    /// Looked at in their order.
    pub rules: Vec<Rule>,
}

/// Sharing of answers between clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoalescingConfig {
    /// Whether reads of the same thing share one read of etcd.
    pub enabled: bool,
    /// Calls that wait for one answer at most; more are refused.
    pub waiters_max: usize,
    /// Bytes of answers at explicit revisions that are kept; 0 keeps none.
    pub pinned_bytes: u64,
}

/// Cutting of large lists into small ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagingConfig {
    pub enabled: bool,
    /// Bytes of one range, as far as can be foreseen.
    pub page_bytes: u64,
}

/// How many calls etcd gets at once, and how long the others wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuesConfig {
    pub mode: Mode,
    /// Calls on few keys.
    pub reads: QueueConfig,
    pub writes: QueueConfig,
    /// Ranges over many keys; between `concurrency_min` and its `concurrency` as etcd bears them.
    pub lists: QueueConfig,
    pub concurrency_min: u32,
    /// A small read may take this much longer than at rest before lists are slowed down.
    pub latency_margin: Duration,
}

impl QueuesConfig {
    pub const fn of(&self, line: Line) -> &QueueConfig {
        match line {
            Line::Reads => &self.reads,
            Line::Writes => &self.writes,
            Line::Lists => &self.lists,
        }
    }
}

/// One queue of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConfig {
    /// Calls at etcd at once.
    pub concurrency: u32,
    /// Calls that wait; more are refused.
    pub length_max: usize,
    /// What has waited for this long is refused.
    pub wait_max: Duration,
}

/// The slope before etcd's database is full, in percent of its quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceConfig {
    pub mode: Mode,
    /// From here on it is logged and shown.
    pub warn_percent: u32,
    /// From here on creates of little worth are refused: events, and what rules give low priority.
    pub refuse_low_percent: u32,
    /// From here on all creates are refused but those the control plane hangs on.
    pub refuse_percent: u32,
    /// etcd's quota where it does not tell: before 3.6.
    pub quota_bytes: Option<u64>,
}

/// The guard on deletes of many keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletesConfig {
    pub mode: Mode,
    /// Keys that one call may delete by a range.
    pub keys_max: u64,
    /// Clients that may delete more, by name.
    pub clients: Vec<Pattern>,
}

/// Text in which `*` stands for any text and `?` for any character.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern(WildMatch);

// Texts alone differ.
impl Eq for Pattern {}

impl Pattern {
    pub fn new(text: &str) -> Self {
        Self(WildMatch::new(text))
    }

    pub fn matches(&self, text: &str) -> bool {
        self.0.matches(text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One rule: what it is about, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Unique; in metrics, refusals and switches.
    pub name: String,
    pub mode: Mode,
    pub when: Match,
    pub limit: Limit,
    pub quota: Quota,
    /// Share of the queue in proportion to others; the first rule that says one decides.
    pub weight: Option<u32>,
    pub priority: Option<Priority>,
    pub mirror: Option<bool>,
    pub coalesce: Option<bool>,
    pub page: Option<bool>,
    /// Refuses every write.
    pub read_only: bool,
    /// Refuses everything.
    pub deny: bool,
    /// Nothing after this rule is looked at, and no queue is waited in.
    pub exempt: bool,
}

/// All that is given must hold; of each list one entry; an empty list is not looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match {
    /// Whole segments, without a slash at the end: `/registry/events`.
    pub prefixes: Vec<String>,
    pub namespaces: Vec<Pattern>,
    pub classes: Vec<Class>,
    pub shapes: Vec<Shape>,
    pub methods: Vec<Method>,
    /// Names that clients' certificates carry.
    pub clients: Vec<Pattern>,
    pub addresses: Vec<IpNet>,
    pub clusters: Vec<String>,
}

/// What may pass in a time. Calls wait for their turn up to `wait_max` and are refused beyond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    pub requests: Option<Rate>,
    /// Units of cost: see [`super::Cost`].
    pub cost: Option<Rate>,
    pub creates: Option<Rate>,
    /// Calls at etcd at once.
    pub concurrency: Option<u32>,
    /// Time's worth of the rates that may be saved up.
    pub burst: Duration,
    pub wait_max: Duration,
    /// Whatever differs in one of these has a limit of its own.
    pub per: Vec<Per>,
}

/// So many in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    /// A second, a minute or an hour.
    pub period: Duration,
}

/// What may be stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quota {
    /// Keys below each prefix of the rule.
    pub objects: Option<u64>,
    /// Bytes of their values.
    pub bytes: Option<u64>,
    /// Bytes of one value.
    pub value_size: Option<u64>,
    /// Keys that one call may delete by a range; in place of the guard's.
    pub delete_keys: Option<u64>,
    /// Whether each namespace has a quota of its own.
    pub per_namespace: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Per {
    Client,
    Collection,
    Namespace,
}

/// What goes first when calls wait; what is lower still gets a share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}

#[cfg(test)]
impl Config {
    /// Everything holds, and one call of each kind passes at once.
    pub(crate) fn fixture() -> Self {
        let queue =
            || QueueConfig { concurrency: 1, length_max: 100, wait_max: Duration::from_secs(60) };
        let mode = Mode::Enforce;
        Self {
            mode,
            memory_bytes: 64 << 20,
            coalescing: CoalescingConfig { enabled: true, waiters_max: 100, pinned_bytes: 1 << 20 },
            paging: PagingConfig { enabled: true, page_bytes: 1 << 20 },
            queues: QueuesConfig {
                mode,
                reads: queue(),
                writes: queue(),
                lists: queue(),
                concurrency_min: 1,
                latency_margin: Duration::from_millis(5),
            },
            space: SpaceConfig {
                mode,
                warn_percent: 75,
                refuse_low_percent: 85,
                refuse_percent: 95,
                quota_bytes: None,
            },
            deletes: DeletesConfig { mode, keys_max: 10_000, clients: Vec::new() },
            mirror: mode,
            rules: Vec::new(),
        }
    }
}

#[cfg(test)]
impl Rule {
    /// One that is about every call and says nothing.
    pub(crate) fn fixture() -> Self {
        Self {
            name: "fixture".into(),
            mode: Mode::Enforce,
            when: Match::default(),
            limit: Limit {
                requests: None,
                cost: None,
                creates: None,
                concurrency: None,
                burst: Duration::from_secs(10),
                wait_max: Duration::from_secs(15),
                per: Vec::new(),
            },
            quota: Quota::default(),
            weight: None,
            priority: None,
            mirror: None,
            coalesce: None,
            page: None,
            read_only: false,
            deny: false,
            exempt: false,
        }
    }
}
