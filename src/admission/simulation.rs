//! All that stands before a cluster under a clock that stands still until everybody waits, by
//! thousands of seeds.
//!
//! Calls of all classes and several clients come, wait, are refused, take their time at etcd, hold
//! memory and leave when they like, while an operator changes bounds and switches protections. Each
//! promise is one [`Broken`], and each is shown to be seen by a world that makes a [`Mistake`].

mod bound;
mod fairness;
mod observing;

use super::{
    Class, Client, Config, Cost, Denied, Gate, Held, Limit, Line, Mode, Permit, Place, Protection,
    QueueConfig, Rate, Rule, Shape, Subject,
};
use crate::etcd::key_range::KeyRange;
use futures_util::FutureExt;
use parking_lot::Mutex;
use seawall_testkit::{Choices, each_seed};
use std::{mem, pin::pin, sync::Arc, time::Duration};
use tokio::{
    task::{JoinSet, yield_now},
    time::{Instant, sleep, timeout},
};

/// What must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    CriticalWaits,
    /// More wait than any bound that there was lets wait.
    Unbounded,
    /// Somebody waits where there is room.
    Idle,
    /// Somebody waits past its deadline, or past all waits that there are.
    WaitsTooLong,
    /// A list waits for memory while there is some that is only kept.
    CacheOutlivesLists,
    /// Turns, places or bytes are not given back.
    Left,
}

/// What a world can do wrong, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    /// What the control plane hangs on is taken for a write.
    QueuesCritical,
    ForgetsLength,
    /// Who gets a turn learns of it only at its next look.
    LooksRarely,
    ForgetsDeadlines,
    KeepsCache,
    /// A client that leaves takes its turn along.
    TakesAlong,
}

const MISTAKES: [(Mistake, Broken); 6] = [
    (Mistake::QueuesCritical, Broken::CriticalWaits),
    (Mistake::ForgetsLength, Broken::Unbounded),
    (Mistake::LooksRarely, Broken::Idle),
    (Mistake::ForgetsDeadlines, Broken::WaitsTooLong),
    (Mistake::KeepsCache, Broken::CacheOutlivesLists),
    (Mistake::TakesAlong, Broken::Left),
];

const CALLS: usize = 40;
const CHANGES: usize = 6;
const LENGTH_MAX: usize = 8;
const MEMORY: u64 = 100;
/// Of each queue, and of each limit of the rule.
const WAIT_MAX: Duration = Duration::from_millis(300);
/// All waits one after the other: for two rates, the rule's turn, the queue's turn, and memory.
const WAITS: Duration = Duration::from_millis(5 * 300 + 5);

/// Everything happens at even milliseconds, so that much happens at once, and is looked at between.
fn millis(choices: &mut Choices, of: usize) -> Duration {
    Duration::from_millis(2 * choices.pick(of) as u64)
}

/// What a call is, and what becomes of it.
#[derive(Clone)]
struct Plan {
    subject: Subject,
    arrives: Duration,
    patience: Option<Duration>,
    leaves: Option<Duration>,
    service: Duration,
    bytes: u64,
    cost: Cost,
}

impl Plan {
    fn new(choices: &mut Choices) -> Self {
        const SHAPES: [Shape; 9] = [
            Shape::Health,
            Shape::Lease,
            Shape::Put,
            Shape::Get,
            Shape::CurrentRevision,
            Shape::Page,
            Shape::List,
            Shape::Count,
            Shape::Watch,
        ];
        let shape = SHAPES[choices.pick(SHAPES.len())];
        let keys = KeyRange::single(["/registry/a/x", "/registry/b/x"][choices.pick(2)].into());
        let address = [127, 0, 0, 1 + choices.pick(3) as u8].into();
        let client = Client { name: "client".into(), address };
        let subject = Subject {
            shape,
            class: shape.class(),
            place: Place::of(&keys),
            keys: Some(keys),
            client: Arc::new(client),
            ..Subject::fixture("")
        };
        let is_list = matches!(subject.class, Class::PagedList | Class::HeavyList);
        Self {
            subject,
            arrives: millis(choices, 60),
            patience: (choices.pick(3) == 0).then(|| millis(choices, 40)),
            leaves: (choices.pick(4) == 0).then(|| millis(choices, 60)),
            service: millis(choices, 15),
            bytes: if is_list { choices.pick(60) as u64 } else { 0 },
            cost: Cost { keys: choices.pick(5_000) as u64, bytes: 0 },
        }
    }
}

