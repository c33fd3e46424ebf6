//! The way into one cluster.

use super::{
    Class, Config, Limiter, Mode, Plan, Priority, Queue, Refusal, RefusalKind, Sample, Slot,
    Subject, Ticket, Turned,
    metrics::{Counters, Metrics, QueueMetrics},
};
use futures_util::FutureExt;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

/// The queues of one cluster, and how it bears what they let pass.
#[derive(Debug)]
pub struct Gate {
    pub cluster: Arc<str>,
    reads: Entry,
    writes: Entry,
    lists: Entry,
    limiter: Mutex<Limiter>,
    /// Lists are under way.
    busy: Notify,
    /// The fullest member's database, in percent of its quota; 0 while it is not known.
    space_percent: AtomicU32,
    /// How often protections that only observe would have refused calls, by [`Class`].
    would_refuse: [Counter; Class::ALL.len()],
}

/// One queue and what is seen of it.
#[derive(Debug)]
struct Entry {
    /// The protection it is, as in refusals.
    name: &'static str,
    queue: Arc<Queue>,
    metrics: QueueMetrics,
    counters: Counters,
    /// Calls that have waited or passed at once, and what they waited in all, in microseconds: a
    /// histogram does not tell.
    calls: AtomicU64,
    waited: AtomicU64,
}

/// What an operator sees of one queue.
#[derive(Debug, Clone, serde::Serialize)]
pub struct QueueStanding {
    pub queue: &'static str,
    /// Calls at etcd.
    pub running: u32,
    pub waiting: usize,
    /// Calls that are let to etcd at once.
    pub limit: u32,
    /// Calls since the start, and what they waited for their turn in all.
    pub calls: u64,
    pub waited_seconds: f64,
}

/// One of the queues that each cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    Reads,
    Writes,
    Lists,
}

/// Why a call does not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    Refused(Refusal),
    /// The client's deadline passed while the call waited.
    Expired,
}

impl Line {
    /// The queue that calls of `class` wait in. Some wait in none: what the control plane hangs on,
    /// and what stays open.
    pub const fn of(class: Class) -> Option<Self> {
        match class {
            Class::PointRead | Class::Probe => Some(Self::Reads),
            Class::Write => Some(Self::Writes),
            Class::PagedList | Class::HeavyList | Class::Background => Some(Self::Lists),
            Class::Critical | Class::Watch | Class::Admin => None,
        }
    }

    /// As in refusals: the key path of its settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reads => "queues.reads",
            Self::Writes => "queues.writes",
            Self::Lists => "queues.lists",
        }
    }
}

/// The queues of each cluster, as in metrics.
pub(super) const QUEUES: [(Line, &str); 3] =
    [(Line::Reads, "reads"), (Line::Writes, "writes"), (Line::Lists, "lists")];

impl Gate {
    pub(super) fn new(cluster: &Arc<str>, config: &Config, metrics: &Metrics) -> Self {
        let queues = &config.queues;
        let [reads, writes, lists] = QUEUES.map(|(line, queue)| Entry {
            name: line.as_str(),
            queue: Arc::new(Queue::new(queues.of(line).clone())),
            metrics: metrics.queue(cluster, queue),
            counters: metrics.protection(line.as_str()),
            calls: AtomicU64::new(0),
            waited: AtomicU64::new(0),
        });
        Self {
            cluster: Arc::clone(cluster),
            reads,
            writes,
            lists,
            limiter: Mutex::new(Limiter::new(
                queues.concurrency_min,
                queues.lists.concurrency,
                queues.latency_margin,
            )),
            busy: Notify::new(),
            space_percent: AtomicU32::new(0),
            would_refuse: Default::default(),
        }
    }

    pub(super) fn reconfigure(&self, config: &Config) {
        let queues = &config.queues;
        self.reads.queue.reconfigure(queues.reads.clone());
        self.writes.queue.reconfigure(queues.writes.clone());
        self.lists.queue.reconfigure(queues.lists.clone());
        let (min, max) = (queues.concurrency_min, queues.lists.concurrency);
        self.limiter.lock().reconfigure(min, max, queues.latency_margin);
    }

    fn entry(&self, line: Line) -> &Entry {
        match line {
            Line::Reads => &self.reads,
            Line::Writes => &self.writes,
            Line::Lists => &self.lists,
        }
    }

