//! Orders in which writes, the feed, reads and watchers can meet.
//!
//! etcd is a list of states; the collection, the mirror and the watchers are the real ones. A few of
//! each are taken through every order of their steps, and more of them through thousands that seeds
//! decide. That a mistake is found is tried, too.

use super::{
    Behind, Change, Limits, Mirror, Position, Snapshot, Tier, Watcher, Writer,
    model::{Model, Txn, key, object},
    reader::tests::mirror,
};
use crate::etcd::proto::{etcdserverpb::WatchCreateRequest, mvccpb::KeyValue};
use futures_util::FutureExt;
use seawall_testkit::{Choices, each_seed, every_choice};
use std::sync::Arc;

/// Keys from this number on belong to another collection.
const OTHERS: u8 = 12;

const CLUSTER: u64 = 7;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    /// A read is answered at once.
    SkipProbe,
    /// The feed says how far it is before that can be read.
    SayBeforeApply,
    /// Progress is where the feed is, whatever was told.
    ForgetTold,
}

/// How much there is of everything.
struct Size {
    readers: usize,
    /// Looks of the watcher at the history, and questions how far it is.
    looks: usize,
    /// Whether states of the past are looked at as well.
    past: bool,
    limits: Limits,
}

struct World {
    mistake: Mistake,
    model: Model,
    mirror: Arc<Mirror>,
    writer: Writer,
    /// Up to where writes are stored, acknowledged, applied here, and said to be.
    stored: i64,
    acknowledged: i64,
    applied: i64,
    said: i64,
    readers: Vec<Reader>,
    watching: Option<Watching>,
    looks: usize,
}

enum Reader {
    /// Knows of nothing that was acknowledged after this revision.
    Arrived {
        floor: i64,
    },
    Probed {
        floor: i64,
        header: i64,
    },
    Answered,
}

/// A watcher, and what its client was told.
struct Watching {
    watcher: Watcher,
    since: i64,
    events: Vec<i64>,
    progress: i64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Store,
    Acknowledge,
    Apply,
    Say,
    Arrive,
    Probe(usize),
    Answer(usize),
    Past,
    Deliver,
    Progress,
}

impl World {
    fn new(mistake: Mistake, txns: &[Txn], limits: Limits) -> Self {
        let model = Model::of(txns);
        let objects: Vec<_> = ours(&model, 1).map(object).collect();
        let writer = Writer::load(objects, 1, Tier::Value, limits);
        let (mirror, _) = mirror();
        let at = Position { revision: 1, live: true, cluster_id: CLUSTER };
        mirror.set_position(at);
        let everything = WatchCreateRequest {
            key: b"/k/".to_vec().into(),
            range_end: format!("/k/{OTHERS}").into(),
            ..WatchCreateRequest::default()
        };
        let watcher = Watcher::new(&everything, 1);
        let watching = Some(Watching { watcher, since: 2, events: Vec::new(), progress: 0 });
        let (stored, acknowledged, applied, said) = (1, 1, 1, 1);
        let readers = Vec::new();
        let looks = 0;
        Self {
            mistake,
            model,
            mirror,
            writer,
            stored,
            acknowledged,
            applied,
            said,
            readers,
            watching,
            looks,
        }
    }

    /// What can happen next.
    fn steps(&self, size: &Size) -> Vec<Step> {
        let early = self.mistake == Mistake::SayBeforeApply;
        let may_say = if early { self.stored } else { self.applied };
        let mut steps = Vec::new();
        let mut may = |step, condition: bool| steps.extend(condition.then_some(step));
        may(Step::Store, self.stored < self.model.revision());
        // Only readers care.
        may(Step::Acknowledge, size.readers > 0 && self.acknowledged < self.stored);
        may(Step::Apply, self.applied < self.stored);
        may(Step::Say, self.said < may_say);
        may(Step::Arrive, self.readers.len() < size.readers);
        for (index, reader) in self.readers.iter().enumerate() {
            may(Step::Probe(index), matches!(reader, Reader::Arrived { .. }));
            let reached = |header: i64| self.mirror.reached(header, CLUSTER).now_or_never();
            let is_due =
                matches!(reader, Reader::Probed { header, .. } if reached(*header).is_some());
            may(Step::Answer(index), is_due);
        }
        if !steps.is_empty() && self.looks < size.looks {
            steps.extend([Step::Deliver, Step::Progress]);
            steps.extend(size.past.then_some(Step::Past));
        }
        steps
    }

