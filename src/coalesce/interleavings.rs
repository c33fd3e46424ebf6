//! Every order in which reads, writes and flights can meet, tried out.
//!
//! A store of one number, writers that raise it and are acknowledged, readers, and the messages
//! between: a flight reads the store at some moment between being sent and returning. Each step of
//! each is a step of its own, and all their interleavings are walked through. No reader may get less
//! than what had been acknowledged when it arrived.

use super::book::Book;

const READERS: usize = 3;
const WRITES: u32 = 2;

/// How reads are shared: [`Book`]'s way, or one that is known to be wrong.
trait Sharing: Clone + Default {
    /// A reader arrives; true when a flight is to be sent now, carrying it alone.
    fn arrive(&mut self, reader: usize) -> bool;
    /// A flight returned; the readers that fly next, if any.
    fn returned(&mut self) -> Option<Vec<usize>>;
    /// The flight that is out, to join it, where that is allowed.
    fn may_join_flight(&self) -> bool;
}

#[derive(Clone, Default)]
struct NotYetSent(Book<(), Vec<usize>>);

impl Sharing for NotYetSent {
    fn arrive(&mut self, reader: usize) -> bool {
        match self.0.join((), Vec::new) {
            None => true,
            Some(batch) => {
                batch.push(reader);
                false
            }
        }
    }

    fn returned(&mut self) -> Option<Vec<usize>> {
        self.0.returned(&()).then(|| self.0.seal(&()).expect("it is open"))
    }

    fn may_join_flight(&self) -> bool {
        false
    }
}

/// Single flight as it is found in caches: whoever arrives joins what is out.
#[derive(Clone, Default)]
struct Naive {
    out: bool,
}

impl Sharing for Naive {
    fn arrive(&mut self, _reader: usize) -> bool {
        !std::mem::replace(&mut self.out, true)
    }

    fn returned(&mut self) -> Option<Vec<usize>> {
        self.out = false;
        None
    }

    fn may_join_flight(&self) -> bool {
        self.out
    }
}

#[derive(Clone, Default)]
struct World<S> {
    sharing: S,
    /// What etcd holds.
    value: u32,
    /// What writers were told.
    acknowledged: u32,
    flight: Option<Flight>,
    /// What had been acknowledged when each reader arrived.
    arrived: Vec<u32>,
    answered: usize,
}

#[derive(Clone)]
struct Flight {
    readers: Vec<usize>,
    /// What it has read, once it has.
    read: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Commit,
    Acknowledge,
    Arrive,
    Read,
    Return,
}

const STEPS: [Step; 5] = [Step::Commit, Step::Acknowledge, Step::Arrive, Step::Read, Step::Return];

/// A reader that got the past, and how that came about.
type Violation = Vec<Step>;

impl<S: Sharing> World<S> {
    /// The world after `step`; `None` where it cannot happen. The error is the violation it is.
    fn after(&self, step: Step) -> Option<Result<Self, ()>> {
        let mut next = self.clone();
        match step {
            Step::Commit if self.value < WRITES => next.value += 1,
            Step::Acknowledge if self.acknowledged < self.value => next.acknowledged += 1,
            Step::Arrive if self.arrived.len() < READERS => next.arrive(),
            Step::Read if self.flight.as_ref().is_some_and(|flight| flight.read.is_none()) => {
                let value = self.value;
                next.flight.as_mut()?.read = Some(value);
            }
            Step::Return => {
                let read = self.flight.as_ref()?.read?;
                let flight = next.flight.take()?;
                next.answered += flight.readers.len();
                if flight.readers.iter().any(|&reader| read < self.arrived[reader]) {
                    return Some(Err(()));
                }
                let readers = next.sharing.returned();
                next.flight = readers.map(|readers| Flight { readers, read: None });
            }
            _ => return None,
        }
        Some(Ok(next))
    }

    fn arrive(&mut self) {
        let reader = self.arrived.len();
        self.arrived.push(self.acknowledged);
        let joins = self.sharing.may_join_flight();
        if self.sharing.arrive(reader) {
            self.flight = Some(Flight { readers: vec![reader], read: None });
        } else if let Some(flight) = self.flight.as_mut().filter(|_| joins) {
            flight.readers.push(reader);
        }
    }

    /// Walks through everything that can follow, and counts how many ends there are.
    fn explore(&self, path: &mut Vec<Step>, ends: &mut u64) -> Result<(), Violation> {
        let mut ended = true;
        for step in STEPS {
            let Some(next) = self.after(step) else { continue };
            ended = false;
            path.push(step);
            next.map_err(|()| path.clone())?.explore(path, ends)?;
            path.pop();
        }
        if ended {
            assert_eq!(self.answered, READERS, "{path:?} leaves a reader without an answer");
            *ends += 1;
        }
        Ok(())
    }
}

fn explore<S: Sharing>() -> Result<u64, Violation> {
    let mut ends = 0;
    World::<S>::default().explore(&mut Vec::new(), &mut ends)?;
    Ok(ends)
}

#[test]
fn nobody_sees_the_past_in_any_order_of_events() {
    let ends = explore::<NotYetSent>().unwrap_or_else(|path| panic!("stale after {path:?}"));
    assert!(ends > 1_000, "only {ends} orders were tried");
}

#[test]
fn joining_a_flight_that_was_sent_is_found_out() {
    let path = explore::<Naive>().expect_err("the naive way shows the past");
    assert!(matches!(path.last(), Some(Step::Return)));
}
