//! The largest of any number of things, in bounded memory.

use super::{
    heap::Heap,
    names::{Hashed, Name},
};
use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

/// The names with the largest sizes. This is exact: what drops out has as many larger ones above it
/// as there are entries.
#[derive(Debug)]
pub(super) struct Largest<K> {
    entries: usize,
    /// Weights are sizes; values count how often a name was seen.
    heap: Heap<K, u64>,
}

impl<K> Largest<K> {
    pub(super) fn new(entries: usize) -> Self {
        Self { entries: entries.max(1), heap: Heap::default() }
    }

    pub(super) fn see<N: Name<Kept = K>>(&mut self, name: &Hashed<N>, size: u64) {
        let Hashed { hash, name } = name;
        let size = size as f64;
        if let Some(slot) = self.heap.find(*hash, |kept| name.is(kept)) {
            *self.heap.value(slot) += 1;
            return self.heap.grow(slot, self.heap.weight(slot).max(size));
        }
        if self.heap.len() < self.entries {
            return self.heap.push(*hash, name.keep(), size, 1);
        }
        if self.heap.lightest().is_some_and(|lightest| lightest < size) {
            self.heap.replace_lightest(*hash, name.keep(), size, 1);
        }
    }

    pub(super) fn resize(&mut self, entries: usize) {
        self.entries = entries.max(1);
        self.heap.truncate(self.entries);
    }

    pub(super) fn clear(&mut self) {
        self.heap.clear();
    }
}

impl<K: Clone> Largest<K> {
    pub(super) fn sizes(&self) -> Vec<Sized<K>> {
        let sized = self.heap.iter().map(|slot| Sized {
            key: slot.key.clone(),
            size: slot.weight as u64,
            seen: slot.value,
        });
        sized.collect()
    }
}

#[derive(Debug)]
pub(super) struct Sized<K> {
    pub(super) key: K,
    pub(super) size: u64,
    pub(super) seen: u64,
}

/// The largest of several lists, the very largest first.
pub(super) fn merge<K: Eq + Hash + Clone>(
    lists: impl IntoIterator<Item = Vec<Sized<K>>>,
    entries: usize,
) -> Vec<Sized<K>> {
    let mut names: HashMap<K, Sized<K>> = HashMap::new();
    for sized in lists.into_iter().flatten() {
        match names.entry(sized.key.clone()) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.size = known.size.max(sized.size);
                known.seen += sized.seen;
            }
            Entry::Vacant(place) => {
                place.insert(sized);
            }
        }
    }
    let mut merged: Vec<_> = names.into_values().collect();
    merged.sort_by_key(|sized| std::cmp::Reverse(sized.size));
    merged.truncate(entries);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #[test]
        fn keeps_the_largest(
            stream in vec((0..60_u8, 0..500_u64), 0..300),
            entries in 1..20_usize,
        ) {
            let mut lists = [Largest::new(entries), Largest::new(entries)];
            let mut truth: HashMap<u8, u64> = HashMap::new();
            for (at, &(name, size)) in stream.iter().enumerate() {
                lists[at % 2].see(&Hashed { hash: u64::from(name) % 7, name }, size);
                let largest = truth.entry(name).or_default();
                *largest = size.max(*largest);
            }
            let found = merge(lists.iter().map(Largest::sizes), entries);
            let mut sizes: Vec<_> = truth.values().copied().collect();
            sizes.sort_unstable_by(|a, b| b.cmp(a));
            sizes.truncate(entries);
            prop_assert_eq!(found.iter().map(|sized| sized.size).collect::<Vec<_>>(), sizes);
            for sized in found {
                prop_assert_eq!(truth[&sized.key], sized.size);
            }
        }
    }
}
