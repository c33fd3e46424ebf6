//! The rules as they run.

use super::{
    Bucket, Class, Denied, Flow, Gate, Limit, Line, Mode, Per, Permit, Priority, Queue,
    QueueConfig, QueuesConfig, Refusal, RefusalKind, Rule, Subject, Ticket,
    gate::{pass, wait},
    metrics::Counters,
    usage::Usage,
};
use bytes::Bytes;
use moka::{policy::EvictionPolicy, sync::Cache};
use std::{
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

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
    /// Calls that may wait for each limit of concurrency.
    length_max: AtomicUsize,
    /// What is stored, by cluster and prefix.
    pub(super) usages: Cache<(Arc<str>, Bytes), Arc<Usage>>,
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
    pub(super) mirror: Option<bool>,
    pub(super) coalesce: Option<bool>,
    pub(super) page: Option<bool>,
    pub(super) exempt: bool,
}

/// How a read is made for those whose plans are alike, whatever rules charge each of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Treatment {
    weight: Option<u32>,
    priority: Option<Priority>,
    page: Option<bool>,
    exempt: bool,
}

/// Clients, collections and namespaces that have limits of their own at once, less than a KiB each.
/// Of more than that the one that has been idle for longest begins anew, and none before: what it owes
/// may take it hours.
const FLOWS_MAX: u64 = 10_000;

/// Keeps those that were used last.
fn latest<K: Hash + Eq + Send + Sync + 'static, V: Clone + Send + Sync + 'static>() -> Cache<K, V> {
    let policy = EvictionPolicy::lru();
    Cache::builder().max_capacity(FLOWS_MAX).eviction_policy(policy).build()
}

