//! A bounded number of calls at once, and a fair queue for the others.
//!
//! Start-time fair queueing: a call gets a tag where its flow's last call will have ended, in units of
//! cost by weight, and the least tag goes first. A flow that asks for much gets ahead of nobody who
//! asks for little, whatever the costs are; deficit round robin would need a quantum, and the costs
//! here span five orders of magnitude.

use super::{Priority, QueueConfig};
use parking_lot::Mutex;
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

/// One queue.
#[derive(Debug)]
pub struct Queue {
    /// Never held across an await.
    state: Mutex<State>,
}

/// Who wants what: calls of one flow wait for each other, flows share. Two that fall together by
/// chance share one's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// What it adds to its flow.
    fn share(&self) -> f64 {
        self.cost / f64::from(self.weight.max(1))
    }
}

/// Why a call may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// As many wait as may.
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
}

#[derive(Debug)]
struct State {
    config: QueueConfig,
    /// Calls at once, at most `config.concurrency`.
    limit: u32,
    running: u32,
    /// Of those in `heaps`, without the ones whose callers have left.
    waiting: usize,
    /// By priority, the highest first.
    heaps: [BinaryHeap<Reverse<Waiting>>; 3],
    /// Where the last call of each flow that waits will have ended.
    ends: HashMap<Flow, f64>,
    /// The tag of the last call that passed.
    now: f64,
    /// Calls that passed, by which those of low priority get their share.
    passed: u64,
    /// Mean time that a call takes, in seconds.
    service: f64,
}

#[derive(Debug)]
struct Waiting {
    tag: f64,
    /// Among equal tags the earliest.
    number: u64,
    pass: oneshot::Sender<Slot>,
}

/// So many calls pass by priority, then one of the lowest that waits.
const AGING: u64 = 8;

/// Share of the newest call in the mean.
const NEWEST: f64 = 0.1;

impl Queue {
    pub fn new(config: QueueConfig) -> Self {
        let state = State {
            limit: config.concurrency,
            config,
            running: 0,
            waiting: 0,
            heaps: Default::default(),
            ends: HashMap::new(),
            now: 0.0,
            passed: 0,
            service: 0.0,
        };
        Self { state: Mutex::new(state) }
    }

    /// Waits for the ticket's turn.
    ///
    /// # Errors
    ///
    /// When the queue is full, or the turn would come or has come too late.
    pub async fn enter(self: &Arc<Self>, ticket: Ticket) -> Result<Slot, Turned> {
        let started = Instant::now();
        let (deadline, turn, mut place) = {
            let mut state = self.state.lock();
            if state.has_room() {
                state.running += 1;
                return Ok(self.slot(started));
            }
            let turn = state.push(&ticket)?;
            // Those who were given their turn wait until they have woken: there may be room for one
            // more, and nobody else to see it.
            self.dispatch(&mut state);
            let last = started + state.config.wait_max;
            let deadline = ticket.deadline.map_or(last, |deadline| deadline.min(last));
            (deadline, turn, Place { queue: self, flow: ticket.flow, owed: ticket.share() })
        };
        let passed = timeout_at(deadline, turn).await;
        match passed {
            Ok(Ok(slot)) => {
                place.owed = 0.0;
                Ok(slot)
            }
            // The queue keeps every sender until it has sent, and lives as long as its callers.
            Ok(Err(_)) => Err(Turned::Expired),
            Err(_) if ticket.deadline.is_some_and(|last| last <= deadline) => Err(Turned::Expired),
            Err(_) => Err(Turned::Waited { waited: started.elapsed() }),
        }
    }

    /// What [`Queue::enter`] would say to a call that came now of its turn and this deadline.
    pub fn check_deadline(&self, deadline: Option<Instant>) -> Result<(), Turned> {
        let state = self.state.lock();
        if state.has_room() { Ok(()) } else { state.in_time(deadline, state.waiting) }
    }

    /// Passes without waiting, whoever else does, and tells what [`Queue::enter`] would have said:
    /// nothing, that it would have waited, or that it would have been turned away.
    pub fn observe(self: &Arc<Self>, ticket: &Ticket) -> (Slot, Option<Result<(), Turned>>) {
        let mut state = self.state.lock();
        let verdict = (!state.has_room()).then(|| {
            // Those above the limit are those that would wait.
            let waiting = (state.running - state.limit.min(state.running)) as usize;
            state.admissible(ticket, waiting)
        });
        state.running += 1;
        (self.slot(Instant::now()), verdict)
    }

