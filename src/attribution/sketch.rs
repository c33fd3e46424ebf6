//! The heaviest of any number of names, in bounded memory.

use super::{
    heap::Heap,
    names::{Hashed, Name},
    top::Load,
};
use std::{collections::HashMap, hash::Hash};

/// Space-saving counters (Metwally, Agrawal, El Abbadi 2005). A name that is met when there is no room
/// takes the place of the lightest and inherits its weight, since it may have been met before.
///
/// With `entries` counters, after a total weight of `total`:
/// - the true weight of a name lies between what was counted since it came in and its `weight`;
///   these differ by `total / entries` at most;
/// - a name whose true weight is above `total / entries` is there.
#[derive(Debug)]
pub(super) struct Sketch<K> {
    entries: usize,
    /// Weights are the upper bounds, values what was counted.
    heap: Heap<K, Load>,
    /// What a name that is not there may weigh at most.
    missed: f64,
}

impl<K> Sketch<K> {
    pub(super) fn new(entries: usize) -> Self {
        Self { entries: entries.max(1), heap: Heap::default(), missed: 0.0 }
    }

    pub(super) fn add<N: Name<Kept = K>>(&mut self, name: &Hashed<N>, load: &Load) {
        let Hashed { hash, name } = name;
        if let Some(slot) = self.heap.find(*hash, |kept| name.is(kept)) {
            *self.heap.value(slot) += *load;
            return self.heap.grow(slot, self.heap.weight(slot) + load.cost);
        }
        if self.heap.len() < self.entries {
            return self.heap.push(*hash, name.keep(), self.missed + load.cost, *load);
        }
        self.missed = self.heap.lightest().unwrap_or_default();
        self.heap.replace_lightest(*hash, name.keep(), self.missed + load.cost, *load);
    }

    pub(super) fn resize(&mut self, entries: usize) {
        self.entries = entries.max(1);
        if let Some(dropped) = self.heap.truncate(self.entries) {
            self.missed = dropped;
        }
    }

    pub(super) fn clear(&mut self) {
        self.heap.clear();
        self.missed = 0.0;
    }
}

impl<K: Clone> Sketch<K> {
    /// A copy of what it holds, to be merged without keeping calls waiting.
    pub(super) fn summary(&self) -> Summary<K> {
        let entries =
            self.heap.iter().map(|slot| (slot.key.clone(), slot.value, slot.weight)).collect();
        Summary { entries, missed: self.missed }
    }
}

#[derive(Debug)]
pub(super) struct Summary<K> {
    /// Each with what was counted and the upper bound.
    entries: Vec<(K, Load, f64)>,
    missed: f64,
}

/// Several sketches as one, with the guarantees of each for the sum of their totals.
#[derive(Debug)]
pub(super) struct Merged<K> {
    names: HashMap<K, Seen>,
    missed: f64,
}

#[derive(Debug, Default)]
struct Seen {
    load: Load,
    /// Of the sketches that have it: the sum of upper bounds, and of what others may have missed.
    weight: f64,
    missed: f64,
}

/// A name of a merged sketch. Its true cost is `load.cost` or more, by `error` at most.
#[derive(Debug)]
pub(super) struct Weighed<K> {
    pub(super) key: K,
    pub(super) load: Load,
    pub(super) error: f64,
}

impl<K> Default for Merged<K> {
    fn default() -> Self {
        Self { names: HashMap::new(), missed: 0.0 }
    }
}

impl<K: Eq + Hash> Merged<K> {
    pub(super) fn add(&mut self, summary: Summary<K>) {
        self.missed += summary.missed;
        for (key, load, weight) in summary.entries {
            let seen = self.names.entry(key).or_default();
            seen.load += load;
            seen.weight += weight;
            seen.missed += summary.missed;
        }
    }

