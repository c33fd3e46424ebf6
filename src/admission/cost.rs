//! What a request costs etcd: estimated from earlier ones, then known.

use super::{Class, Line, Place, Protection, Shape, Subject, rules::Limits};
use moka::sync::Cache;
use std::{
    fmt,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// What a request makes etcd do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Keys that etcd walks, whether or not they are in the answer: for a page also all that follow
    /// it, since they are counted.
    pub keys: u64,
    /// Bytes of the answer.
    pub bytes: u64,
}

/// kube-apiserver's own scale: one seat of its fair queueing is 100 kB.
const BYTES_PER_UNIT: f64 = 100_000.0;

/// 0.33 us for each key under etcd's index lock; a point read takes about a thousand times that.
const KEYS_PER_UNIT: f64 = 1_000.0;

impl Cost {
    /// One for any request at all, one for 1,000 keys, one for 100 kB.
    pub fn units(self) -> f64 {
        1.0 + self.keys as f64 / KEYS_PER_UNIT + self.bytes as f64 / BYTES_PER_UNIT
    }
}

impl Cost {
    /// The more of each.
    fn max(self, other: Self) -> Self {
        Self { keys: self.keys.max(other.keys), bytes: self.bytes.max(other.bytes) }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, bytes } = self;
        let units = self.units();
        write!(f, "1 + {keys} keys / 1000 + {bytes} bytes / 100000 = {units:.2}")
    }
}

/// What earlier requests have cost.
#[derive(Debug)]
pub struct Costs {
    seen: Cache<Key, Arc<Seen>>,
}

/// Requests that cost about the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    cluster: Arc<str>,
    place: Place,
    shape: Shape,
    /// A transaction has that of its heaviest read.
    class: Class,
}

/// Averages as the bits of an `f64`, read and written without a lock: two that write at once lose
/// one of two observations, which is harmless.
#[derive(Debug, Default)]
struct Seen {
    keys: AtomicU64,
    bytes: AtomicU64,
}

/// Collections times shapes of a large cluster; about 200 bytes each.
const PLACES_MAX: u64 = 20_000;

/// Share of the newest observation: collections grow slowly, and shrink at once by a deletion.
const NEWEST: f64 = 0.3;

impl Default for Costs {
    fn default() -> Self {
        Self { seen: Cache::new(PLACES_MAX) }
    }
}

impl Costs {
    /// What `subject` will cost, as far as it was learnt; else `None`.
    pub fn learnt(&self, cluster: &Arc<str>, subject: &Subject) -> Option<Cost> {
        let seen = self.seen.get(&Key::of(cluster, subject))?;
        let read = |average: &AtomicU64| f64::from_bits(average.load(Relaxed)) as u64;
        Some(Cost { keys: read(&seen.keys), bytes: read(&seen.bytes) })
    }

    /// The same, or what is assumed of a request of its shape; of a small one there is nothing to learn.
    pub fn estimate(&self, cluster: &Arc<str>, subject: &Subject) -> Cost {
        let learnt = if is_many(subject) { self.learnt(cluster, subject) } else { None };
        learnt.unwrap_or_else(|| assumed(subject))
    }

    /// `subject` costs no less than this, however much more it is: the next one must not be taken to
    /// cost what others did.
    pub fn learn_at_least(&self, cluster: &Arc<str>, subject: &Subject, cost: Cost) {
        let seen = self.seen.get_with(Key::of(cluster, subject), Arc::default);
        // Of numbers that are not negative the bits have the same order.
        for (average, least) in [(&seen.keys, cost.keys), (&seen.bytes, cost.bytes)] {
            average.fetch_max((least as f64).to_bits(), Relaxed);
        }
    }

    /// `subject` has cost so much.
    pub fn learn(&self, cluster: &Arc<str>, subject: &Subject, cost: Cost) {
        let key = Key::of(cluster, subject);
        let mut fresh = false;
        let seen = self.seen.get_with(key, || {
            fresh = true;
            Arc::default()
        });
        let share = if fresh { 1.0 } else { NEWEST };
        let mix = |average: &AtomicU64, newest: u64| {
            let before = f64::from_bits(average.load(Relaxed));
            let after = before + (newest as f64 - before) * share;
            average.store(after.to_bits(), Relaxed);
        };
        mix(&seen.keys, cost.keys);
        mix(&seen.bytes, cost.bytes);
    }
}

impl Key {
    fn of(cluster: &Arc<str>, subject: &Subject) -> Self {
        let Subject { shape, class, .. } = *subject;
        Self { cluster: Arc::clone(cluster), place: subject.place.clone(), shape, class }
    }
}

