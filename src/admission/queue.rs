//! A bounded number of calls at once, and a fair queue for the others.
//!
//! Start-time fair queueing: a call gets a tag where its flow's last call will have ended, in units of
//! cost by weight, and the least tag goes first. A flow that asks for much gets ahead of nobody who
//! asks for little, whatever the costs are; deficit round robin would need a quantum, and the costs
//! here span five orders of magnitude.
//!
//! A queue that is full has room for whoever has less than its share of it: see
//! [`waiting::Waiting::yields_to`].

mod observed;
mod turns;
mod waiting;

use super::{Mode, Priority, QueueConfig, metrics::Counted};
use observed::Observed;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};
use turns::Turns;
use waiting::Place;

/// One queue.
#[derive(Debug)]
pub struct Queue {
    /// Never held across an await.
    state: Mutex<State>,
}

/// Who wants what: calls of one flow wait for each other, flows share. Two that fall together by
/// chance share one's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow(u64);

impl Flow {
    pub fn of(flow: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        flow.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// A call that wants to pass.
#[derive(Debug, Clone)]
pub struct Ticket {
    pub flow: Flow,
    pub priority: Priority,
    /// Share in proportion to that of other flows; at least 1.
    pub weight: u32,
    /// In units of cost.
    pub cost: f64,
    pub deadline: Option<Instant>,
}

impl Ticket {
    /// Until when it waits that begins now, and whether its deadline has passed then.
    fn patience(&self, now: Instant, wait_max: Duration) -> (Instant, bool) {
        let last = now + wait_max;
        let deadline = self.deadline.filter(|deadline| *deadline <= last);
        (deadline.unwrap_or(last), deadline.is_some())
    }
}

/// Why a call may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// As many wait as may, and its flow has its share of them.
    Full { waiting: usize },
    /// It would wait past its deadline by this.
    Late { wait: Duration },
    /// It has waited as long as calls may.
    Waited { waited: Duration },
    /// Its deadline passed while it waited.
    Expired,
}

/// A call that has passed; the next one does when this is dropped.
#[derive(Debug)]
pub struct Slot {
    /// Taken from a slot that nobody wanted any more.
    queue: Option<Arc<Queue>>,
    since: Instant,
    /// The call's number in [`Observed`].
    observed: Option<u64>,
}

#[derive(Debug)]
struct State {
    turns: Turns<oneshot::Sender<Result<Slot, Turned>>>,
    /// What would become of the calls that are not held to their turns.
    observed: Observed,
}

impl Queue {
    pub fn new(config: QueueConfig) -> Self {
        let state = State { observed: Observed::new(&config), turns: Turns::new(config) };
        Self { state: Mutex::new(state) }
    }

    /// Waits for the ticket's turn.
    ///
    /// # Errors
    ///
    /// When the queue is full, or the turn would come or has come too late.
    pub async fn enter(self: &Arc<Self>, ticket: Ticket) -> Result<Slot, Turned> {
        let started = Instant::now();
        let (mut stay, until, expires) = {
            let turns = &mut self.state.lock().turns;
            if turns.pass() {
                return Ok(self.slot(started, None));
            }
            turns.admissible(&ticket, started)?;
            let full = turns.full();
            let (pass, turn) = oneshot::channel();
            let (place, displaced) = turns.wait(&ticket, pass);
            if let Some(displaced) = displaced {
                tell(displaced, Err(full));
            }
            let (until, expires) = ticket.patience(started, turns.config.wait_max);
            (Stay { queue: self, place, ticket: &ticket, turn }, until, expires)
        };
        match timeout_at(until, &mut stay.turn).await {
            Ok(Ok(told)) => told,
            // The queue keeps every sender until it has sent, and lives as long as its callers.
            Ok(Err(_)) => Err(Turned::Expired),
            Err(_) if expires => Err(Turned::Expired),
            Err(_) => Err(Turned::Waited { waited: started.elapsed() }),
        }
    }

    /// What [`Queue::enter`] says, or would say while only observing, to a call that comes now of
    /// its turn and its deadline.
    pub fn check_deadline(&self, mode: Mode, ticket: &Ticket) -> Result<(), Turned> {
        let now = Instant::now();
        let mut state = self.state.lock();
        match mode {
            Mode::Enforce => state.turns.in_time(ticket, now),
            Mode::Observe => state.observed.at(now).in_time(ticket, now),
            Mode::Off => Ok(()),
        }
    }

    /// Passes without waiting, whoever else does, and has counted what would become of the call
    /// were all held to their turns.
    pub(super) fn observe(
        self: &Arc<Self>,
        ticket: &Ticket,
        counted: &Counted,
        would_refuse: &Counter,
    ) -> Slot {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.turns.running += 1;
        let observed = state.observed.arrive(ticket, now, counted, would_refuse);
        self.slot(now, observed)
    }

    fn slot(self: &Arc<Self>, since: Instant, observed: Option<u64>) -> Slot {
        Slot { queue: Some(Arc::clone(self)), since, observed }
    }

    /// Lets `limit` calls pass at once from now on, no more than were configured.
    pub fn set_limit(self: &Arc<Self>, limit: u32) {
        let mut state = self.state.lock();
        state.observed.set_limit(limit, Instant::now());
        state.turns.set_limit(limit);
        self.dispatch(&mut state);
    }

    pub fn reconfigure(self: &Arc<Self>, config: QueueConfig) {
        let mut state = self.state.lock();
        state.observed.reconfigure(&config, Instant::now());
        state.turns.reconfigure(config);
        self.dispatch(&mut state);
    }

    /// Calls that have passed and those that wait, and how many may pass at once.
    pub fn figures(&self) -> (u32, usize, u32) {
        let turns = &self.state.lock().turns;
        (turns.running, turns.waiting.len(), turns.limit)
    }

    /// Counts what would have become until now of those that are only observed, and tells how many
    /// of them would wait.
    pub fn settle(&self) -> usize {
        self.state.lock().observed.at(Instant::now()).waiting.len()
    }

    fn dispatch(self: &Arc<Self>, state: &mut State) {
        while let Some(pass) = state.turns.next() {
            tell(pass, Ok(self.slot(Instant::now(), None)));
        }
    }
}

/// Says what becomes of a call that waits, while the queue is locked.
fn tell(caller: oneshot::Sender<Result<Slot, Turned>>, told: Result<Slot, Turned>) {
    let heard = caller.send(told);
    debug_assert!(heard.is_ok(), "it listens until it has left");
}

/// A caller's stay in the queue.
struct Stay<'q> {
    queue: &'q Arc<Queue>,
    place: Place,
    ticket: &'q Ticket,
    turn: oneshot::Receiver<Result<Slot, Turned>>,
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        state.turns.waiting.leave(self.place);
        let unheard = self.turn.try_recv();
        // Whose place was taken has got its share back with that.
        if let Ok(Ok(_)) = unheard {
            state.turns.waiting.give_back(self.ticket);
        }
        // A turn that it does not take is the next one's, which takes the lock.
        drop(state);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        let took = self.since.elapsed();
        let mut state = queue.state.lock();
        state.turns.done(took);
        if let Some(number) = self.observed {
            state.observed.ended(number, took);
        }
        queue.dispatch(&mut state);
    }
}

#[cfg(test)]
mod tests;
