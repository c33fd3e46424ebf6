//! The queue that there would be, were calls held to it that pass at once.
//!
//! A call takes as long from its turn on as it really took. Its turn comes no earlier than the call
//! itself did, and so is over no earlier than the call: whatever happens here is known in time.

use super::{Ticket, turns::Turns, waiting::Place};
use crate::admission::{QueueConfig, metrics::Counted};
use prometheus_client::metrics::counter::Counter;
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Observed {
    turns: Turns<u64>,
    /// By number: those that would wait, and those that would have their turn.
    calls: HashMap<u64, Call>,
    /// What happens next, as far as it is known. It is looked into when somebody asks.
    agenda: BTreeSet<(Instant, Event)>,
    arrived: u64,
}

/// With the number of the call. Who gets its turn in the last moment has not waited in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ends(u64),
    GivesUp(u64),
}

#[derive(Debug)]
struct Call {
    stage: Stage,
    /// How long it really took; `None` while it runs.
    took: Option<Duration>,
    /// Count it if it is refused: of its protection, and of its class.
    refused: [Counter; 2],
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Waits { place: Place, until: Instant, expires: bool },
    Runs { since: Instant },
}

fn count(refused: &[Counter]) {
    for counter in refused {
        counter.inc();
    }
}

/// Real calls that wait are bounded by the streams that there are; these are not. Beyond it they
/// count as refused.
const WAITING_MAX: usize = 100_000;

impl Observed {
    pub(super) fn new(config: &QueueConfig) -> Self {
        let turns = Turns::new(bounded(config));
        Self { turns, calls: HashMap::new(), agenda: BTreeSet::new(), arrived: 0 }
    }

    /// Counts what would become of the call, and numbers it unless it would be refused.
    pub(super) fn arrive(
        &mut self,
        ticket: &Ticket,
        now: Instant,
        counted: &Counted,
        would_refuse: &Counter,
    ) -> Option<u64> {
        self.advance(now);
        let refused = [&counted.refused, would_refuse].map(Clone::clone);
        self.arrived += 1;
        let number = self.arrived;
        let stage = if self.turns.pass() {
            Stage::Runs { since: now }
        } else {
            if self.turns.admissible(ticket, now).is_err() {
                count(&refused);
                return None;
            }
            counted.delayed.inc();
            self.wait(ticket, now, number)
        };
        self.calls.insert(number, Call { stage, took: None, refused });
        Some(number)
    }

    fn wait(&mut self, ticket: &Ticket, now: Instant, number: u64) -> Stage {
        let (place, displaced) = self.turns.wait(ticket, number);
        if let Some(displaced) = displaced.and_then(|number| self.remove(number)) {
            count(&displaced.refused);
        }
        let (until, expires) = ticket.patience(now, self.turns.config.wait_max);
        self.agenda.insert((until, Event::GivesUp(number)));
        Stage::Waits { place, until, expires }
    }

    /// The call of this number has really taken so long.
    pub(super) fn ended(&mut self, number: u64, took: Duration) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        call.took = Some(took);
        if let Stage::Runs { since } = call.stage {
            self.agenda.insert((since + took, Event::Ends(number)));
        }
    }

    /// The queue as it would be now.
    pub(super) fn at(&mut self, now: Instant) -> &Turns<u64> {
        self.advance(now);
        &self.turns
    }

    pub(super) fn set_limit(&mut self, limit: u32, now: Instant) {
        self.advance(now);
        self.turns.set_limit(limit);
        self.dispatch(now);
    }

    pub(super) fn reconfigure(&mut self, config: &QueueConfig, now: Instant) {
        self.advance(now);
        self.turns.reconfigure(bounded(config));
        self.dispatch(now);
    }

    /// Does what would have happened until now.
    fn advance(&mut self, now: Instant) {
        while let Some(&(at, event)) = self.agenda.first()
            && at <= now
        {
            self.agenda.pop_first();
            match event {
                Event::Ends(number) => {
                    if let Some(took) = self.remove(number).and_then(|call| call.took) {
                        self.turns.done(took);
                        self.dispatch(at);
                    }
                }
                Event::GivesUp(number) => self.give_up(number),
            }
        }
    }

    fn give_up(&mut self, number: u64) {
        let Some(call) = self.remove(number) else { return };
        if let Stage::Waits { place, expires, .. } = call.stage {
            self.turns.waiting.leave(place);
            if !expires {
                count(&call.refused);
            }
        }
    }

    fn dispatch(&mut self, now: Instant) {
        while let Some(number) = self.turns.next() {
            let Some(call) = self.calls.get_mut(&number) else { continue };
            if let Stage::Waits { until, .. } = call.stage {
                self.agenda.remove(&(until, Event::GivesUp(number)));
            }
            call.stage = Stage::Runs { since: now };
            if let Some(took) = call.took {
                self.agenda.insert((now + took, Event::Ends(number)));
            }
        }
    }

    fn remove(&mut self, number: u64) -> Option<Call> {
        let call = self.calls.remove(&number)?;
        if let Stage::Waits { until, .. } = call.stage {
            self.agenda.remove(&(until, Event::GivesUp(number)));
        }
        Some(call)
    }
}

fn bounded(config: &QueueConfig) -> QueueConfig {
    QueueConfig { length_max: config.length_max.min(WAITING_MAX), ..config.clone() }
}