fn config(choices: &mut Choices, mistake: Mistake) -> Config {
    let length_max = choices.pick(LENGTH_MAX + 1);
    let length_max = if mistake == Mistake::ForgetsLength { usize::MAX } else { length_max };
    let mut queue =
        || QueueConfig { concurrency: 1 + choices.pick(3) as u32, length_max, wait_max: WAIT_MAX };
    let mut config = Config::fixture();
    (config.queues.reads, config.queues.writes, config.queues.lists) = (queue(), queue(), queue());
    config.memory_bytes = MEMORY - 20 * choices.pick(3) as u64;
    config.rules = vec![rule()];
    config
}

/// Slows lists down and has a turn of its own for each client.
fn rule() -> Rule {
    let rate = |count| Some(Rate { count, period: Duration::from_secs(1) });
    let limit = Limit {
        requests: rate(500),
        cost: rate(2_000),
        concurrency: Some(2),
        burst: Duration::from_millis(20),
        wait_max: WAIT_MAX,
        per: vec![super::Per::Client],
        ..Rule::fixture().limit
    };
    let mut rule = Rule { limit, ..Rule::fixture() };
    rule.when.classes = vec![Class::PagedList, Class::HeavyList, Class::Background];
    rule
}

#[derive(Clone)]
struct World {
    protection: Arc<Protection>,
    gate: Arc<Gate>,
    mistake: Mistake,
    /// What is only kept: an answer that nobody waits for.
    cache: Arc<Mutex<Option<Held>>>,
    /// Calls at etcd, by queue.
    served: Arc<Mutex<Vec<&'static str>>>,
    broken: Arc<Mutex<Vec<(Broken, String)>>>,
}

impl World {
    fn new(choices: &mut Choices, mistake: Mistake) -> Self {
        let protection = Protection::new(config(choices, mistake), &mut Default::default());
        let cache: Arc<Mutex<Option<Held>>> = Arc::default();
        if mistake != Mistake::KeepsCache {
            let cache = Arc::clone(&cache);
            protection.memory.reclaim_by(move || drop(cache.lock().take()));
        }
        let gate = protection.gate(&"main".into());
        Self { protection, gate, mistake, cache, served: Arc::default(), broken: Arc::default() }
    }

    fn broke(&self, what: Broken, how: String) {
        self.broken.lock().push((what, how));
    }

    /// Comes, and leaves when it is served, refused or has had enough.
    async fn call(self, plan: Plan) {
        sleep(plan.arrives).await;
        let Some(leaves) = plan.leaves else { return self.serve(&plan, None).await };
        // Where a client that takes its turn along puts it.
        let taken = Mutex::new(None);
        let left = timeout(leaves, self.serve(&plan, Some(&taken))).await.is_err();
        if left && self.mistake == Mistake::TakesAlong {
            mem::forget(taken.into_inner());
        }
    }

    async fn serve(&self, plan: &Plan, kept: Option<&Mutex<Option<Permit>>>) {
        let began = Instant::now();
        let deadline = plan.patience.map(|patience| began + patience);
        let entered = self.enter(plan, deadline).await;
        self.check_wait(plan, began.elapsed(), &entered);
        let Ok((permit, held, _served)) = entered else { return };
        let permit = match kept {
            // It is etcd's turn that counts, wherever it is kept.
            Some(kept) if self.mistake == Mistake::TakesAlong => {
                *kept.lock() = Some(permit);
                None
            }
            _ => Some(permit),
        };
        sleep(plan.service).await;
        if let Some(permit) = permit.or_else(|| kept.and_then(|kept| kept.lock().take())) {
            permit.settle(plan.cost);
        }
        // What was answered may be kept for others.
        if plan.bytes > 0 && plan.bytes.is_multiple_of(3) {
            *self.cache.lock() = held;
        }
    }

