//! The shape of `protection`.

use super::{gib, kib, mib, millis, seconds};
use crate::{
    admission::{Class, Shape},
    config::units::{Duration, Network, Percent, Rate, Size},
    etcd::method::Method,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What stands between a load and etcd.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Protection {
    /// How far protections go at most, whatever they say themselves: `off` does not look at calls,
    /// `observe` counts what would have been delayed or refused, and does neither.
    pub(in crate::config) mode: Mode,
    /// Bytes of answers held at once, for all clients and clusters. At the bound, what is only kept
    /// for later is given up, then lists wait for those before them, and clients that have stopped
    /// reading an answer from the mirror are reset. Raising it costs as much memory.
    pub(in crate::config) memory: Size,
    /// Sharing of answers between clients.
    pub(in crate::config) coalescing: Coalescing,
    /// Cutting of large lists into small ranges.
    pub(in crate::config) paging: Paging,
    /// How many calls etcd gets at once, and how long the others wait.
    pub(in crate::config) queues: Queues,
    /// The slope before etcd's database is full, in percent of its quota.
    pub(in crate::config) space: Space,
    /// The guard on deletes of many keys.
    pub(in crate::config) deletes: Deletes,
    /// What holds for some calls only. All rules that match a call hold, in their order.
    pub(in crate::config) rules: Vec<Rule>,
}

/// How far a protection goes.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Mode {
    /// Not looked at.
    Off,
    /// Counts what it would have delayed or refused, and does neither.
    Observe,
    /// Delays and refuses.
    // Whoever writes a protection down wants it; that it only observes is for the file to say.
    #[default]
    Enforce,
}

/// Sharing of answers between clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Coalescing {
    /// Whether reads of the same thing that arrive before etcd is asked share one read of etcd.
    pub(in crate::config) enabled: bool,
    /// Calls that wait for one answer at most; more are refused. Each costs a few KiB.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) waiters_max: u32,
    /// Bytes of answers at explicit revisions, which never change, that are kept; `0B` keeps none.
    /// They are part of `memory`.
    pub(in crate::config) pinned: Size,
}

/// Cutting of large lists into small ranges at one revision, so that etcd holds one page of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Paging {
    /// Whether it is done.
    pub(in crate::config) enabled: bool,
    /// Bytes of one range, as far as can be foreseen. Larger ones are fewer calls, and hold up etcd
    /// for longer each.
    pub(in crate::config) page_size: Size,
}

/// How many calls each cluster gets at once, and how long the others wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Queues {
    /// `off` and `observe` hold back nothing.
    pub(in crate::config) mode: Mode,
    /// Reads of few keys.
    pub(in crate::config) reads: Queue,
    /// Writes.
    pub(in crate::config) writes: Queue,
    /// Ranges over many keys. Their `concurrency` is the most; how many there are at a time follows
    /// from how etcd bears them.
    pub(in crate::config) lists: Queue,
    /// Lists at etcd at once that are let through however slow it is.
    #[schemars(range(min = 1))]
    pub(in crate::config) concurrency_min: u32,
    /// A small read, and watches after it, may take this much longer than at rest before fewer lists
    /// are let through. Raising it favours lists over everything else.
    pub(in crate::config) latency_margin: Duration,
}

/// One queue of one cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Queue {
    /// Calls at etcd at once. Raising it lets a load reach etcd that its queue would have kept.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) concurrency: Option<u32>,
    /// Calls that wait; more are refused, and with 0 none waits. Each costs a few KiB.
    #[schemars(range(max = 1_000_000))]
    pub(in crate::config) length_max: Option<u32>,
    /// What has waited for this long is refused. Raising it has clients wait where they could have
    /// been told.
    pub(in crate::config) wait_max: Option<Duration>,
}

/// The slope before etcd's database is full: at its quota etcd takes no writes until an operator
/// acts. Deletes and compaction always pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Space {
    /// `observe` warns, and refuses nothing.
    pub(in crate::config) mode: Mode,
    /// From here on it is logged and shown. In percent of etcd's quota, as all that follow.
    pub(in crate::config) warn: Percent,
    /// From here on creates of little worth are refused: events, and what rules give low priority.
    pub(in crate::config) refuse_low: Percent,
    /// From here on all creates are refused but those the control plane hangs on.
    pub(in crate::config) refuse: Percent,
    /// etcd's `--quota-backend-bytes` where etcd does not tell it: before 3.6. Without it there is no
    /// slope there; below the real one, creates are refused that etcd has room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) quota: Option<Size>,
}

