//! How many go at once, and who may wait for it. Time, and telling those who wait, are the caller's.

use super::{
    Ticket, Turned,
    waiting::{Place, Waiting},
};
use crate::admission::QueueConfig;
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Turns<W> {
    pub(super) config: QueueConfig,
    /// Calls at once, at most `config.concurrency`.
    pub(super) limit: u32,
    pub(super) running: u32,
    /// Somebody waits only while as many run as may.
    pub(super) waiting: Waiting<W>,
    /// Mean time that a call takes, in seconds.
    service: f64,
}

/// Share of the newest call in the mean.
const NEWEST: f64 = 0.1;

impl<W> Turns<W> {
    pub(super) fn new(config: QueueConfig) -> Self {
        let limit = config.concurrency;
        Self { config, limit, running: 0, waiting: Waiting::new(), service: 0.0 }
    }

    fn has_room(&self) -> bool {
        self.running < self.limit
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= self.config.length_max
    }

    /// What one is told for whom there is no place.
    pub(super) fn full(&self) -> Turned {
        Turned::Full { waiting: self.waiting.len() }
    }

    /// Takes a turn, if there is one.
    pub(super) fn pass(&mut self) -> bool {
        let passes = self.has_room();
        self.running += u32::from(passes);
        passes
    }

    /// Whether the call may wait.
    pub(super) fn admissible(&self, ticket: &Ticket, now: Instant) -> Result<(), Turned> {
        if self.is_full() && self.waiting.yields_to(ticket).is_none() {
            return Err(self.full());
        }
        self.in_time(ticket, now)
    }

    /// Whether the call would have its turn before its deadline.
    pub(super) fn in_time(&self, ticket: &Ticket, now: Instant) -> Result<(), Turned> {
        let Some(deadline) = ticket.deadline.filter(|_| !self.has_room()) else { return Ok(()) };
        let turns = (self.waiting.ahead(ticket) + 1) as f64;
        let wait = Duration::from_secs_f64(self.service * turns / f64::from(self.limit));
        let late = (now + wait).checked_duration_since(deadline);
        late.map_or(Ok(()), |_| Err(Turned::Late { wait }))
    }

    /// Has an admissible call wait, in the place of one that is told so if there was none left.
    pub(super) fn wait(&mut self, ticket: &Ticket, told: W) -> (Place, Option<W>) {
        let place = if self.is_full() { self.waiting.yields_to(ticket) } else { None };
        let displaced = place.and_then(|place| self.waiting.leave(place));
        (self.waiting.push(ticket, told), displaced)
    }

    /// Who has its turn now.
    pub(super) fn next(&mut self) -> Option<W> {
        let next = if self.has_room() { self.waiting.pop() } else { None };
        self.running += u32::from(next.is_some());
        next
    }

    /// A call that had its turn is done.
    pub(super) fn done(&mut self, took: Duration) {
        self.running -= 1;
        self.service += (took.as_secs_f64() - self.service) * NEWEST;
    }

    pub(super) fn set_limit(&mut self, limit: u32) {
        self.limit = limit.clamp(1, self.config.concurrency);
    }

    pub(super) fn reconfigure(&mut self, config: QueueConfig) {
        let whole = self.limit == self.config.concurrency;
        self.limit = if whole { config.concurrency } else { self.limit.min(config.concurrency) };
        self.config = config;
    }
}
