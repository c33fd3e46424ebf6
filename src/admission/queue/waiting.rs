//! Those who wait for their turn: whose is the next, and who gives way where there is no place left.
//!
//! All of it takes time that grows with the logarithm of how many wait.

use super::{Flow, Ticket};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// By `W` each is told what becomes of it.
#[derive(Debug)]
pub(super) struct Waiting<W> {
    /// By priority, the highest first.
    classes: [Class<W>; 3],
    /// Where the last call of each flow will have ended.
    ends: HashMap<Flow, u64>,
    /// The tag of the last call that passed.
    now: u64,
    arrived: u64,
    /// Calls that passed, by which those of low priority get their share.
    passed: u64,
}

/// Who waits where, until it has passed, left or given way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    class: usize,
    turn: Turn,
}

/// Those of one priority.
#[derive(Debug)]
struct Class<W> {
    waiters: BTreeMap<Turn, Waiter<W>>,
    flows: HashMap<Flow, Queued>,
    /// The longest flow last.
    lengths: BTreeSet<(u64, Flow)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    tag: u64,
    /// Among equal tags the earliest.
    number: u64,
}

#[derive(Debug)]
struct Waiter<W> {
    flow: Flow,
    share: u64,
    place: u64,
    told: W,
}

/// Those of one flow.
#[derive(Debug, Default)]
struct Queued {
    /// Places by weight: a flow of twice the weight is as long with twice as many.
    length: u64,
    /// By arrival.
    turns: BTreeMap<u64, Turn>,
}

/// So many calls pass by priority, then one of the lowest that waits.
pub(super) const AGING: u64 = 8;

/// What one call is, of cost 1 or in one place, at weight 1. Whole numbers, so that what is given
/// back is what was taken.
const ONE: u64 = 1_000_000;

/// More than any etcd has to give.
const COST_MAX: f64 = 1e9;

impl Ticket {
    /// What it adds to its flow's turns.
    fn share(&self) -> u64 {
        (self.cost.min(COST_MAX) * ONE as f64) as u64 / self.weight()
    }

    /// What it adds to its flow's length.
    fn place(&self) -> u64 {
        ONE / self.weight()
    }

    fn weight(&self) -> u64 {
        u64::from(self.weight.max(1))
    }
}