/// The guard on deletes of many keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Deletes {
    /// `observe` logs such deletes, and lets them pass.
    pub(in crate::config) mode: Mode,
    /// Keys that one call may delete by a range. Raising it lets a slip of the hand delete more.
    #[schemars(range(min = 1))]
    pub(in crate::config) keys_max: u64,
    /// Clients that may delete more, by the name in their certificate, or by address without one;
    /// `*` stands for any text, `?` for any character.
    pub(in crate::config) clients: Vec<String>,
}

/// What some calls may do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name"]))]
pub(in crate::config) struct Rule {
    /// Unique name in metrics, refusals and logs: letters, digits, `-` and `_`.
    pub(in crate::config) name: String,
    /// `observe` counts what the rule would have delayed or refused, and does neither.
    pub(in crate::config) mode: Mode,
    /// The calls it is about; without it, all.
    #[serde(rename = "match")]
    pub(in crate::config) when: Match,
    /// What may pass in a time.
    pub(in crate::config) limit: Limit,
    /// What may be stored.
    pub(in crate::config) quota: Quota,
    /// Share of the queue in proportion to others, who have 1. The first rule that says one decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub(in crate::config) weight: Option<u32>,
    /// What goes first when calls wait; what is lower still gets a share. The first rule that says
    /// one decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) priority: Option<Priority>,
    /// Whether these reads share answers. The first rule that says it decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) coalesce: Option<bool>,
    /// Whether these reads are answered from memory. The first rule that says it decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) mirror: Option<bool>,
    /// Whether these lists are cut into pages. The first rule that says it decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) page: Option<bool>,
    /// Refuses every write.
    pub(in crate::config) read_only: bool,
    /// Refuses everything.
    pub(in crate::config) deny: bool,
    /// No rule after this one is looked at, and no queue is waited in.
    pub(in crate::config) exempt: bool,
}

/// The calls a rule is about: all that is given must hold, of each list one entry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Match {
    /// Such as `/registry/events`: that key and every key below it. A slash at its end changes
    /// nothing.
    pub(in crate::config) prefixes: Vec<String>,
    /// Namespaces of Kubernetes that all keys of a call lie in; `*` stands for any text, `?` for any
    /// character.
    pub(in crate::config) namespaces: Vec<String>,
    /// Classes of calls, as in metrics and in `seawall explain`.
    #[schemars(schema_with = "class_names")]
    pub(in crate::config) classes: Vec<String>,
    /// Shapes of requests, finer than classes.
    #[schemars(schema_with = "shape_names")]
    pub(in crate::config) shapes: Vec<String>,
    /// Methods of etcd's API without their service, such as `Txn`.
    #[schemars(schema_with = "method_names")]
    pub(in crate::config) methods: Vec<String>,
    /// Names in clients' certificates, or addresses of those without one; `*` stands for any text,
    /// `?` for any character.
    pub(in crate::config) clients: Vec<String>,
    /// Addresses that clients connect from.
    pub(in crate::config) addresses: Vec<Network>,
    /// Names among `clusters`.
    pub(in crate::config) clusters: Vec<String>,
}

/// What may pass in a time. Calls wait for their turn, and are refused after `wait_max`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Limit {
    /// Calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) requests: Option<Rate>,
    /// What the calls cost etcd: 1 for each, 1 for each 1,000 keys that etcd walks for it, 1 for each
    /// 100 kB of its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) cost: Option<Rate>,
    /// Keys that are new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) creates: Option<Rate>,
    /// Calls at etcd at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(in crate::config) concurrency: Option<u32>,
    /// What the rates allow in this time may be saved up, and then pass at once.
    pub(in crate::config) burst: Duration,
    /// A call whose turn is further away is refused; with `0s` none waits.
    pub(in crate::config) wait_max: Duration,
    /// Whatever differs in one of these has a limit of its own; without any, all share one.
    pub(in crate::config) per: Vec<Per>,
}

