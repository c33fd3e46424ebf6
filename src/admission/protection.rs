//! All protections together: what is asked before a call goes to etcd.

use super::{
    Charge, Class, CoalescingConfig, Config, Cost, Costs, Denied, Gate, Growth, Held, Memory, Mode,
    Plan, Refusal, RefusalKind, Slot, SpaceConfig, Subject,
    cost::{is_many, settle},
    gate::{QUEUES, wait},
    metrics::Metrics,
    rules::{Limits, RunningRule},
    writes::WriteGuards,
};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// All protections of the process.
#[derive(Debug)]
pub struct Protection {
    pub(super) current: ArcSwap<Current>,
    pub memory: Arc<Memory>,
    pub costs: Costs,
    pub(super) metrics: Metrics,
    /// By name, so that a cluster keeps its gate when its members change.
    gates: Mutex<HashMap<Arc<str>, Arc<Gate>>>,
    /// What was switched by hand, by the names of protections. Protects `current` from being changed by
    /// two at once.
    pub(super) switches: Mutex<BTreeMap<String, Mode>>,
}

/// What holds at the moment: the configuration as far as the switches let it.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) config: Config,
    pub(super) modes: Modes,
    pub(super) rules: Vec<Arc<RunningRule>>,
    pub(super) writes: WriteGuards,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Modes {
    coalescing: bool,
    paging: bool,
    queues: Mode,
    pub(super) space: Mode,
    pub(super) deletes: Mode,
    pub(super) read_only: Mode,
    mirror: Mode,
}

/// Leave to go to etcd: its place there is given back when this is dropped.
#[derive(Debug, Default)]
pub struct Permit {
    /// In the queue of its class.
    turn: Option<Slot>,
    /// By rules.
    pub(super) slots: Vec<Slot>,
    pub(super) charged: Vec<Arc<Limits>>,
    /// What was charged.
    pub(super) estimate: Cost,
    /// What grows if the call succeeds.
    growth: Vec<Growth>,
    /// Time spent waiting for it.
    pub waited: Duration,
}

/// The permit of a call that has not entered yet. Where it never does, since it is denied or its client
/// leaves, it has cost nothing.
struct Entering(Permit);