    /// As a call does on its way to etcd.
    async fn enter(
        &self,
        plan: &Plan,
        deadline: Option<Instant>,
    ) -> Result<(Permit, Option<Held>, Served), Denied> {
        let mut subject = plan.subject.clone();
        if self.mistake == Mistake::QueuesCritical && subject.class == Class::Critical {
            subject.class = Class::Write;
        }
        let told = deadline.filter(|_| self.mistake != Mistake::ForgetsDeadlines);
        let Self { protection, gate, .. } = self;
        let entering = async {
            let planned = protection.plan(gate, &subject, told).await?;
            let permit = protection.enter(gate, &subject, &planned, told).await?;
            let served = Served::new(&self.served, subject.class);
            let held = match plan.bytes {
                0 => None,
                bytes => self.hold(bytes, told).await?,
            };
            Ok((permit, held, served))
        };
        if self.mistake != Mistake::LooksRarely {
            return entering.await;
        }
        let mut entering = pin!(entering);
        loop {
            if let Some(entered) = entering.as_mut().now_or_never() {
                return entered;
            }
            sleep(Duration::from_millis(6)).await;
        }
    }

    async fn hold(&self, bytes: u64, deadline: Option<Instant>) -> Result<Option<Held>, Denied> {
        let mut holding = pin!(self.protection.hold(bytes, deadline));
        if let Some(held) = holding.as_mut().now_or_never() {
            return held;
        }
        if self.cache.lock().is_some() {
            let how = format!("a list waits for {bytes} bytes");
            self.broke(Broken::CacheOutlivesLists, how);
        }
        holding.await
    }

    fn check_wait<T>(&self, plan: &Plan, waited: Duration, entered: &Result<T, Denied>) {
        let (class, patience) = (plan.subject.class, plan.patience);
        if class == Class::Critical && (!waited.is_zero() || entered.is_err()) {
            let refused = entered.as_ref().err();
            self.broke(Broken::CriticalWaits, format!("for {waited:?}, and {refused:?}"));
        }
        // The clock goes by whole milliseconds, and rates do not.
        let most = patience.map_or(WAITS, |patience| patience + Duration::from_millis(1));
        if waited > most.min(WAITS) {
            let how = format!("{class:?} for {waited:?}, with patience for {patience:?}");
            self.broke(Broken::WaitsTooLong, how);
        }
    }

    /// What an operator does, and what becomes known of etcd.
    async fn change(self, mut changes: Vec<(Duration, Change)>) {
        changes.sort_by_key(|(at, _)| *at);
        let began = Instant::now();
        for (at, change) in changes {
            tokio::time::sleep_until(began + at).await;
            match change {
                Change::Configure(config) => self.protection.apply(*config),
                Change::Switch(name, mode) => {
                    self.protection.switch(name, mode).expect("it is there");
                }
                Change::Sample(latency) => self.gate.sample(latency),
                Change::Overloaded => self.gate.overloaded(),
            }
        }
    }

    /// Looks at the queues while nothing happens.
    async fn watch(self) {
        sleep(Duration::from_millis(1)).await;
        loop {
            let mut wrong = None;
            // What is about to happen at this instant may happen first.
            for _ in 0..20 {
                wrong = self.wrong();
                if wrong.is_none() {
                    break;
                }
                yield_now().await;
            }
            if let Some((what, how)) = wrong {
                self.broke(what, how);
            }
            sleep(Duration::from_millis(4)).await;
        }
    }

    fn wrong(&self) -> Option<(Broken, String)> {
        self.gate.queues().into_iter().find_map(|queue| {
            let how = format!("{queue:?}");
            let served = self.served.lock().iter().filter(|name| **name == queue.queue).count();
            let idle = queue.waiting > 0 && served < queue.limit as usize;
            let full = queue.waiting > LENGTH_MAX;
            full.then_some(Broken::Unbounded)
                .or_else(|| idle.then_some(Broken::Idle))
                .map(|what| (what, how))
        })
    }

