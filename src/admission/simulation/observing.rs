//! The same calls, once held to their turns and once only counted: as many would have waited and
//! would have been refused as do and are.

use super::still;
use crate::admission::{
    Denied, Flow, Mode, Priority, Queue, QueueConfig, Slot, Ticket,
    gate::pass,
    metrics::{Counters, Metrics},
};
use futures_util::{FutureExt, future::BoxFuture};
use prometheus_client::metrics::counter::Counter;
use seawall_testkit::{Choices, each_seed};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, advance};

const CALLS: usize = 60;
/// In milliseconds, like all times here.
const WAIT_MAX: u64 = 60;
/// When nobody comes any more, and when all are gone.
const LAST: usize = 120;
const END: u64 = 1_500;

/// A call, or the question whether one would have its turn in time.
#[derive(Debug, Clone, Copy)]
struct Call {
    asks: bool,
    flow: usize,
    priority: Priority,
    weight: u32,
    cost: f64,
    patience: Option<u64>,
    /// From its turn on.
    takes: u64,
}

/// What happens at one time.
#[derive(Debug, Clone)]
enum Event {
    Comes(Call),
    Limit(u32),
    Configure(QueueConfig),
}

/// What a way to observe may do wrong, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    /// All that it sees is one flow.
    ForgetsFlows,
    ForgetsDeadlines,
    /// A bound that is changed is taken over only where it is enforced.
    ForgetsChanges,
}

impl Call {
    fn new(choices: &mut Choices) -> Self {
        const PRIORITIES: [Priority; 4] =
            [Priority::High, Priority::Normal, Priority::Normal, Priority::Low];
        Self {
            asks: choices.pick(8) == 0,
            flow: choices.pick(2) * choices.pick(4),
            priority: PRIORITIES[choices.pick(PRIORITIES.len())],
            weight: 1 + choices.pick(4) as u32,
            cost: 1.0 + choices.pick(50) as f64,
            patience: (choices.pick(2) == 0).then(|| choices.pick(100) as u64),
            takes: 1 + choices.pick(15) as u64,
        }
    }

    fn ticket(self, mistake: Mistake) -> Ticket {
        let Self { flow, priority, weight, cost, patience, .. } = self;
        let flow = if mistake == Mistake::ForgetsFlows { 0 } else { flow };
        let patience = patience.filter(|_| mistake != Mistake::ForgetsDeadlines);
        let deadline = patience.map(|patience| Instant::now() + Duration::from_millis(patience));
        Ticket { flow: Flow::of(flow), priority, weight, cost, deadline }
    }
}

fn config(choices: &mut Choices) -> QueueConfig {
    let (concurrency, length_max) = (1 + choices.pick(3) as u32, choices.pick(15));
    QueueConfig { concurrency, length_max, wait_max: Duration::from_millis(WAIT_MAX) }
}

fn events(choices: &mut Choices) -> BTreeMap<u64, Vec<Event>> {
    let mut events = BTreeMap::<_, Vec<_>>::new();
    let mut at = |choices: &mut Choices, event| {
        events.entry(choices.pick(LAST) as u64).or_default().push(event);
    };
    for _ in 0..CALLS {
        let call = Call::new(choices);
        at(choices, Event::Comes(call));
    }
    let limit = 1 + choices.pick(3) as u32;
    at(choices, Event::Limit(limit));
    let config = config(choices);
    at(choices, Event::Configure(config));
    events
}

type Passing = BoxFuture<'static, (Result<Slot, Denied>, Duration)>;

struct World {
    mode: Mode,
    mistake: Mistake,
    queue: Arc<Queue>,
    counters: Arc<Counters>,
    /// Those that would be refused, again.
    of_class: Counter,
    /// Questions that were answered with no.
    late: usize,
    came: usize,
    entering: Vec<(usize, Call, Passing)>,
    /// By when they end; together those first that came first.
    running: BTreeMap<(u64, usize), Slot>,
}

impl World {
    fn new(mode: Mode, mistake: Mistake, config: QueueConfig) -> Self {
        let counters = Metrics::register(&mut Default::default()).protection("fixture");
        Self {
            mode,
            mistake,
            queue: Arc::new(Queue::new(config)),
            counters: Arc::new(counters),
            of_class: Counter::default(),
            late: 0,
            came: 0,
            entering: Vec::new(),
            running: BTreeMap::new(),
        }
    }

    /// Delayed, refused, and told that they would be late.
    async fn count(mut self, events: &BTreeMap<u64, Vec<Event>>) -> (u64, u64, usize) {
        for now in 0..END {
            // Those who end make room for those who would give up at the same time.
            while let Some(next) = self.running.first_entry().filter(|next| next.key().0 <= now) {
                drop(next.remove());
            }
            self.look(now);
            for event in events.get(&now).into_iter().flatten() {
                self.happen(event.clone());
                self.look(now);
            }
            advance(Duration::from_millis(1)).await;
        }
        self.queue.settle();
        assert!(self.entering.is_empty() && self.running.is_empty(), "it goes on");
        let [delayed, refused, would_delay, would_refuse] = self.counters.figures();
        assert_eq!(self.of_class.get(), would_refuse, "it is counted by class, too");
        (delayed + would_delay, refused + would_refuse, self.late)
    }

    fn happen(&mut self, event: Event) {
        let Self { mode, mistake, .. } = *self;
        match event {
            Event::Comes(call) if call.asks => {
                let checked = self.queue.check_deadline(mode, &call.ticket(mistake));
                self.late += usize::from(checked.is_err());
            }
            Event::Comes(call) => {
                let (queue, counters) = (Arc::clone(&self.queue), Arc::clone(&self.counters));
                let (ticket, of_class) = (call.ticket(mistake), self.of_class.clone());
                let passing = async move {
                    pass(&queue, "fixture", &counters, mode, ticket, &of_class).await
                };
                self.came += 1;
                self.entering.push((self.came, call, passing.boxed()));
            }
            _ if mistake == Mistake::ForgetsChanges => {}
            Event::Limit(limit) => self.queue.set_limit(limit),
            Event::Configure(config) => self.queue.reconfigure(config),
        }
    }

    fn look(&mut self, now: u64) {
        let running = &mut self.running;
        self.entering.retain_mut(|(number, call, passing)| {
            let Some((passed, _)) = passing.now_or_never() else { return true };
            if let Ok(slot) = passed {
                running.insert((now + call.takes, *number), slot);
            }
            false
        });
    }
}

fn simulate(mistake: Mistake) -> Result<(), String> {
    each_seed(0..300, |choices| {
        let (config, events) = (config(choices), events(choices));
        let count = |mode, mistake| {
            let world = || World::new(mode, mistake, config.clone());
            still().block_on(async { world().count(&events).await })
        };
        let enforced = count(Mode::Enforce, Mistake::None);
        let observed = count(Mode::Observe, mistake);
        match observed == enforced {
            true => Ok(()),
            false => Err(format!("{observed:?} would be, and {enforced:?} are")),
        }
    })
}

#[test]
fn observing_counts_what_enforcing_does() {
    simulate(Mistake::None).unwrap_or_else(|wrong| panic!("{wrong}"));
}

#[test]
fn observing_otherwise_is_found_out() {
    for mistake in [Mistake::ForgetsFlows, Mistake::ForgetsDeadlines, Mistake::ForgetsChanges] {
        assert!(simulate(mistake).is_err(), "{mistake:?} is not found out");
    }
}