impl Entering {
    fn entered(mut self) -> Permit {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Entering {
    fn drop(&mut self) {
        self.0.settle(Cost::default());
    }
}

impl Protection {
    pub fn new(config: Config, registry: &mut Registry) -> Arc<Self> {
        let metrics = Metrics::register(registry);
        for protection in ["space", "deletes", "read_only", "memory", "coalescing"] {
            metrics.protection(protection);
        }
        let memory = Memory::new(config.memory_bytes);
        let switches = BTreeMap::new();
        let current = ArcSwap::from_pointee(Current::new(config, &[], &switches, &metrics));
        Arc::new(Self {
            current,
            memory,
            costs: Costs::default(),
            metrics,
            gates: Mutex::default(),
            switches: Mutex::new(switches),
        })
    }

    /// Takes another configuration over. Rules that have not changed keep what they know; what was
    /// switched by hand stays so.
    pub fn apply(&self, config: Config) {
        self.put_in_force(config, &mut self.switches.lock());
    }

    /// The lock on the switches is held by whoever changes what holds, from reading it to here.
    pub(super) fn put_in_force(&self, config: Config, switches: &mut BTreeMap<String, Mode>) {
        // A rule that goes takes its switch along.
        switches.retain(|name, _| {
            let rule = name.strip_prefix("rules.");
            rule.is_none_or(|name| config.rules.iter().any(|rule| rule.name == name))
        });
        self.memory.set_limit(config.memory_bytes);
        for gate in self.gates.lock().values() {
            gate.reconfigure(&config);
        }
        let before = self.current.load();
        let current = Current::new(config, &before.rules, switches, &self.metrics);
        self.current.store(Arc::new(current));
    }

    /// The queues of a cluster; always the same for a name.
    pub fn gate(&self, cluster: &Arc<str>) -> Arc<Gate> {
        let mut gates = self.gates.lock();
        let gate = gates.entry(Arc::clone(cluster)).or_insert_with(|| {
            Arc::new(Gate::new(cluster, &self.current.load().config, &self.metrics))
        });
        Arc::clone(gate)
    }

    /// Shows nothing more of the queues of a cluster that is gone. Who is in them still has them; a cluster
    /// of that name that comes later gets others.
    pub fn forget(&self, cluster: &str) {
        self.gates.lock().remove(cluster);
        for (_, queue) in QUEUES {
            self.metrics.forget_queue(cluster, queue);
        }
    }

    pub(super) fn current(&self) -> arc_swap::Guard<Arc<Current>> {
        self.current.load()
    }

    pub fn coalescing(&self) -> CoalescingConfig {
        self.current.load().config.coalescing.clone()
    }

    pub fn space(&self) -> SpaceConfig {
        self.current.load().config.space.clone()
    }

    pub fn coalesces(&self, plan: &Plan) -> bool {
        self.current.load().modes.coalescing && plan.coalesce.unwrap_or(true)
    }

    /// How far answers from memory go.
    pub fn mirror(&self) -> Mode {
        self.current.load().modes.mirror
    }

    /// Whether such a call may be answered from memory.
    pub fn recalls(&self, plan: &Plan) -> bool {
        self.mirror() != Mode::Off && plan.mirror.unwrap_or(true)
    }

    pub fn pages(&self, plan: &Plan) -> bool {
        self.current.load().modes.paging && plan.page.unwrap_or(true)
    }

    pub fn page_bytes(&self) -> u64 {
        self.current.load().config.paging.page_bytes
    }

    /// What the rules say of a call, after it has waited for the rates that they set.
    ///
    /// # Errors
    ///
    /// When one refuses it.
    pub async fn plan(
        &self,
        gate: &Gate,
        subject: &Subject,
        deadline: Option<Instant>,
    ) -> Result<Plan, Denied> {
        let mut plan = self.planned(subject, &gate.cluster);
        let mut delay = Duration::ZERO;
        for running in std::mem::take(&mut plan.rules) {
            let Some(wait) = running.admit(subject, deadline)? else {
                // It has no more to say of a call that it would have refused.
                gate.would_refuse(subject.class);
                continue;
            };
            delay = delay.max(wait);
            plan.rules.push(running);
        }
        wait(delay).await;
        Ok(plan)
    }

    /// What the rules say of a call before it has come to them.
    pub(super) fn planned(&self, subject: &Subject, cluster: &str) -> Plan {
        // What the control plane hangs on meets no protection at all.
        if subject.class == Class::Critical {
            return Plan { exempt: true, ..Plan::default() };
        }
        Plan::new(&self.current().rules, subject, cluster)
    }

    /// Waits for the call's turn at etcd, after what its rules charge it with.
    ///
    /// # Errors
    ///
    /// When there is no turn, or none in time.
    pub async fn enter(
        &self,
        gate: &Gate,
        subject: &Subject,
        plan: &Plan,
        deadline: Option<Instant>,
    ) -> Result<Permit, Denied> {
        let mut entering = Entering(self.charge(gate, subject, plan, deadline).await?);
        let (units, began) = (entering.0.estimate.units(), Instant::now());
        let queues = self.queues(plan);
        entering.0.turn = gate.enter(queues, subject, plan, units, deadline).await?;
        entering.0.waited += began.elapsed();
        Ok(entering.entered())
    }

    /// Charges a call with its estimated cost, and waits for its place, by the rules that it obeys.
    ///
    /// # Errors
    ///
    /// When one refuses it.
    pub async fn charge(
        &self,
        gate: &Gate,
        subject: &Subject,
        plan: &Plan,
        deadline: Option<Instant>,
    ) -> Result<Permit, Denied> {
        let began = Instant::now();
        let estimate = self.costs.estimate(&gate.cluster, subject);
        let mut entering = Entering(Permit { estimate, ..Permit::default() });
        for running in &plan.rules {
            running.charge(gate, subject, &mut entering.0, deadline).await?;
        }
        entering.0.waited = began.elapsed();
        Ok(entering.entered())
    }

    /// Waits for a turn in the queue of the call's class, whatever rules there are.
    ///
    /// # Errors
    ///
    /// When there is no turn, or none in time.
    pub async fn turn(
        &self,
        gate: &Gate,
        subject: &Subject,
        plan: &Plan,
        deadline: Option<Instant>,
    ) -> Result<Permit, Denied> {
        let began = Instant::now();
        let estimate = self.costs.estimate(&gate.cluster, subject);
        let turn = gate.enter(self.queues(plan), subject, plan, estimate.units(), deadline).await?;
        Ok(Permit { turn, estimate, waited: began.elapsed(), ..Permit::default() })
    }

    /// Whether a call that does not enter by itself, but waits for a read that others may share,
    /// would have its turn in time: the read has no deadline.
    ///
    /// # Errors
    ///
    /// When it would not.
    pub fn check_deadline(
        &self,
        gate: &Gate,
        subject: &Subject,
        plan: &Plan,
        deadline: Option<Instant>,
    ) -> Result<(), Denied> {
        gate.check_deadline(self.queues(plan), subject, plan, deadline)
    }

    /// How far queues go for a call.
    pub(super) fn queues(&self, plan: &Plan) -> Mode {
        if plan.exempt { Mode::Off } else { self.current().modes.queues }
    }

    /// Waits for room to hold an answer of `bytes`. `None` if it is larger than all the room there
    /// is.
    ///
    /// # Errors
    ///
    /// When there is none for as long as a list may wait.
    pub async fn hold(
        &self,
        bytes: u64,
        deadline: Option<Instant>,
    ) -> Result<Option<Held>, Denied> {
        if bytes > self.memory.limit() {
            return Ok(None);
        }
        if let Some(held) = self.memory.try_hold(bytes) {
            return Ok(Some(held));
        }
        self.metrics.protection("memory").of(Mode::Enforce).delayed.inc();
        let wait_max = self.current().config.queues.lists.wait_max;
        let limit = Instant::now() + wait_max;
        let until = deadline.map_or(limit, |deadline| deadline.min(limit));
        match tokio::time::timeout_at(until, self.memory.hold(bytes)).await {
            Ok(held) => Ok(Some(held)),
            Err(_) if deadline.is_some_and(|deadline| deadline <= until) => Err(Denied::Expired),
            Err(_) => Err(self.no_room(bytes, &format!(" within {}s", wait_max.as_secs()))),
        }
    }

    /// Takes more room for an answer, up to `bytes` in all. It has a part already, and so waits for
    /// nobody.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn grow(&self, held: &mut Held, bytes: u64) -> Result<(), Denied> {
        held.grow_to(bytes).then_some(()).ok_or_else(|| self.no_room(bytes, ""))
    }

    fn no_room(&self, bytes: u64, within: &str) -> Denied {
        self.metrics.protection("memory").of(Mode::Enforce).refused.inc();
        Denied::Refused(Refusal {
            kind: RefusalKind::Load,
            rule: "memory".into(),
            reason: format!(
                "there was no room for {bytes} bytes{within}, {} of {} being used",
                self.memory.used(),
                self.memory.limit()
            ),
            remedy: "raise protection.memory",
            pushback: Some(Duration::from_secs(1)),
        })
    }

    /// Room for an answer whose client has stalled; counted as a refusal where there is none.
    pub fn hold_stalled(&self, bytes: u64) -> Option<Held> {
        let held = self.memory.try_hold(bytes);
        if held.is_none() {
            self.metrics.protection("memory").of(Mode::Enforce).refused.inc();
        }
        held
    }

    /// Resolves when somebody waits for room, and counts as a refusal that another has to give way.
    pub async fn room_wanted(&self) {
        self.memory.wanted().await;
        self.metrics.protection("memory").of(Mode::Enforce).refused.inc();
    }

    /// Counts a call that was refused because too many wait for the same answer, and says so.
    pub fn too_many_waiters(&self, waiting: usize) -> Denied {
        self.metrics.protection("coalescing").of(Mode::Enforce).refused.inc();
        Denied::Refused(Refusal {
            kind: RefusalKind::Load,
            rule: "coalescing".into(),
            reason: format!("{waiting} calls wait for this answer already"),
            remedy: "raise protection.coalescing.waiters_max",
            pushback: Some(Duration::from_secs(1)),
        })
    }

    /// Puts what is held into its metric.
    pub fn publish(&self) {
        self.metrics.held.set(self.memory.used() as i64);
    }

    /// All gates, by the names of their clusters.
    pub fn gates(&self) -> Vec<Arc<Gate>> {
        let mut gates: Vec<_> = self.gates.lock().values().cloned().collect();
        gates.sort_by(|one, other| one.cluster.cmp(&other.cluster));
        gates
    }
}

impl Current {
    fn new(
        config: Config,
        before: &[Arc<RunningRule>],
        switches: &BTreeMap<String, Mode>,
        metrics: &Metrics,
    ) -> Self {
        let rules: Vec<_> = config
            .rules
            .iter()
            .map(|rule| {
                let length_max = config.queues.length_max(rule);
                if let Some(same) = before.iter().find(|running| running.rule == *rule) {
                    same.set_length_max(length_max);
                    return Arc::clone(same);
                }
                let counters = metrics.protection(&format!("rules.{}", rule.name));
                Arc::new(RunningRule::new(rule.clone(), length_max, counters))
            })
            .collect();
        let off = Modes {
            coalescing: false,
            paging: false,
            queues: Mode::Off,
            space: Mode::Off,
            deletes: Mode::Off,
            read_only: Mode::Off,
            mirror: Mode::Off,
        };
        let mut this = Self { config, modes: off, rules, writes: WriteGuards::new(metrics) };
        for running in &this.rules {
            let name = format!("rules.{}", running.name);
            let mode = switches.get(&name).copied().unwrap_or(running.rule.mode);
            running.set_mode(mode.min(this.mode("all", switches)));
        }
        this.modes = Modes {
            coalescing: this.mode("coalescing", switches) == Mode::Enforce,
            paging: this.mode("paging", switches) == Mode::Enforce,
            queues: this.mode("queues", switches),
            space: this.mode("space", switches),
            deletes: this.mode("deletes", switches),
            read_only: this.mode("read_only", switches),
            mirror: this.mode("mirror", switches),
        };
        this
    }