    /// What is held when all have gone and nothing is kept.
    fn check_rest(&self) {
        self.cache.lock().take();
        let used = self.protection.memory.used();
        let standing = self.gate.queues().into_iter();
        let queues: Vec<_> = standing.map(|queue| (queue.running, queue.waiting)).collect();
        let mut figures = Vec::new();
        for running in &self.protection.current().rules {
            for last in 1..=3 {
                let client = Client { name: "client".into(), address: [127, 0, 0, last].into() };
                let subject = Subject { client: Arc::new(client), ..Subject::fixture("") };
                let limits = running.limits(&subject).expect("it has limits");
                let queue = limits.concurrency.as_ref().expect("it has turns");
                figures.push(queue.figures());
            }
        }
        let rules_rest = figures.iter().all(|(running, waiting, _)| *running == 0 && *waiting == 0);
        if used != 0 || queues != [(0, 0); 3] || !rules_rest {
            let how = format!("{used} bytes, {queues:?}, by the rule {figures:?}");
            self.broke(Broken::Left, how);
        }
    }

    /// Whether all is as promised, or only what is `about`.
    async fn run(self, choices: &mut Choices, about: Option<Broken>) -> Result<(), String> {
        let changes =
            (0..CHANGES).map(|_| (millis(choices, 80), Change::new(choices, self.mistake)));
        let changing = tokio::spawn(self.clone().change(changes.collect()));
        let watching = tokio::spawn(self.clone().watch());
        let mut calls = JoinSet::new();
        for _ in 0..CALLS {
            calls.spawn(self.clone().call(Plan::new(choices)));
        }
        while let Some(called) = calls.join_next().await {
            called.map_err(|error| error.to_string())?;
        }
        changing.await.map_err(|error| error.to_string())?;
        watching.abort();
        self.check_rest();
        let broken = self.broken.lock();
        match broken.iter().find(|(what, _)| about.is_none_or(|about| about == *what)) {
            None => Ok(()),
            Some((what, how)) => Err(format!("{what:?}: {how}")),
        }
    }
}

/// A call at etcd.
struct Served {
    all: Arc<Mutex<Vec<&'static str>>>,
    queue: &'static str,
}

impl Served {
    fn new(all: &Arc<Mutex<Vec<&'static str>>>, class: Class) -> Self {
        let queue = Line::of(class).map_or("none", Line::as_str);
        all.lock().push(queue);
        Self { all: Arc::clone(all), queue }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        let index = all.iter().position(|queue| *queue == self.queue);
        all.swap_remove(index.expect("it is there"));
    }
}

enum Change {
    Configure(Box<Config>),
    Switch(&'static str, Option<Mode>),
    Sample(Duration),
    Overloaded,
}

impl Change {
    fn new(choices: &mut Choices, mistake: Mistake) -> Self {
        const MODES: [Option<Mode>; 4] =
            [None, Some(Mode::Off), Some(Mode::Observe), Some(Mode::Enforce)];
        match choices.pick(5) {
            0 | 1 => Self::Configure(Box::new(config(choices, mistake))),
            2 => Self::Switch(
                ["all", "queues", "rules.fixture"][choices.pick(3)],
                MODES[choices.pick(MODES.len())],
            ),
            3 => Self::Sample(millis(choices, 10)),
            _ => Self::Overloaded,
        }
    }
}

/// A runtime whose clock stands still while somebody has something to do.
fn still() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().expect("a runtime")
}

fn simulate(mistake: Mistake, about: Option<Broken>) -> Result<(), String> {
    each_seed(0..2_000, |choices| {
        let runtime = still();
        runtime.block_on(async { World::new(choices, mistake).run(choices, about).await })
    })
}

#[test]
fn what_is_promised_of_admission_holds_whatever_happens() {
    simulate(Mistake::None, None).unwrap_or_else(|wrong| panic!("{wrong}"));
}

#[test]
fn every_mistake_is_found_out() {
    for (mistake, broken) in MISTAKES {
        let found = simulate(mistake, Some(broken));
        assert!(found.is_err(), "{mistake:?} is not found out");
    }
}