    fn take(&mut self, step: Step, choices: &mut Choices) -> Result<(), String> {
        match step {
            Step::Store => self.stored += 1,
            Step::Acknowledge => self.acknowledged += 1,
            Step::Apply => self.apply(),
            Step::Say => self.say(),
            Step::Arrive => self.readers.push(Reader::Arrived { floor: self.acknowledged }),
            Step::Probe(index) => {
                let Reader::Arrived { floor } = self.readers[index] else { return Ok(()) };
                let asked = self.mistake != Mistake::SkipProbe;
                let header = if asked { self.stored } else { 0 };
                self.readers[index] = Reader::Probed { floor, header };
            }
            Step::Answer(index) => return self.answer(index),
            Step::Past => return self.past(choices),
            Step::Deliver => return self.deliver(),
            Step::Progress => return self.progress(),
        }
        Ok(())
    }

    /// One more revision, be it of another collection.
    fn apply(&mut self) {
        self.applied += 1;
        self.writer.apply(changes(&self.model, self.applied));
    }

    fn say(&mut self) {
        self.said =
            if self.mistake == Mistake::SayBeforeApply { self.stored } else { self.applied };
        let (revision, cluster_id) = (self.said, CLUSTER);
        self.mirror.set_position(Position { revision, live: true, cluster_id });
    }

    /// As `pipeline::mirrored` does.
    fn answer(&mut self, index: usize) -> Result<(), String> {
        let Reader::Probed { floor, header } = self.readers[index] else { return Ok(()) };
        let reached = self.mirror.reached(header, CLUSTER).now_or_never();
        let reached = reached.and_then(Result::ok).ok_or("it was there before")?;
        let snapshot = self.writer.store().snapshot();
        let revision = reached.max(snapshot.revision);
        self.readers[index] = Reader::Answered;
        if revision < floor {
            return Err(format!("an answer at {revision} after {floor} was acknowledged"));
        }
        self.is_state(&snapshot, revision)
    }

    /// A read of a past that is remembered.
    fn past(&mut self, choices: &mut Choices) -> Result<(), String> {
        self.looks += 1;
        let revision = self.said - choices.pick(3) as i64;
        match self.writer.store().at(revision) {
            Ok(past) => self.is_state(&past, revision),
            Err(trimmed) if revision < trimmed.floor => Ok(()),
            Err(trimmed) => Err(format!("{revision} is not before {trimmed:?}")),
        }
    }

    fn is_state(&self, snapshot: &Snapshot, revision: i64) -> Result<(), String> {
        let held = snapshot
            .objects
            .from_rank(0)
            .map(|object| (object.key().to_vec(), object.mod_revision));
        let stored = ours(&self.model, revision).map(|kv| (kv.key.to_vec(), kv.mod_revision));
        match held.eq(stored) {
            true => Ok(()),
            false => Err(format!("it is not the state at {revision}")),
        }
    }

    /// As `rpc::watch::memory` does.
    fn deliver(&mut self) -> Result<(), String> {
        self.looks += 1;
        let Some(watching) = &mut self.watching else { return Ok(()) };
        let store = self.writer.store();
        let revision = self.said.max(store.snapshot().revision);
        while watching.watcher.is_behind(revision) {
            match store.history(|history| watching.watcher.poll(history, revision, 1 << 20)) {
                Ok(batch) => {
                    let events = batch.iter().flat_map(|batch| batch.events());
                    let events: Vec<_> = events.map(|event| event.revision()).collect();
                    if let Some(late) = events.iter().find(|event| **event <= watching.progress) {
                        return Err(format!(
                            "{late} comes after progress to {}",
                            watching.progress
                        ));
                    }
                    watching.events.extend(events);
                }
                // Another one goes on in its place, from where it is.
                Err(Behind::Trimmed(_) | Behind::PrevNotHeld { .. }) => return self.leave(),
            }
        }
        Ok(())
    }