    /// How far a built-in protection goes: what it was switched to, else what is configured, and no
    /// further than all may.
    pub(super) fn mode(&self, name: &str, switches: &BTreeMap<String, Mode>) -> Mode {
        let whether = |enabled| if enabled { Mode::Enforce } else { Mode::Off };
        let config = &self.config;
        let configured = match name {
            "all" => return switches.get(name).copied().unwrap_or(config.mode),
            "coalescing" => whether(config.coalescing.enabled),
            "paging" => whether(config.paging.enabled),
            "queues" => config.queues.mode,
            "space" => config.space.mode,
            "deletes" => config.deletes.mode,
            "mirror" => config.mirror,
            // Only ever switched on by hand.
            _ => Mode::Off,
        };
        let mode = switches.get(name).copied().unwrap_or(configured);
        mode.min(self.mode("all", switches))
    }
}

impl Permit {
    /// The call has cost so much: the rates it was charged to are put right.
    pub fn settle(&self, cost: Cost) {
        settle(&self.charged, self.estimate, cost);
    }

    /// What it was charged with, for who learns what the call has cost; `None` where nothing hangs on
    /// that.
    pub fn take_charge(
        &mut self,
        protection: &Arc<Protection>,
        subject: &Subject,
    ) -> Option<Charge> {
        let limits = std::mem::take(&mut self.charged);
        let matters = !limits.is_empty() || is_many(subject);
        let charge =
            || Charge { protection: Arc::clone(protection), limits, estimate: self.estimate };
        matters.then(charge)
    }