    /// Waits for the call's turn.
    pub(super) async fn enter(
        &self,
        mode: Mode,
        subject: &Subject,
        plan: &Plan,
        cost: f64,
        deadline: Option<Instant>,
    ) -> Result<Option<Slot>, Denied> {
        let Some(line) = Line::of(subject.class).filter(|_| mode != Mode::Off) else {
            return Ok(None);
        };
        if line == Line::Lists {
            self.busy.notify_one();
        }
        let ticket = ticket(subject, plan, cost, deadline);
        self.entry(line).enter(mode, ticket, self.class_counter(subject.class)).await.map(Some)
    }

    /// Refuses a call that is to wait for another's turn, if that turn would come too late for it
    /// were it asked for now; while only observing it counts the same.
    pub(super) fn check_deadline(
        &self,
        mode: Mode,
        subject: &Subject,
        plan: &Plan,
        deadline: Option<Instant>,
    ) -> Result<(), Denied> {
        let Some(line) = Line::of(subject.class) else { return Ok(()) };
        if deadline.is_none() || mode == Mode::Off {
            return Ok(());
        }
        let entry = self.entry(line);
        let ticket = ticket(subject, plan, 0.0, deadline);
        let Err(turned) = entry.queue.check_deadline(mode, &ticket) else { return Ok(()) };
        entry.counters.of(mode).refused.inc();
        if mode == Mode::Enforce {
            return Err(denied(entry.name, turned));
        }
        self.would_refuse(subject.class);
        Ok(())
    }

    /// Resolves when lists begin to pass.
    pub async fn busy(&self) {
        self.busy.notified().await;
    }

    /// Lists at etcd, those that wait, and how many are let through at once.
    pub fn lists(&self) -> (u32, usize, u32) {
        self.lists.queue.figures()
    }

    /// How the cluster bears what is under way.
    pub fn sample(&self, latency: Duration) {
        let (running, waiting, _) = self.lists();
        // More would be let through at once, too, for those who would wait.
        let waiting = waiting > 0 || self.lists.queue.settle() > 0;
        let sample = Sample { latency, running, waiting };
        self.steer(|limiter| limiter.sample(sample));
    }

    /// The cluster says that it has too much to do, or says nothing at all.
    pub fn overloaded(&self) {
        self.steer(Limiter::overloaded);
    }

    fn steer(&self, adjust: impl FnOnce(&mut Limiter)) {
        let limit = {
            let mut limiter = self.limiter.lock();
            adjust(&mut limiter);
            limiter.limit()
        };
        self.lists.queue.set_limit(limit);
    }

    /// The fullest member's database is this full.
    pub fn set_space(&self, percent: u32) {
        self.space_percent.store(percent, Relaxed);
    }

    /// In percent of the quota of the fullest member; 0 while it is not known.
    pub fn space_percent(&self) -> u32 {
        self.space_percent.load(Relaxed)
    }

    /// A protection that only observes would have refused a call of `class`.
    pub(super) fn would_refuse(&self, class: Class) {
        self.class_counter(class).inc();
    }

    pub(super) fn class_counter(&self, class: Class) -> &Counter {
        &self.would_refuse[class as usize]
    }

    /// How often protections that only observe would have refused calls of `class`.
    pub fn would_have_refused(&self, class: Class) -> u64 {
        self.class_counter(class).get()
    }

    /// Puts what the queues hold into their metrics.
    pub fn publish(&self) {
        for entry in [&self.reads, &self.writes, &self.lists] {
            entry.queue.settle();
            let (running, waiting, limit) = entry.queue.figures();
            entry.metrics.running.set(running.into());
            entry.metrics.waiting.set(waiting as i64);
            entry.metrics.limit.set(limit.into());
        }
    }

    pub fn queues(&self) -> [QueueStanding; 3] {
        [&self.reads, &self.writes, &self.lists].map(Entry::standing)
    }
}

impl Entry {
    async fn enter(
        &self,
        mode: Mode,
        ticket: Ticket,
        would_refuse: &Counter,
    ) -> Result<Slot, Denied> {
        let passing = pass(&self.queue, self.name, &self.counters, mode, ticket, would_refuse);
        let (passed, waited) = passing.await;
        self.metrics.waited.observe(waited.as_secs_f64());
        self.calls.fetch_add(1, Relaxed);
        self.waited.fetch_add(waited.as_micros() as u64, Relaxed);
        passed
    }