    fn slot(self: &Arc<Self>, since: Instant) -> Slot {
        Slot { queue: Some(Arc::clone(self)), since }
    }

    /// Lets `limit` calls pass at once from now on, no more than were configured.
    pub fn set_limit(self: &Arc<Self>, limit: u32) {
        let mut state = self.state.lock();
        state.limit = limit.clamp(1, state.config.concurrency);
        self.dispatch(&mut state);
    }

    pub fn reconfigure(self: &Arc<Self>, config: QueueConfig) {
        let mut state = self.state.lock();
        let whole = state.limit == state.config.concurrency;
        state.limit = if whole { config.concurrency } else { state.limit.min(config.concurrency) };
        state.config = config;
        self.dispatch(&mut state);
    }

    /// Calls that have passed and those that wait, and how many may pass at once.
    pub fn figures(&self) -> (u32, usize, u32) {
        let state = self.state.lock();
        (state.running, state.waiting, state.limit)
    }

    fn dispatch(self: &Arc<Self>, state: &mut State) {
        while state.running < state.limit {
            let Some(next) = state.pop() else { return };
            match next.pass.send(self.slot(Instant::now())) {
                Ok(()) => state.running += 1,
                // The caller has left; the lock is held, so the slot must not give itself back.
                Err(mut slot) => slot.queue = None,
            }
        }
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.running < self.limit && self.waiting == 0
    }

    fn admissible(&self, ticket: &Ticket, waiting: usize) -> Result<(), Turned> {
        if waiting >= self.config.length_max {
            return Err(Turned::Full { waiting });
        }
        self.in_time(ticket.deadline, waiting)
    }

    fn in_time(&self, deadline: Option<Instant>, waiting: usize) -> Result<(), Turned> {
        let Some(deadline) = deadline else { return Ok(()) };
        // Nobody who is waited for more than once stands before it in a fair queue.
        let ahead = waiting.min(self.ends.len()) + 1;
        let wait = Duration::from_secs_f64(self.service * ahead as f64 / f64::from(self.limit));
        let late = (Instant::now() + wait).checked_duration_since(deadline);
        late.map_or(Ok(()), |_| Err(Turned::Late { wait }))
    }

    fn push(&mut self, ticket: &Ticket) -> Result<oneshot::Receiver<Slot>, Turned> {
        self.admissible(ticket, self.waiting)?;
        self.sweep();
        let (pass, turn) = oneshot::channel();
        let now = self.now;
        let end = self.ends.entry(ticket.flow).or_insert(now);
        let tag = end.max(now);
        *end = tag + ticket.share();
        let number = self.passed + self.waiting as u64;
        self.heaps[ticket.priority as usize].push(Reverse(Waiting { tag, number, pass }));
        self.waiting += 1;
        Ok(turn)
    }

    /// The next call, in most cases of the highest priority.
    fn pop(&mut self) -> Option<Waiting> {
        self.passed += 1;
        let mut filled = self.heaps.iter_mut().filter(|heap| !heap.is_empty());
        let heap = match self.passed.is_multiple_of(AGING) {
            true => filled.next_back(),
            false => filled.next(),
        };
        let Reverse(next) = heap?.pop()?;
        self.now = self.now.max(next.tag);
        Some(next)
    }

    /// Forgets callers that have left and flows that have nothing ahead of them, before they are
    /// more than those that wait.
    fn sweep(&mut self) {
        let bound = 2 * self.waiting + 64;
        if self.heaps.iter().map(BinaryHeap::len).sum::<usize>() > bound {
            for heap in &mut self.heaps {
                heap.retain(|Reverse(waiting)| !waiting.pass.is_closed());
            }
        }
        if self.ends.len() > bound {
            self.ends.retain(|_, end| *end > self.now);
        }
    }
}

/// A caller's place in the queue, until it has passed or left.
struct Place<'q> {
    queue: &'q Arc<Queue>,
    flow: Flow,
    /// What its flow gets back if it leaves: it must not pay for turns that nobody took, or a flow
    /// whose callers give up would wait the longer for it.
    owed: f64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        state.waiting -= 1;
        if let Some(end) = state.ends.get_mut(&self.flow) {
            *end -= self.owed;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        let mut state = queue.state.lock();
        state.running -= 1;
        let took = self.since.elapsed().as_secs_f64();
        state.service += (took - state.service) * NEWEST;
        queue.dispatch(&mut state);
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.tag.total_cmp(&other.tag).then(self.number.cmp(&other.number))
    }
}

#[cfg(test)]
mod tests;