    /// The same for a write by which this grows.
    pub fn growing(self, growth: Vec<Growth>) -> Self {
        Self { growth, ..self }
    }

    /// Whether anything hangs on the call's success.
    pub fn grows(&self) -> bool {
        !self.growth.is_empty()
    }

    /// The call is on its way to etcd.
    pub fn send(&mut self) {
        self.growth.iter_mut().for_each(Growth::send);
    }

    /// etcd has said whether it has stored what it was to store.
    pub fn end(&mut self, stored: bool) {
        self.growth.drain(..).for_each(|growth| growth.end(stored));
    }

    /// The call's turn among those of its class, for who gives it back while the call goes on. What rules
    /// have charged it with stays, and so do its places under their concurrency.
    pub fn take_turn(&mut self) -> Option<Slot> {
        self.turn.take()
    }

    /// What was charged.
    pub fn estimate(&self) -> Cost {
        self.estimate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_anothers_turn_is_told_at_once_that_it_comes_too_late() {
        let protection = Protection::new(Config::fixture(), &mut Default::default());
        let gate = protection.gate(&"main".into());
        let list = Subject { class: Class::HeavyList, ..Subject::fixture("/a") };
        let plan = Plan::default();
        let enter = async || protection.enter(&gate, &list, &plan, None).await.expect("its turn");
        let check = |seconds| {
            let deadline = Instant::now() + Duration::from_secs(seconds);
            protection.check_deadline(&gate, &list, &plan, Some(deadline))
        };
        // By which it is learnt what a list takes.
        let first = enter().await;
        advance(Duration::from_secs(20)).await;
        drop(first);
        assert_eq!(check(1), Ok(()), "there is room");
        let running = enter().await;
        let Err(Denied::Refused(refusal)) = check(1) else { panic!("it may wait") };
        assert_eq!(&*refusal.rule, "queues.lists");
        assert!(refusal.reason.contains("its turn would come in 2000ms"), "{refusal}");
        assert_eq!(check(3), Ok(()));
        let exempt = Plan { exempt: true, ..Plan::default() };
        assert_eq!(protection.check_deadline(&gate, &list, &exempt, Some(Instant::now())), Ok(()));
        drop(running);
    }

    /// Queues were observed for a week and would have refused nothing; enforced, they refused every
    /// list that others may share and that was in a hurry.
    #[tokio::test(start_paused = true)]
    async fn who_would_wait_too_long_for_anothers_turn_is_counted_while_observing() {
        let mut config = Config::fixture();
        config.queues.mode = Mode::Observe;
        let protection = Protection::new(config, &mut Default::default());
        let gate = protection.gate(&"main".into());
        let list = Subject { class: Class::HeavyList, ..Subject::fixture("/a") };
        let plan = Plan::default();
        let enter = async || protection.enter(&gate, &list, &plan, None).await.expect("it passes");
        let first = enter().await;
        tokio::time::advance(Duration::from_secs(20)).await;
        drop(first);
        let _running = enter().await;
        let deadline = Some(Instant::now() + Duration::from_secs(1));
        assert_eq!(protection.check_deadline(&gate, &list, &plan, deadline), Ok(()));
        let counters = protection.metrics.protection("queues.lists");
        assert_eq!(counters.figures(), [0, 0, 0, 1]);
    }
}