    /// The `entries` that may be the heaviest, the one with the highest known cost first.
    pub(super) fn heaviest(self, entries: usize) -> Vec<Weighed<K>> {
        let missed = self.missed;
        let mut weighed: Vec<_> = self
            .names
            .into_iter()
            .map(|(key, seen)| {
                // The sketches that do not have it may each have missed so much of it.
                let weight = seen.weight + (missed - seen.missed);
                Weighed { key, load: seen.load, error: (weight - seen.load.cost).max(0.0) }
            })
            .collect();
        // Cutting by the upper bound is what keeps the guarantee.
        let upper = |weighed: &Weighed<K>| weighed.load.cost + weighed.error;
        weighed.sort_by(|a, b| upper(b).total_cmp(&upper(a)));
        weighed.truncate(entries.max(1));
        weighed.sort_by(|a, b| b.load.cost.total_cmp(&a.load.cost));
        weighed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    impl Name for u8 {
        type Kept = u8;

        fn is(&self, kept: &u8) -> bool {
            self == kept
        }

        fn keep(&self) -> u8 {
            *self
        }
    }

    fn load(cost: u32) -> Load {
        Load { cost: cost.into(), requests: 1, ..Load::default() }
    }

    /// Hashes collide on purpose.
    fn add(sketch: &mut Sketch<u8>, name: u8, cost: u32) {
        sketch.add(&Hashed { hash: u64::from(name) % 7, name }, &load(cost));
    }

    fn merged<'a>(sketches: impl IntoIterator<Item = &'a Sketch<u8>>) -> Merged<u8> {
        let mut merged = Merged::default();
        for sketch in sketches {
            merged.add(sketch.summary());
        }
        merged
    }

    /// What the comment on [`Sketch`] promises of what `stream` has left in `found`.
    fn check(stream: &[(u8, u32)], entries: usize, found: &[Weighed<u8>]) {
        let mut truth: HashMap<u8, f64> = HashMap::new();
        for &(name, cost) in stream {
            *truth.entry(name).or_default() += f64::from(cost);
        }
        let share = truth.values().sum::<f64>() / entries as f64;
        assert!(found.len() <= entries);
        for Weighed { key, load, error } in found {
            let range = load.cost..=load.cost + error;
            assert!(range.contains(&truth[key]), "{key}: {} is not in {range:?}", truth[key]);
            assert!(*error <= share, "{key}: {error} is more than {share}");
        }
        for (name, weight) in truth {
            let present = found.iter().any(|weighed| weighed.key == name);
            assert!(present || weight <= share, "{name} of {weight} is not there");
        }
    }

    /// A few names carry most of the weight, as in life.
    fn streams() -> impl Strategy<Value = Vec<(u8, u32)>> {
        let name = prop_oneof![3 => 0..5_u8, 2 => 0..100_u8];
        vec((name, 0..1_000_u32), 0..500)
    }

    proptest! {
        #[test]
        fn finds_the_heaviest_and_knows_its_error(stream in streams(), entries in 1..30_usize) {
            let mut sketch = Sketch::new(entries);
            for &(name, cost) in &stream {
                add(&mut sketch, name, cost);
            }
            check(&stream, entries, &merged([&sketch]).heaviest(entries));
        }

        #[test]
        fn merging_keeps_the_guarantee(
            stream in streams(),
            entries in 1..30_usize,
            parts in 1..6_usize,
        ) {
            let mut sketches: Vec<_> = (0..parts).map(|_| Sketch::new(entries)).collect();
            for (at, &(name, cost)) in stream.iter().enumerate() {
                add(&mut sketches[at % parts], name, cost);
            }
            check(&stream, entries, &merged(&sketches).heaviest(entries));
        }

        #[test]
        fn resizing_keeps_the_guarantee_of_the_smaller(
            before in streams(),
            after in streams(),
            small in 1..15_usize,
            grows: bool,
        ) {
            let sizes = if grows { (small, 30) } else { (30, small) };
            let mut sketch = Sketch::new(sizes.0);
            for &(name, cost) in &before {
                add(&mut sketch, name, cost);
            }
            sketch.resize(sizes.1);
            for &(name, cost) in &after {
                add(&mut sketch, name, cost);
            }
            let stream = [before, after].concat();
            check(&stream, small, &merged([&sketch]).heaviest(small));
        }
    }

    #[test]
    fn what_fits_is_counted_exactly() {
        let mut sketch = Sketch::new(2);
        for (name, cost) in [(1, 10), (2, 5), (1, 1)] {
            add(&mut sketch, name, cost);
        }
        let found = merged([&sketch]).heaviest(10);
        let found: Vec<_> =
            found.iter().map(|w| (w.key, w.load.cost, w.load.requests, w.error)).collect();
        assert_eq!(found, [(1, 11.0, 2, 0.0), (2, 5.0, 1, 0.0)]);
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_lightest() {
        let mut sketch = Sketch::new(2);
        for (name, cost) in [(1, 10), (2, 5), (3, 2)] {
            add(&mut sketch, name, cost);
        }
        let found = merged([&sketch]).heaviest(10);
        let found: Vec<_> = found.iter().map(|w| (w.key, w.load.cost, w.error)).collect();
        assert_eq!(found, [(1, 10.0, 0.0), (3, 2.0, 5.0)]);
    }
}
