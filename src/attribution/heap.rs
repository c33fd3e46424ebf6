//! A bounded set of weighted keys.

use hashbrown::HashTable;
use std::mem;

/// Keys with weights, of which any is found by its hash and the lightest is always at hand.
#[derive(Debug)]
pub(super) struct Heap<K, V> {
    slots: Vec<Slot<K, V>>,
    /// Slots as a binary heap: none is heavier than the two below it.
    order: Vec<usize>,
    /// Slots by the hashes of their keys.
    table: HashTable<usize>,
}

#[derive(Debug)]
pub(super) struct Slot<K, V> {
    hash: u64,
    /// Where in `order` it stands.
    at: usize,
    pub(super) key: K,
    pub(super) weight: f64,
    pub(super) value: V,
}

impl<K, V> Default for Heap<K, V> {
    fn default() -> Self {
        Self { slots: Vec::new(), order: Vec::new(), table: HashTable::new() }
    }
}

impl<K, V> Heap<K, V> {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// In no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot<K, V>> {
        self.slots.iter()
    }

    pub(super) fn find(&self, hash: u64, is: impl Fn(&K) -> bool) -> Option<usize> {
        let same = |&slot: &usize| self.slots[slot].hash == hash && is(&self.slots[slot].key);
        self.table.find(hash, same).copied()
    }

    pub(super) fn value(&mut self, slot: usize) -> &mut V {
        &mut self.slots[slot].value
    }

    pub(super) fn weight(&self, slot: usize) -> f64 {
        self.slots[slot].weight
    }

    /// The least of all weights.
    pub(super) fn lightest(&self) -> Option<f64> {
        self.order.first().map(|&slot| self.slots[slot].weight)
    }

    /// Adds a key that is not there.
    pub(super) fn push(&mut self, hash: u64, key: K, weight: f64, value: V) {
        let slot = self.slots.len();
        self.slots.push(Slot { hash, at: slot, key, weight, value });
        self.order.push(slot);
        self.table.insert_unique(hash, slot, |&slot| self.slots[slot].hash);
        let mut at = slot;
        while at > 0 && self.is_lighter(at, (at - 1) / 2) {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    /// Puts a key that is not there, and is no lighter, in the place of the lightest.
    pub(super) fn replace_lightest(&mut self, hash: u64, key: K, weight: f64, value: V) {
        let Some(&slot) = self.order.first() else { return };
        let gone = self.table.find_entry(self.slots[slot].hash, |&found| found == slot);
        if let Ok(gone) = gone {
            gone.remove();
        }
        self.slots[slot] = Slot { hash, at: 0, key, weight, value };
        self.table.insert_unique(hash, slot, |&slot| self.slots[slot].hash);
        self.sink(0);
    }

    /// `weight` is no less than what it was.
    pub(super) fn grow(&mut self, slot: usize, weight: f64) {
        self.slots[slot].weight = weight;
        self.sink(self.slots[slot].at);
    }

    /// Drops the lightest beyond `len`; tells the weight of the heaviest of them.
    pub(super) fn truncate(&mut self, len: usize) -> Option<f64> {
        if self.len() <= len {
            return None;
        }
        let mut slots = mem::take(self).slots;
        slots.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        let dropped = slots[len].weight;
        for slot in slots.into_iter().take(len) {
            self.push(slot.hash, slot.key, slot.weight, slot.value);
        }
        Some(dropped)
    }

    /// Keeps its memory.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.order.clear();
        self.table.clear();
    }

    /// Lets what stands at `at` go down to where nothing below it is lighter.
    fn sink(&mut self, mut at: usize) {
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            if left >= self.order.len() {
                return;
            }
            let right_is_lighter = right < self.order.len() && self.is_lighter(right, left);
            let child = if right_is_lighter { right } else { left };
            if !self.is_lighter(child, at) {
                return;
            }
            self.swap(child, at);
            at = child;
        }
    }

    fn is_lighter(&self, a: usize, b: usize) -> bool {
        self.slots[self.order[a]].weight < self.slots[self.order[b]].weight
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.order.swap(a, b);
        self.slots[self.order[a]].at = a;
        self.slots[self.order[b]].at = b;
    }
}
