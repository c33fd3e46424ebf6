//! The rules as they run.

use super::{
    Bucket, Flow, Limit, Mode, Per, Priority, Queue, QueueConfig, Rule, Subject, metrics::Counters,
    usage::Usage,
};
use bytes::Bytes;
use moka::sync::Cache;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

/// A rule and what has become of its limits.
#[derive(Debug)]
pub(super) struct RunningRule {
    pub(super) name: Arc<str>,
    pub(super) rule: Rule,
    pub(super) counters: Counters,
    /// [`Mode`] as it is now, by the switches too.
    mode: AtomicU8,
    /// By what the limit is told apart by.
    limits: Cache<Flow, Arc<Limits>>,
    /// What is stored, by prefix.
    pub(super) usages: Cache<Bytes, Arc<Usage>>,
}

/// The limits that one client, collection or namespace has by a rule.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) requests: Option<Bucket>,
    pub(super) cost: Option<Bucket>,
    pub(super) creates: Option<Bucket>,
    pub(super) concurrency: Option<Arc<Queue>>,
}

/// What the rules say of a call.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Those that match, in their order.
    pub(super) rules: Vec<Arc<RunningRule>>,
    pub(super) weight: Option<u32>,
    pub(super) priority: Option<Priority>,
    pub(super) coalesce: Option<bool>,
    pub(super) page: Option<bool>,
    pub(super) exempt: bool,
}

/// Clients, collections and namespaces that have limits of their own at once; one that was forgotten
/// begins anew.
const FLOWS_MAX: u64 = 10_000;

/// Limits that nobody ran into for this long are forgotten; any burst is restored by then.
const FLOW_IDLE: Duration = Duration::from_secs(600);

impl RunningRule {
    pub(super) fn new(rule: Rule, counters: Counters) -> Self {
        Self {
            name: rule.name.as_str().into(),
            mode: AtomicU8::new(rule.mode as u8),
            limits: Cache::builder().max_capacity(FLOWS_MAX).time_to_idle(FLOW_IDLE).build(),
            usages: Cache::new(FLOWS_MAX),
            rule,
            counters,
        }
    }

    pub(super) fn mode(&self) -> Mode {
        [Mode::Off, Mode::Observe, Mode::Enforce][usize::from(self.mode.load(Relaxed))]
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Relaxed);
    }

    pub(super) fn limits(&self, subject: &Subject) -> Option<Arc<Limits>> {
        let limit = &self.rule.limit;
        let Limit { requests, cost, creates, concurrency, .. } = limit;
        if requests.is_none() && cost.is_none() && creates.is_none() && concurrency.is_none() {
            return None;
        }
        let of = |per| limit.per.contains(&per);
        let flow = Flow::of((
            of(Per::Client).then_some(&subject.client),
            of(Per::Collection).then_some(&subject.place.collection),
            of(Per::Namespace).then_some(&subject.place.namespace),
        ));
        Some(self.limits.get_with(flow, || Arc::new(Limits::new(limit))))
    }
}

impl Limits {
    fn new(limit: &Limit) -> Self {
        let bucket = |rate| Bucket::new(rate, limit.burst);
        let queue = |concurrency| {
            Arc::new(Queue::new(QueueConfig {
                concurrency,
                // The queue of the class is the one that bounds how many wait.
                length_max: usize::MAX,
                wait_max: limit.wait_max,
            }))
        };
        Self {
            requests: limit.requests.map(bucket),
            cost: limit.cost.map(bucket),
            creates: limit.creates.map(bucket),
            concurrency: limit.concurrency.map(queue),
        }
    }
}

impl Plan {
    pub(super) fn new(rules: &[Arc<RunningRule>], subject: &Subject, cluster: &str) -> Self {
        let mut plan = Self::default();
        for running in rules {
            if running.mode() == Mode::Off || !running.rule.when.matches(subject, cluster) {
                continue;
            }
            // What changes how a call is treated, rather than whether, is not done while observing.
            if running.mode() == Mode::Enforce {
                plan.follow(&running.rule);
            }
            plan.rules.push(Arc::clone(running));
            if plan.exempt {
                break;
            }
        }
        plan
    }

    /// Takes over what a rule says of how the call is treated; what was said before it stays.
    pub(super) fn follow(&mut self, rule: &Rule) {
        self.weight = self.weight.or(rule.weight);
        self.priority = self.priority.or(rule.priority);
        self.coalesce = self.coalesce.or(rule.coalesce);
        self.page = self.page.or(rule.page);
        self.exempt |= rule.exempt;
    }

    pub(super) fn flow(subject: &Subject) -> Flow {
        Flow::of((&subject.client, &subject.place.collection))
    }
}