impl RunningRule {
    pub(super) fn new(rule: Rule, length_max: usize, counters: Counters) -> Self {
        Self {
            name: rule.name.as_str().into(),
            mode: AtomicU8::new(rule.mode as u8),
            limits: latest(),
            length_max: length_max.into(),
            usages: latest(),
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

    /// Counts what would have become until now of the calls that are only observed.
    pub(super) fn settle(&self) {
        if self.mode() != Mode::Observe || self.rule.limit.concurrency.is_none() {
            return;
        }
        for (_, limits) in &self.limits {
            limits.concurrency.as_ref().map(|queue| queue.settle());
        }
    }

    pub(super) fn set_length_max(&self, length_max: usize) {
        if self.length_max.swap(length_max, Relaxed) == length_max {
            return;
        }
        let config = self.rule.limit.queue(length_max);
        for (_, limits) in &self.limits {
            if let (Some(queue), Some(config)) = (&limits.concurrency, &config) {
                queue.reconfigure(config.clone());
            }
        }
    }

    pub(super) fn limits(&self, subject: &Subject) -> Option<Arc<Limits>> {
        let limit = &self.rule.limit;
        let Limit { requests, cost, creates, concurrency, .. } = limit;
        if requests.is_none() && cost.is_none() && creates.is_none() && concurrency.is_none() {
            return None;
        }
        let of = |per| limit.per.contains(&per);
        let flow = Flow::of((
            of(Per::Client).then_some(&subject.client.name),
            of(Per::Collection).then_some(&subject.place.collection),
            of(Per::Namespace).then_some(&subject.place.namespace),
        ));
        let new = || Arc::new(Limits::new(limit, self.length_max.load(Relaxed)));
        Some(self.limits.get_with(flow, new))
    }
}

impl RunningRule {
    /// Takes the call's share of the rates and tells how long it waits for it; `None` if it would
    /// have been refused.
    pub(super) fn admit(
        &self,
        subject: &Subject,
        deadline: Option<Instant>,
    ) -> Result<Option<Duration>, Denied> {
        let (mode, rule) = (self.mode(), &self.rule);
        if let Some(refusal) = rule.forbids(subject) {
            return self.refuse_with(mode, refusal).map(|()| None);
        }
        let Some(limits) = self.limits(subject) else { return Ok(Some(Duration::ZERO)) };
        let creates = limits.creates.as_ref().filter(|_| subject.may_create());
        let mut delay = Duration::ZERO;
        for (bucket, what) in [(limits.requests.as_ref(), REQUESTS), (creates, CREATES)] {
            let Some(bucket) = bucket else { continue };
            let Some(wait) = self.take(bucket, 1.0, what, deadline)? else { return Ok(None) };
            delay = delay.max(wait);
        }
        Ok(Some(delay))
    }

    /// Charges the estimated cost and takes a place under the rule's concurrency.
    pub(super) async fn charge(
        &self,
        gate: &Gate,
        subject: &Subject,
        permit: &mut Permit,
        deadline: Option<Instant>,
    ) -> Result<(), Denied> {
        let Some(limits) = self.limits(subject) else { return Ok(()) };
        let units = permit.estimate.units();
        if let Some(bucket) = &limits.cost {
            // One that would have been refused has cost nothing, and would have come no further.
            let Some(delay) = self.take(bucket, units, COST, deadline)? else {
                gate.would_refuse(subject.class);
                return Ok(());
            };
            permit.charged.push(Arc::clone(&limits));
            wait(delay).await;
        }
        let Some(queue) = &limits.concurrency else { return Ok(()) };
        let ticket = Ticket {
            flow: Plan::flow(subject),
            priority: Priority::Normal,
            weight: 1,
            cost: units,
            deadline,
        };
        let would_refuse = gate.class_counter(subject.class);
        let passing =
            pass(queue, &self.name, &self.counters, self.mode(), ticket, would_refuse).await;
        permit.slots.push(passing.0.map_err(|denied| match denied {
            // What a queue tells to raise is the queue's own.
            Denied::Refused(refusal) => Denied::Refused(Refusal { remedy: CONCURRENCY, ..refusal }),
            Denied::Expired => Denied::Expired,
        })?);
        Ok(())
    }

    /// The wait for `units` of a rate: none while only observing, and `None` if they would have been
    /// refused.
    fn take(
        &self,
        bucket: &Bucket,
        units: f64,
        (what, remedy): (&str, &'static str),
        deadline: Option<Instant>,
    ) -> Result<Option<Duration>, Denied> {
        let (mode, limit) = (self.mode(), &self.rule.limit);
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let wait_max = left.map_or(limit.wait_max, |left| left.min(limit.wait_max));
        match bucket.take(units, wait_max) {
            Ok(wait) if wait.is_zero() => Ok(Some(wait)),
            Ok(wait) => {
                self.counters.of(mode).delayed.inc();
                Ok(Some(if mode == Mode::Enforce { wait } else { Duration::ZERO }))
            }
            Err(wait) => {
                let reason = format!(
                    "too many {what}: its turn would come in {}ms, and it may wait {}ms",
                    wait.as_millis(),
                    wait_max.as_millis()
                );
                self.refuse_until(mode, RefusalKind::Load, reason, remedy, Some(wait))?;
                Ok(None)
            }
        }
    }

    pub(super) fn refuse(
        &self,
        mode: Mode,
        kind: RefusalKind,
        reason: String,
        remedy: &'static str,
    ) -> Result<(), Denied> {
        self.refuse_until(mode, kind, reason, remedy, None)
    }

    fn refuse_until(
        &self,
        mode: Mode,
        kind: RefusalKind,
        reason: String,
        remedy: &'static str,
        pushback: Option<Duration>,
    ) -> Result<(), Denied> {
        let rule = Arc::clone(&self.name);
        self.refuse_with(mode, Refusal { kind, rule, reason, remedy, pushback })
    }

    /// Counts the refusal, and refuses unless only observing.
    fn refuse_with(&self, mode: Mode, refusal: Refusal) -> Result<(), Denied> {
        self.counters.of(mode).refused.inc();
        if mode == Mode::Enforce { Err(Denied::Refused(refusal)) } else { Ok(()) }
    }
}

const REQUESTS: (&str, &str) = ("requests", "raise its limit.requests");
const CREATES: (&str, &str) = ("creates", "raise its limit.creates");
const COST: (&str, &str) = ("units of cost", "raise its limit.cost");
const CONCURRENCY: &str =
    "raise its limit.concurrency or limit.wait_max, or length_max of the queue of its class";

impl Limits {
    fn new(limit: &Limit, length_max: usize) -> Self {
        let bucket = |rate| Bucket::new(rate, limit.burst);
        Self {
            requests: limit.requests.map(bucket),
            cost: limit.cost.map(bucket),
            creates: limit.creates.map(bucket),
            concurrency: limit.queue(length_max).map(|config| Arc::new(Queue::new(config))),
        }
    }
}

impl Limit {
    /// The queue of those that wait for others under the limit of concurrency.
    fn queue(&self, length_max: usize) -> Option<QueueConfig> {
        let wait_max = self.wait_max;
        self.concurrency.map(|concurrency| QueueConfig { concurrency, length_max, wait_max })
    }
}

impl QueuesConfig {
    /// Calls that may wait for a limit of the rule: as many as wait in the longest of the queues in
    /// which its calls wait after that.
    pub(super) fn length_max(&self, rule: &Rule) -> usize {
        let classes =
            if rule.when.classes.is_empty() { &Class::ALL[..] } else { &rule.when.classes };
        let lines = classes.iter().filter_map(|class| Line::of(*class));
        let longest = lines.map(|line| self.of(line).length_max).max();
        longest.unwrap_or(self.reads.length_max)
    }
}

/// The rules that are about a call, in their order and each with its mode, up to one that exempts it.
pub(super) fn matching<'r>(
    rules: &'r [Arc<RunningRule>],
    subject: &Subject,
    cluster: &str,
) -> impl Iterator<Item = (&'r Arc<RunningRule>, Mode)> {
    let about = rules.iter().filter(|running| running.rule.when.matches(subject, cluster));
    let mut exempt = false;
    about.map(|running| (running, running.mode())).take_while(move |(running, mode)| {
        let goes_on = !exempt;
        exempt = running.rule.exempt && *mode == Mode::Enforce;
        goes_on
    })
}

impl Plan {
    pub(super) fn new(rules: &[Arc<RunningRule>], subject: &Subject, cluster: &str) -> Self {
        let mut plan = Self::default();
        for (running, mode) in matching(rules, subject, cluster) {
            // What changes how a call is treated, rather than whether, is not done while observing.
            if mode == Mode::Enforce {
                plan.follow(&running.rule);
            }
            if mode != Mode::Off {
                plan.rules.push(Arc::clone(running));
            }
        }
        plan
    }

    /// Takes over what a rule says of how the call is treated; what was said before it stays.
    fn follow(&mut self, rule: &Rule) {
        self.weight = self.weight.or(rule.weight);
        self.priority = self.priority.or(rule.priority);
        self.mirror = self.mirror.or(rule.mirror);
        self.coalesce = self.coalesce.or(rule.coalesce);
        self.page = self.page.or(rule.page);
        self.exempt |= rule.exempt;
    }

    /// Whether a rule may charge the call with anything.
    pub fn charges(&self) -> bool {
        !self.rules.is_empty()
    }

    /// How the call is treated, whoever asks: calls may only share what is treated alike.
    pub fn treatment(&self) -> Treatment {
        let Self { weight, priority, page, exempt, .. } = *self;
        Treatment { weight, priority, page, exempt }
    }

    pub(super) fn flow(subject: &Subject) -> Flow {
        Flow::of((&subject.client.name, &subject.place.collection))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{
        Client, Config, Cost, Permit, Protection, Rate, Shape, metrics::Metrics,
    };
    use futures_util::FutureExt;

    const HOUR: Duration = Duration::from_secs(3600);

    fn with_rule(mode: Mode, limit: Limit) -> Arc<Protection> {
        let rule = Rule { mode, limit, ..Rule::fixture() };
        let config = Config { rules: vec![rule], ..Config::fixture() };
        Protection::new(config, &mut Default::default())
    }

    /// Goes to etcd as a call does, costs this in the end, and tells whether it was let.
    async fn call(protection: &Protection, cost: Cost) -> bool {
        let (gate, subject) = (protection.gate(&"main".into()), Subject::fixture("/a"));
        let Ok(plan) = protection.plan(&gate, &subject, None).await else { return false };
        let entered = protection.enter(&gate, &subject, &plan, None).await;
        entered.map(|permit| permit.settle(cost)).is_ok()
    }

    /// Lists of a collection under a rule, and what they go by.
    struct Lists {
        protection: Arc<Protection>,
        gate: Arc<Gate>,
        list: Subject,
        plan: Plan,
    }

    impl Lists {
        async fn under(limit: Limit) -> Self {
            let protection = with_rule(Mode::Enforce, limit);
            let (gate, shape) = (protection.gate(&"main".into()), Shape::List);
            let list = Subject { class: Class::HeavyList, shape, ..Subject::fixture("/a/") };
            let plan = protection.plan(&gate, &list, None).await.expect("it passes");
            Self { protection, gate, list, plan }
        }

        async fn enter(&self) -> Result<Permit, Denied> {
            self.protection.enter(&self.gate, &self.list, &self.plan, None).await
        }
    }

    /// Where there is room for one list, by its rule or in the queue of its class, and for the cost of few.
    async fn each_for_one(wait_max: Duration) -> [Lists; 2] {
        let cost = Some(Rate { count: 100, period: HOUR });
        let limit = Limit { cost, burst: HOUR, wait_max, ..Rule::fixture().limit };
        let by_rule = Limit { concurrency: Some(1), ..limit.clone() };
        [Lists::under(by_rule).await, Lists::under(limit).await]
    }

    #[tokio::test(start_paused = true)]
    async fn what_would_have_been_refused_is_not_settled() {
        let expensive = Cost { keys: 0, bytes: 100_000_000 };
        let mut figures = Vec::new();
        for mode in [Mode::Enforce, Mode::Observe] {
            let cost = Some(Rate { count: 2, period: HOUR });
            let protection = with_rule(mode, Limit { cost, ..Rule::fixture().limit });
            assert!(call(&protection, Cost::default()).await);
            assert_eq!(call(&protection, expensive).await, mode == Mode::Observe);
            // What the first one took is there again.
            tokio::time::advance(HOUR).await;
            assert!(call(&protection, Cost::default()).await);
            let standings = protection.standings();
            let rule = standings.iter().find(|standing| standing.protection == "rules.fixture");
            let rule = rule.expect("it stands");
            figures.push((rule.refused + rule.would_refuse, rule.delayed + rule.would_delay));
        }
        assert_eq!(figures, [(1, 0), (1, 0)]);
    }

    /// A rule with both limits charged calls that it then had no place for, until it refused all.
    #[tokio::test(start_paused = true)]
    async fn what_finds_no_place_has_cost_nothing() {
        for lists in each_for_one(Duration::ZERO).await {
            let first = lists.enter().await.expect("a turn");
            for _ in 0..10 {
                lists.enter().await.expect_err("there is no place");
            }
            drop(first);
            lists.enter().await.expect("what it may cost is there");
        }
    }

    /// Clients that gave up while they waited for their turn had paid for it all the same, until they were
    /// refused what they never got.
    #[tokio::test(start_paused = true)]
    async fn who_leaves_before_its_turn_has_cost_nothing() {
        for lists in each_for_one(Duration::from_secs(10)).await {
            let first = lists.enter().await.expect("a turn");
            for _ in 0..10 {
                assert!(lists.enter().now_or_never().is_none(), "it waits");
            }
            drop(first);
            lists.enter().await.expect("what it may cost is there");
        }
    }

    /// Limits that were idle for ten minutes began anew, whatever they still owed.
    #[test]
    fn of_too_many_limits_that_begins_anew_which_was_idle_for_longest() {
        let requests = Some(Rate { count: 1, period: HOUR });
        let limit = Limit { requests, per: vec![Per::Client], ..Rule::fixture().limit };
        let counters = Metrics::register(&mut Default::default()).protection("rules.fixture");
        let rule = RunningRule::new(Rule { limit, ..Rule::fixture() }, 1, counters);
        // It goes by the time of day, which no test turns.
        assert_eq!(rule.limits.policy().time_to_idle(), None);
        let of = |client: u64| {
            let name = client.to_string().into();
            let client = Arc::new(Client { name, address: [127, 0, 0, 1].into() });
            rule.limits(&Subject { client, ..Subject::fixture("/a") }).expect("it limits")
        };
        // Who has called more often stays no longer for that.
        let known: Vec<_> = (0..3 * FLOWS_MAX).map(|call| of(call % FLOWS_MAX)).collect();
        rule.limits.run_pending_tasks();
        let newest = of(FLOWS_MAX);
        rule.limits.run_pending_tasks();
        let is_same = |client: u64, limits| Arc::ptr_eq(&of(client), limits);
        assert!(is_same(FLOWS_MAX, &newest) && is_same(1, &known[1]) && !is_same(0, &known[0]));
    }

    /// A rule that allows one at a time allowed a second one when the first had taken long.
    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_queue_of_its_class_keeps_its_place_by_a_rule() {
        let (concurrency, wait_max) = (Some(1), Duration::ZERO);
        let limit = Limit { concurrency, wait_max, ..Rule::fixture().limit };
        let lists = Lists::under(limit).await;
        let mut first = lists.enter().await.expect("a turn");
        drop(first.take_turn());
        assert_eq!(lists.gate.lists().0, 0);
        lists.enter().await.expect_err("one is there");
        drop(first);
        lists.enter().await.expect("its place");
    }

    /// A limit of one call at a time let any number of calls wait for it, whatever `length_max` said.
    #[tokio::test(start_paused = true)]
    async fn no_more_wait_for_a_rule_than_for_the_queue_of_their_class() {
        let limit = Limit { concurrency: Some(1), ..Rule::fixture().limit };
        let protection = with_rule(Mode::Enforce, limit.clone());
        let (gate, subject) = (protection.gate(&"main".into()), Subject::fixture("/a"));
        let plan = protection.plan(&gate, &subject, None).await.expect("it passes");
        let _running = protection.enter(&gate, &subject, &plan, None).await.expect("its turn");
        let mut waiting = Vec::new();
        for length_max in [3, 5] {
            let rules = vec![Rule { limit: limit.clone(), ..Rule::fixture() }];
            let mut config = Config { rules, ..Config::fixture() };
            let queues = &mut config.queues;
            for queue in [&mut queues.reads, &mut queues.writes, &mut queues.lists] {
                queue.length_max = length_max;
            }
            protection.apply(config);
            while waiting.len() < length_max {
                let mut next = Box::pin(protection.enter(&gate, &subject, &plan, None));
                assert!((&mut next).now_or_never().is_none(), "it waits");
                waiting.push(next);
            }
            let one_more = Box::pin(protection.enter(&gate, &subject, &plan, None));
            let Some(Err(Denied::Refused(refusal))) = one_more.now_or_never() else {
                panic!("one too many waits");
            };
            assert_eq!((&*refusal.rule, refusal.remedy), ("fixture", CONCURRENCY));
        }
    }
}