/// Of a request that nothing is known about: a resource of common size.
pub fn assumed(subject: &Subject) -> Cost {
    match (subject.shape, subject.class) {
        // Lists of leases are short.
        (_, Class::Critical) => Cost { keys: 1, bytes: subject.value_size },
        (Shape::List | Shape::SortedList, _) | (Shape::ReadTxn, Class::HeavyList) => {
            Cost { keys: 1_000, bytes: 2 << 20 }
        }
        (Shape::BulkPage | Shape::CheckPage, _) => Cost { keys: 10_000, bytes: 20 << 20 },
        (Shape::Page, _) | (Shape::ReadTxn, Class::PagedList) => {
            Cost { keys: 1_000, bytes: 1 << 20 }
        }
        (Shape::Keys, _) => Cost { keys: 1_000, bytes: 100 << 10 },
        (Shape::Count, _) | (Shape::ReadTxn, Class::Background) => Cost { keys: 1_000, bytes: 0 },
        (Shape::Snapshot, _) => Cost { keys: 100_000, bytes: 100 << 20 },
        _ => Cost { keys: 1, bytes: subject.value_size },
    }
}

/// What a call was charged with before it went to etcd, to be put right when its answer has ended.
#[derive(Debug)]
pub struct Charge {
    pub(super) protection: Arc<Protection>,
    /// Of the rules, those that have charged it.
    pub(super) limits: Vec<Arc<Limits>>,
    pub(super) estimate: Cost,
}

/// How much of an answer there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    Whole,
    /// It broke off, and etcd had read no more of it by then.
    Streamed,
    /// It broke off, or never came. etcd reads all of it before it sends the first byte.
    Cut,
    /// etcd has refused the request for what it says, before it read anything.
    Refused,
}

impl Charge {
    /// Keys that etcd has walked for `bytes` of an answer, as far as can be foreseen.
    pub fn keys_of(&self, subject: &Subject, bytes: u64) -> u64 {
        let Cost { keys, bytes: expected } = self.estimate;
        match expected {
            1.. if is_many(subject) => {
                (u128::from(keys) * u128::from(bytes) / u128::from(expected)) as u64
            }
            _ => keys,
        }
    }

    /// The call is over: `seen` is what etcd has done for it, as far as its answer tells. The rates it
    /// was charged to are put right, and what such calls cost is learnt where that is of use.
    pub fn settle(&self, cluster: &Arc<str>, subject: &Subject, seen: Cost, answered: Answered) {
        let whole = answered == Answered::Whole;
        let cost = match answered {
            // The bytes of a write go the other way.
            Answered::Whole if !subject.is_write() => seen,
            Answered::Streamed => seen,
            Answered::Refused => Cost::default(),
            Answered::Whole | Answered::Cut => seen.max(self.estimate),
        };
        settle(&self.limits, self.estimate, cost);
        // What has broken off would have cost at least so much.
        if is_many(subject) && (whole || seen.units() > self.estimate.units()) {
            self.protection.costs.learn(cluster, subject, seen);
        }
    }
}

/// Puts the rates right that were charged with an estimate.
pub(super) fn settle(limits: &[Arc<Limits>], estimate: Cost, cost: Cost) {
    let difference = cost.units() - estimate.units();
    for bucket in limits.iter().filter_map(|limits| limits.cost.as_ref()) {
        bucket.settle(difference);
    }
}

