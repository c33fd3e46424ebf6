//! What a request costs etcd: estimated from earlier ones, then known.

use super::{Place, Shape, Subject};
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

    /// The same, or what is assumed of a request of its shape.
    pub fn estimate(&self, cluster: &Arc<str>, subject: &Subject) -> Cost {
        self.learnt(cluster, subject).unwrap_or_else(|| assumed(subject))
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
        let (place, shape) = (subject.place.clone(), subject.shape);
        Self { cluster: Arc::clone(cluster), place, shape }
    }
}

/// Of a request that nothing is known about: a resource of common size.
pub fn assumed(subject: &Subject) -> Cost {
    match subject.shape {
        Shape::List | Shape::SortedList => Cost { keys: 1_000, bytes: 2 << 20 },
        Shape::BulkPage | Shape::CheckPage => Cost { keys: 10_000, bytes: 20 << 20 },
        Shape::Page => Cost { keys: 1_000, bytes: 1 << 20 },
        Shape::Keys => Cost { keys: 1_000, bytes: 100 << 10 },
        Shape::Count => Cost { keys: 1_000, bytes: 0 },
        Shape::Snapshot => Cost { keys: 100_000, bytes: 100 << 20 },
        _ => Cost { keys: 1, bytes: subject.value_size },
    }
}