    fn standing(&self) -> QueueStanding {
        let (running, waiting, limit) = self.queue.figures();
        QueueStanding {
            queue: self.name,
            running,
            waiting,
            limit,
            calls: self.calls.load(Relaxed),
            waited_seconds: self.waited.load(Relaxed) as f64 / 1e6,
        }
    }
}

/// Passes the queue of the protection called `name`, counts what has become of the call, and tells
/// how long it waited. While only observing it counts the same, says so where it `would_refuse` the
/// call, and passes at once.
pub(super) async fn pass(
    queue: &Arc<Queue>,
    name: &str,
    counters: &Counters,
    mode: Mode,
    ticket: Ticket,
    would_refuse: &Counter,
) -> (Result<Slot, Denied>, Duration) {
    let counted = counters.of(mode);
    if mode == Mode::Observe {
        return (Ok(queue.observe(&ticket, counted, would_refuse)), Duration::ZERO);
    }
    let mut entering = pin!(queue.enter(ticket));
    let (entered, waited) = match entering.as_mut().now_or_never() {
        Some(entered) => (entered, Duration::ZERO),
        None => {
            counted.delayed.inc();
            let began = Instant::now();
            (entering.await, began.elapsed())
        }
    };
    if entered.as_ref().is_err_and(|turned| *turned != Turned::Expired) {
        counted.refused.inc();
    }
    (entered.map_err(|turned| denied(name, turned)), waited)
}

fn ticket(subject: &Subject, plan: &Plan, cost: f64, deadline: Option<Instant>) -> Ticket {
    let (weight, priority) = share(subject.class);
    Ticket {
        flow: Plan::flow(subject),
        priority: plan.priority.unwrap_or(priority),
        weight: plan.weight.unwrap_or(1) * weight,
        cost,
        deadline,
    }
}

/// Pages are small and somebody waits for them; background loses nothing by waiting.
fn share(class: Class) -> (u32, Priority) {
    match class {
        Class::PagedList => (4, Priority::Normal),
        Class::Background => (1, Priority::Low),
        _ => (1, Priority::Normal),
    }
}

/// What a client is told that was turned away from the queue of `name`.
fn denied(name: &str, turned: Turned) -> Denied {
    let (reason, remedy, pushback) = match turned {
        Turned::Full { waiting } => {
            (format!("{waiting} calls wait already"), "raise its length_max", PUSHBACK)
        }
        Turned::Late { wait } => (
            format!("its turn would come in {}ms, after its deadline", wait.as_millis()),
            "raise its concurrency or the client's timeout",
            wait,
        ),
        Turned::Waited { waited } => (
            format!("its turn did not come within {}s", waited.as_secs()),
            "raise its wait_max or concurrency",
            PUSHBACK,
        ),
        Turned::Expired => return Denied::Expired,
    };
    let pushback = Some(pushback);
    let rule = Arc::from(name);
    Denied::Refused(Refusal { kind: RefusalKind::Load, rule, reason, remedy, pushback })
}

/// When a client may try again that found a full queue.
const PUSHBACK: Duration = Duration::from_secs(1);

/// Waits for a reserved turn.
pub(super) async fn wait(delay: Duration) {
    if !delay.is_zero() {
        sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Protection;

    /// While queues were observed, one slow moment left `seawall_queue_limit` of lists at its least
    /// for good, and most lists would have been refused.
    #[tokio::test(start_paused = true)]
    async fn the_limit_grows_for_lists_that_would_wait() {
        let mut config = Config::fixture();
        config.queues.mode = Mode::Observe;
        config.queues.lists.concurrency = 2;
        let protection = Protection::new(config, &mut Default::default());
        let gate = protection.gate(&"main".into());
        gate.overloaded();
        assert_eq!(gate.lists(), (0, 0, 1));
        let (list, plan) =
            (Subject { class: Class::HeavyList, ..Subject::fixture("/a") }, Plan::default());
        let enter = async || protection.enter(&gate, &list, &plan, None).await.expect("it passes");
        let _lists = [enter().await, enter().await];
        for _ in 0..4 {
            gate.sample(Duration::ZERO);
        }
        assert_eq!(gate.lists(), (2, 0, 2));
    }
}