/// Whether calls like it read many keys, so that one tells something of the next.
pub(super) fn is_many(subject: &Subject) -> bool {
    Line::of(subject.class) == Some(Line::Lists)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{Config, Limit, Permit, Rate, Rule};
    use proptest::{collection::vec, prelude::*, sample::select};
    use std::time::Duration;
    use tokio::{runtime, time::Instant};

    const HOURS: Duration = Duration::from_secs(1_000_000);

    fn of(shape: Shape, class: Class) -> Subject {
        Subject { shape, class, ..Subject::fixture("/registry/pods/") }
    }

    fn list() -> Subject {
        of(Shape::List, Class::HeavyList)
    }

    /// Lets one unit pass in each millisecond.
    fn protection() -> Arc<Protection> {
        let cost = Some(Rate { count: 1_000, period: Duration::from_secs(1) });
        let (burst, wait_max) = (Duration::ZERO, HOURS);
        let limit = Limit { cost, burst, wait_max, ..Rule::fixture().limit };
        let config = Config { rules: vec![Rule { limit, ..Rule::fixture() }], ..Config::fixture() };
        Protection::new(config, &mut Default::default())
    }

    async fn enter(protection: &Arc<Protection>, subject: &Subject) -> Permit {
        let gate = protection.gate(&"main".into());
        let plan = protection.plan(&gate, subject, None).await.expect("a plan");
        protection.enter(&gate, subject, &plan, None).await.expect("a turn")
    }

    /// Goes to etcd, ends like this, and tells what was charged in the end.
    async fn call(
        protection: &Arc<Protection>,
        subject: &Subject,
        seen: Cost,
        answered: Answered,
    ) -> Cost {
        let mut permit = enter(protection, subject).await;
        let charge = permit.take_charge(protection, subject).expect("a charge");
        charge.settle(&"main".into(), subject, seen, answered);
        match answered {
            Answered::Cut => seen.max(permit.estimate()),
            Answered::Refused => Cost::default(),
            Answered::Whole | Answered::Streamed => seen,
        }
    }

    /// A client listed 40 MB at a time, from one member, and was charged with 23 units for each list
    /// and not with 400.
    #[tokio::test(start_paused = true)]
    async fn who_comes_next_waits_for_what_the_last_one_has_cost() {
        let (protection, cost) = (protection(), Cost { keys: 8_000, bytes: 40_000_000 });
        assert_eq!(assumed(&list()).units() as u64, 22);
        call(&protection, &list(), cost, Answered::Whole).await;
        let next = enter(&protection, &list()).await;
        assert_eq!(next.waited, Duration::from_millis(409));
        assert_eq!(next.estimate(), cost);
    }

    #[tokio::test(start_paused = true)]
    async fn what_broke_off_teaches_only_that_it_is_more() {
        let (protection, main) = (protection(), Arc::from("main"));
        let learnt = || protection.costs.learnt(&main, &list());
        call(&protection, &list(), Cost { keys: 1, bytes: 10_000 }, Answered::Cut).await;
        assert_eq!(learnt(), None);
        let cost = Cost { keys: 1_000, bytes: 30_000_000 };
        call(&protection, &list(), cost, Answered::Cut).await;
        assert_eq!(learnt(), Some(cost));
    }

    #[test]
    fn a_transaction_costs_what_its_heaviest_read_does() {
        let (heavy, light) =
            (of(Shape::ReadTxn, Class::HeavyList), of(Shape::ReadTxn, Class::PointRead));
        assert_eq!(assumed(&heavy), assumed(&list()));
        assert_eq!(assumed(&light).keys, 1);
        let (costs, main) = (Costs::default(), Arc::from("main"));
        costs.learn(&main, &heavy, Cost { keys: 9, bytes: 9 });
        assert_eq!(costs.learnt(&main, &light), None);
    }

    #[test]
    fn one_that_turned_out_to_be_large_is_not_taken_for_a_small_one_again() {
        let (costs, main) = (Costs::default(), Arc::from("main"));
        costs.learn(&main, &list(), Cost { keys: 400, bytes: 2_000_000 });
        costs.learn_at_least(&main, &list(), Cost { keys: 1, bytes: 30_000_000 });
        assert_eq!(costs.learnt(&main, &list()), Some(Cost { keys: 400, bytes: 30_000_000 }));
    }

    #[test]
    fn bytes_mean_as_many_keys_as_before() {
        let charge = |estimate| Charge { protection: protection(), limits: Vec::new(), estimate };
        let before = charge(Cost { keys: 500, bytes: 1_000_000 });
        assert_eq!(before.keys_of(&list(), 2_000_000), 1_000);
        assert_eq!(before.keys_of(&of(Shape::Get, Class::PointRead), 2_000_000), 500);
        assert_eq!(charge(Cost { keys: 7, bytes: 0 }).keys_of(&list(), 40), 7);
    }

    fn answered() -> impl Strategy<Value = Answered> {
        select(vec![Answered::Whole, Answered::Streamed, Answered::Cut, Answered::Refused])
    }

    proptest! {
        /// Whatever was thought of each, and however it ended.
        #[test]
        fn what_is_charged_in_the_end_is_what_calls_have_cost(
            calls in vec((0u64..100_000, 0u64..100_000_000, answered()), 1..20),
        ) {
            let runtime =
                runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            let number = calls.len() as f64;
            let (took, cost) = runtime?.block_on(async {
                let (protection, began, mut cost) = (protection(), Instant::now(), 0.0);
                for (keys, bytes, answered) in calls {
                    let seen = Cost { keys, bytes };
                    cost += call(&protection, &list(), seen, answered).await.units();
                }
                enter(&protection, &list()).await;
                (began.elapsed().as_millis() as f64, cost)
            });
            // Clocks round up.
            prop_assert!((took - cost).abs() <= number + 1.0, "{took} ms for {cost} units");
        }
    }
}