impl<W> Waiting<W> {
    pub(super) fn new() -> Self {
        let classes = std::array::from_fn(|_| Class::new());
        Self { classes, ends: HashMap::new(), now: 0, arrived: 0, passed: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.classes.iter().map(Class::len).sum()
    }

    pub(super) fn push(&mut self, ticket: &Ticket, told: W) -> Place {
        self.forget();
        let now = self.now;
        let end = self.ends.entry(ticket.flow).or_insert(now);
        let tag = now.max(*end);
        *end = tag.saturating_add(ticket.share());
        self.arrived += 1;
        let turn = Turn { tag, number: self.arrived };
        let (class, flow) = (ticket.priority as usize, ticket.flow);
        let waiter = Waiter { flow, share: ticket.share(), place: ticket.place(), told };
        self.classes[class].insert(turn, waiter);
        Place { class, turn }
    }

    /// The next one, in most cases of the highest priority.
    pub(super) fn pop(&mut self) -> Option<W> {
        let aged = (self.passed + 1).is_multiple_of(AGING);
        let mut filled = self.classes.iter_mut().filter(|class| class.len() > 0);
        let class = if aged { filled.next_back() } else { filled.next() }?;
        let (&turn, _) = class.waiters.first_key_value()?;
        let next = class.remove(turn)?;
        self.passed += 1;
        self.now = self.now.max(turn.tag);
        Some(next.told)
    }

    /// Leaves its place, if it still has it.
    pub(super) fn leave(&mut self, place: Place) -> Option<W> {
        let waiter = self.classes[place.class].remove(place.turn)?;
        self.pull_forward(waiter.flow, waiter.share);
        Some(waiter.told)
    }

    /// The ticket's turn has come, and was not taken.
    pub(super) fn give_back(&mut self, ticket: &Ticket) {
        self.pull_forward(ticket.flow, ticket.share());
    }

    /// A flow must not pay for turns that nobody took, or one whose callers give up would wait the
    /// longer for it.
    fn pull_forward(&mut self, flow: Flow, share: u64) {
        if let Some(end) = self.ends.get_mut(&flow) {
            *end = end.saturating_sub(share);
        }
    }

    /// Whose place the call takes where none is left: of the lowest priority that waits, and no
    /// higher one than its own, the newest of the longest flow. Among its equals it must stay the
    /// shorter flow for that, or two would turn each other's calls away in turns.
    pub(super) fn yields_to(&self, ticket: &Ticket) -> Option<Place> {
        let own = ticket.priority as usize;
        let mut classes = self.classes.iter().enumerate().skip(own);
        let (index, class) = classes.rfind(|(_, class)| class.len() > 0)?;
        let (longest, flow) = class.lengths.last()?;
        let (_, &turn) = class.flows.get(flow)?.turns.last_key_value()?;
        let left = longest - class.waiters.get(&turn)?.place;
        let shorter = || class.length(ticket.flow) + ticket.place() <= left;
        (index > own || shorter()).then_some(Place { class: index, turn })
    }

    /// How many have their turn before a call that came now: all of a higher priority; of its own
    /// those of its flow, and of each other flow as many as are its equals by weight. A priority
    /// below which nobody waits has its share of turns whoever else waits.
    pub(super) fn ahead(&self, ticket: &Ticket) -> usize {
        let own = ticket.priority as usize;
        let class = &self.classes[own];
        let before = class.flows.get(&ticket.flow).map_or(0, |queued| queued.turns.len());
        let others = class.flows.len() - usize::from(before > 0);
        let rounds = (class.length(ticket.flow) + ticket.place()).div_ceil(ONE) as usize;
        let same = (before + others * rounds).min(class.len());
        let higher: usize = self.classes[..own].iter().map(Class::len).sum();
        let lowest = self.classes[own + 1..].iter().all(|class| class.len() == 0);
        let most = if lowest { (same + 1) * AGING as usize - 1 } else { usize::MAX };
        (higher + same).min(most)
    }

    /// Forgets flows that have nothing ahead of them, before they are more than those that wait;
    /// and of more than that also what those have who do not wait.
    fn forget(&mut self) {
        let bound = 2 * self.len() + 64;
        if self.ends.len() > bound {
            self.ends.retain(|_, end| *end > self.now);
        }
        if self.ends.len() > bound {
            let classes = &self.classes;
            self.ends.retain(|flow, _| classes.iter().any(|class| class.flows.contains_key(flow)));
        }
    }

    #[cfg(test)]
    pub(super) fn flows(&self) -> usize {
        self.ends.len()
    }
}

impl<W> Class<W> {
    fn new() -> Self {
        Self { waiters: BTreeMap::new(), flows: HashMap::new(), lengths: BTreeSet::new() }
    }

    fn len(&self) -> usize {
        self.waiters.len()
    }

    fn length(&self, flow: Flow) -> u64 {
        self.flows.get(&flow).map_or(0, |queued| queued.length)
    }

    fn insert(&mut self, turn: Turn, waiter: Waiter<W>) {
        let queued = self.flows.entry(waiter.flow).or_default();
        self.lengths.remove(&(queued.length, waiter.flow));
        queued.length += waiter.place;
        queued.turns.insert(turn.number, turn);
        self.lengths.insert((queued.length, waiter.flow));
        self.waiters.insert(turn, waiter);
    }

    fn remove(&mut self, turn: Turn) -> Option<Waiter<W>> {
        let waiter = self.waiters.remove(&turn)?;
        let queued = self.flows.get_mut(&waiter.flow)?;
        self.lengths.remove(&(queued.length, waiter.flow));
        queued.length -= waiter.place;
        queued.turns.remove(&turn.number);
        match queued.turns.is_empty() {
            true => drop(self.flows.remove(&waiter.flow)),
            false => drop(self.lengths.insert((queued.length, waiter.flow))),
        }
        Some(waiter)
    }
}