/// What may be stored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Quota {
    /// Keys below each prefix of the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) objects: Option<u64>,
    /// Bytes of these keys: their number times their mean size, which is that of all where they are
    /// in memory, else that of the values written here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) bytes: Option<Size>,
    /// Bytes of one value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) value_size: Option<Size>,
    /// Keys that one call may delete by a range, in place of `protection.deletes.keys_max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) delete_keys: Option<u64>,
    /// Whether each namespace has `objects` and `bytes` of its own.
    pub(in crate::config) per_namespace: bool,
}

/// By what limits are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Per {
    Client,
    /// The keys of one resource.
    Collection,
    Namespace,
}

/// What goes first when calls wait.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Priority {
    High,
    Normal,
    Low,
}

impl Default for Protection {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            // A fraction of what an etcd of 8 GiB takes for itself, and ten lists of 100 MiB.
            memory: gib(1),
            coalescing: Coalescing::default(),
            paging: Paging::default(),
            queues: Queues::default(),
            space: Space::default(),
            deletes: Deletes::default(),
            rules: Vec::new(),
        }
    }
}

impl Default for Coalescing {
    fn default() -> Self {
        Self {
            enabled: true,
            // As many as one connection has streams: the kubelets of a large cluster, all at once.
            waiters_max: 10_000,
            // The pages that several clients who began together read one after the other.
            pinned: mib(64),
        }
    }
}

impl Default for Paging {
    fn default() -> Self {
        Self {
            enabled: true,
            // Read within a millisecond, which is how long one holds up what else etcd has to do. With
            // 1 MiB small calls beside lists take half as long again, with 64 KiB there are a third fewer lists.
            page_size: kib(256),
        }
    }
}

impl Default for Queues {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            // Twice what etcd answers at its best within the 5 ms that a small call takes at 50,000
            // a second. Nodes renew their leases every 10 s and are missed after 40 s: a wait of 10 s
            // leaves them two more attempts. Twenty thousand are drained within that time.
            reads: queue(512, 20_000, seconds(10)),
            writes: queue(512, 20_000, seconds(10)),
            // A list keeps one of etcd's cores busy; two at a time are as fast as four, and cost small
            // calls half as much (docs/benchmarks.md). As long as kube-apiserver gives a request.
            lists: queue(2, 1_000, seconds(60)),
            // However slow etcd is, lists go on.
            concurrency_min: 1,
            // Half of what etcd's own guidance allows a write to its disk (10 ms).
            latency_margin: millis(5),
        }
    }
}

const fn queue(concurrency: u32, length_max: u32, wait_max: Duration) -> Queue {
    Queue { concurrency: Some(concurrency), length_max: Some(length_max), wait_max: Some(wait_max) }
}

impl Default for Space {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            // A quarter is left: time for an operator to act by day.
            warn: Percent(75),
            // Events are the most that clusters write, and the least that they miss.
            refuse_low: Percent(85),
            // What is left takes the updates by which a cluster goes on, and its repair.
            refuse: Percent(95),
            // A guess below the real one would stop a healthy cluster.
            quota: None,
        }
    }
}

impl Default for Deletes {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            // No client of Kubernetes deletes by ranges. Others clean up by thousands at most; beyond
            // that it is a slip of the hand, and nothing brings the keys back.
            keys_max: 10_000,
            clients: Vec::new(),
        }
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            requests: None,
            cost: None,
            creates: None,
            concurrency: None,
            // Controllers work in bursts: a rollout or a restart passes, a loop does not.
            burst: seconds(10),
            // A quarter of what kube-apiserver gives a request.
            wait_max: seconds(15),
            per: Vec::new(),
        }
    }
}

fn class_names(_: &mut SchemaGenerator) -> Schema {
    names(Class::ALL.iter().map(|class| class.as_str()))
}

fn shape_names(_: &mut SchemaGenerator) -> Schema {
    names(Shape::ALL.iter().map(|shape| shape.as_str()))
}

fn method_names(_: &mut SchemaGenerator) -> Schema {
    names(Method::ALL.iter().map(|method| method.name()))
}

/// For editors; validation decides, which knows what was meant by others.
fn names<'a>(known: impl Iterator<Item = &'a str>) -> Schema {
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    known.dedup();
    json_schema!({ "type": "array", "items": { "type": "string", "enum": known } })
}
