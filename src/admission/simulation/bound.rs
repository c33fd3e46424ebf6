//! Who is turned away from a queue that is full: nobody, while one of lower priority waits or
//! another flow of the same has many more places.

use super::still;
use crate::admission::{Flow, Priority, Queue, QueueConfig, Slot, Ticket, Turned};
use futures_util::{FutureExt, future::BoxFuture};
use seawall_testkit::{Choices, each_seed};
use std::{sync::Arc, time::Duration};

/// What a queue can do wrong, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    /// Who comes to a full queue is turned away, whoever it is.
    ForgetsFlows,
    /// All are the same to it.
    ForgetsPriorities,
}

const STEPS: usize = 100;
const FLOWS: usize = 4;
const LENGTH_MAX: usize = 12;

#[derive(Debug, Clone, Copy)]
struct Call {
    flow: usize,
    priority: Priority,
    weight: u32,
}

impl Call {
    /// Every other one is of one flow.
    fn new(choices: &mut Choices) -> Self {
        const PRIORITIES: [Priority; 5] =
            [Priority::High, Priority::Normal, Priority::Normal, Priority::Normal, Priority::Low];
        let flow = choices.pick(2) * choices.pick(FLOWS);
        // Of one flow all calls weigh the same.
        let weight = [1, 1, 2, 4][flow];
        Self { flow, priority: PRIORITIES[choices.pick(PRIORITIES.len())], weight }
    }

    fn places(self) -> f64 {
        1.0 / f64::from(self.weight)
    }

    fn ticket(self, mistake: Mistake) -> Ticket {
        let Self { flow, mut priority, weight } = self;
        let flow = Flow::of(if mistake == Mistake::ForgetsFlows { 0 } else { flow });
        if mistake == Mistake::ForgetsPriorities {
            priority = Priority::Normal;
        }
        Ticket { flow, priority, weight, cost: 1.0, deadline: None }
    }
}

type Entering = BoxFuture<'static, Result<Slot, Turned>>;

struct World {
    queue: Arc<Queue>,
    length_max: usize,
    running: Vec<Slot>,
    waiting: Vec<(Call, Entering)>,
}

impl World {
    fn new(choices: &mut Choices) -> Self {
        let length_max = choices.pick(LENGTH_MAX + 1);
        let config = QueueConfig { concurrency: 1, length_max, wait_max: Duration::from_secs(60) };
        let queue = Arc::new(Queue::new(config));
        Self { queue, length_max, running: Vec::new(), waiting: Vec::new() }
    }

    /// One comes, goes or leaves, and all learn of it.
    fn step(&mut self, choices: &mut Choices, mistake: Mistake) -> Result<(), String> {
        match choices.pick(8) {
            0 => drop(self.running.pop()),
            1 if !self.waiting.is_empty() => {
                drop(self.waiting.swap_remove(choices.pick(self.waiting.len())));
            }
            _ => {
                let call = Call::new(choices);
                let (queue, ticket) = (Arc::clone(&self.queue), call.ticket(mistake));
                self.waiting.push((call, async move { queue.enter(ticket).await }.boxed()));
            }
        }
        self.look()
    }

    /// Beginning with the newest, which may take another's place.
    fn look(&mut self) -> Result<(), String> {
        for index in (0..self.waiting.len()).rev() {
            let Some(told) = (&mut self.waiting[index].1).now_or_never() else { continue };
            let (call, _) = self.waiting.remove(index);
            match told {
                Ok(slot) => self.running.push(slot),
                Err(Turned::Full { .. }) => self.check(call)?,
                Err(other) => return Err(format!("{call:?} is told {other:?}")),
            }
        }
        let waiting = self.waiting.len();
        match waiting <= self.length_max {
            true => Ok(()),
            false => Err(format!("{waiting} wait where {} may", self.length_max)),
        }
    }

    /// Whether it was right to turn this one away.
    fn check(&self, turned: Call) -> Result<(), String> {
        let lower = |call: &Call| call.priority > turned.priority;
        let length = |flow: usize| -> f64 {
            let same = self.calls().filter(|call| call.priority == turned.priority);
            same.filter(|call| call.flow == flow).map(|call| call.places()).sum()
        };
        let own = length(turned.flow) + turned.places();
        let many_more = (0..FLOWS).any(|flow| length(flow) >= own + 1.0);
        match many_more || self.calls().any(|call| lower(&call)) {
            true => {
                let calls: Vec<_> = self.calls().collect();
                Err(format!("{turned:?} is turned away for {calls:?}"))
            }
            false => Ok(()),
        }
    }

    fn calls(&self) -> impl Iterator<Item = Call> {
        self.waiting.iter().map(|(call, _)| *call)
    }
}

fn simulate(mistake: Mistake) -> Result<(), String> {
    each_seed(0..1_000, |choices| {
        still().block_on(async {
            let mut world = World::new(choices);
            (0..STEPS).try_for_each(|_| world.step(choices, mistake))
        })
    })
}

#[test]
fn nobody_is_turned_away_for_those_who_have_many_more_places() {
    simulate(Mistake::None).unwrap_or_else(|wrong| panic!("{wrong}"));
}

#[test]
fn who_turns_the_wrong_ones_away_is_found_out() {
    for mistake in [Mistake::ForgetsFlows, Mistake::ForgetsPriorities] {
        assert!(simulate(mistake).is_err(), "{mistake:?} is not found out");
    }
}