    fn progress(&mut self) -> Result<(), String> {
        self.looks += 1;
        let Some(watching) = &mut self.watching else { return Ok(()) };
        let reached = match self.mistake {
            Mistake::ForgetTold => Some(self.said),
            _ => watching.watcher.reached(self.said),
        };
        let Some(reached) = reached else { return Ok(()) };
        let last = watching.events.last().copied().unwrap_or(0);
        if reached < last.max(watching.progress) {
            return Err(format!("progress to {reached} after {last}, {}", watching.progress));
        }
        watching.progress = reached;
        Ok(())
    }

    /// Everything before its next revision was told, and nothing twice.
    fn leave(&mut self) -> Result<(), String> {
        let Some(Watching { watcher, since, events, .. }) = self.watching.take() else {
            return Ok(());
        };
        let last = (watcher.next_revision() - 1).min(self.model.revision());
        let happened: Vec<_> =
            (since..=last).flat_map(|revision| changes(&self.model, revision)).collect();
        let happened: Vec<_> = happened.iter().map(|change| change.object.mod_revision).collect();
        match happened == events {
            true => Ok(()),
            false => Err(format!("{happened:?} happened, {events:?} were told")),
        }
    }

    fn run(mut self, size: &Size, choices: &mut Choices) -> Result<(), String> {
        loop {
            let steps = self.steps(size);
            if steps.is_empty() {
                self.deliver()?;
                return self.leave();
            }
            self.take(steps[choices.pick(steps.len())], choices)?;
        }
    }
}

/// The objects of the collection at a revision.
fn ours(model: &Model, revision: i64) -> impl Iterator<Item = &KeyValue> {
    let others = key(OTHERS);
    model.state(revision).iter().take_while(move |(key, _)| **key < others).map(|(_, kv)| kv)
}

/// What happens to it at a revision.
fn changes(model: &Model, revision: i64) -> Vec<Change> {
    let others = key(OTHERS);
    let mut changes = model.changes(revision..=revision);
    changes.retain(|change| change.object.key() < &others[..]);
    changes
}

fn put(number: u8) -> Txn {
    Txn::from([(number, Some(b"v".to_vec()))])
}

const ROOMY: Limits = Limits { events: 100, bytes: 1 << 20 };

/// Two writes, one of each collection, in every order with what is of that size.
fn every_order(mistake: Mistake, readers: usize, looks: usize) -> Result<usize, String> {
    let txns = [put(1), put(OTHERS)];
    let size = Size { readers, looks, past: false, limits: ROOMY };
    every_choice(|choices| World::new(mistake, &txns, size.limits).run(&size, choices))
}

#[tokio::test(start_paused = true)]
async fn a_read_is_right_in_every_order() {
    let orders = every_order(Mistake::None, 1, 0).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert!(orders > 500, "only {orders} orders were tried");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_is_right_in_every_order() {
    let orders = every_order(Mistake::None, 0, 3).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert!(orders > 500, "only {orders} orders were tried");
}

#[tokio::test(start_paused = true)]
async fn mistakes_are_found() {
    for (mistake, (readers, looks), why) in [
        (Mistake::SkipProbe, (1, 0), "was acknowledged"),
        (Mistake::SayBeforeApply, (1, 0), "not the state"),
        (Mistake::ForgetTold, (0, 3), "progress to"),
    ] {
        let wrong = every_order(mistake, readers, looks).expect_err("a mistake");
        assert!(wrong.contains(why), "{wrong}");
    }
}

/// More of everything, and a history that does not hold it all.
#[tokio::test(start_paused = true)]
async fn thousands_of_seeds_are_right() {
    each_seed(0..2_000, |choices| {
        let txn = |choices: &mut Choices| {
            let number = |choices: &mut Choices| choices.pick(2 * usize::from(OTHERS)) as u8;
            let value = |choices: &mut Choices| (choices.pick(4) > 0).then(|| b"v".to_vec());
            let keys = 1 + choices.pick(3);
            (0..keys).map(|_| (number(choices), value(choices))).collect::<Txn>()
        };
        let txns: Vec<_> = (0..15).map(|_| txn(choices)).collect();
        let events = 1 + choices.pick(12);
        let size = Size { readers: 4, looks: 30, past: true, limits: Limits { events, ..ROOMY } };
        World::new(Mistake::None, &txns, size.limits).run(&size, choices)
    })
    .unwrap_or_else(|wrong| panic!("{wrong}"));
}
