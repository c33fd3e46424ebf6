//! The rule of sharing, without its mechanics.

use std::{
    collections::{
        HashMap,
        hash_map::Entry::{Occupied, Vacant},
    },
    hash::Hash,
};

/// Who waits for which flight. A flight is one read of etcd; for each key at most one is out and at
/// most one batch is open for those who arrive meanwhile.
///
/// ```text
///           join: you fly              join: open a batch         join: enter it
///  (absent) -------------> out, none ------------------> out, open <----------.
///      ^                     |   ^                        |   |________________|
///      `------- returned ----'   `---- returned: it flies-'
/// ```
///
/// A batch may also be open while nothing is out: it waits for its turn, and is joined until
/// [`Book::seal`] says that it is about to be sent.
#[derive(Debug, Clone)]
pub struct Book<K, B> {
    entries: HashMap<K, Entry<B>>,
}

#[derive(Debug, Clone)]
struct Entry<B> {
    /// Whether a flight was sent and has not returned, or is about to be sent.
    out: bool,
    open: Option<B>,
}

impl<K, B> Default for Book<K, B> {
    fn default() -> Self {
        Self { entries: HashMap::new() }
    }
}

impl<K: Eq + Hash, B> Book<K, B> {
    /// A read arrives that is sent by itself, now, if nothing is out: then there is `None`. Else it
    /// must not share what was sent before it arrived, and belongs to this batch.
    pub fn join(&mut self, key: K, open: impl FnOnce() -> B) -> Option<&mut B> {
        match self.entries.entry(key) {
            Vacant(vacant) => {
                vacant.insert(Entry { out: true, open: None });
                None
            }
            Occupied(occupied) => Some(occupied.into_mut().open.get_or_insert_with(open)),
        }
    }

    /// A read arrives that waits for its turn even if nothing is out. True when nothing is, so that
    /// the batch's turn is to be asked for.
    pub fn queue(&mut self, key: K, open: impl FnOnce() -> B) -> (&mut B, bool) {
        match self.entries.entry(key) {
            Vacant(vacant) => {
                let entry = vacant.insert(Entry { out: false, open: None });
                (entry.open.get_or_insert_with(open), true)
            }
            Occupied(occupied) => (occupied.into_mut().open.get_or_insert_with(open), false),
        }
    }

    /// The open batch is about to be sent: nobody joins it any more.
    pub fn seal(&mut self, key: &K) -> Option<B> {
        let entry = self.entries.get_mut(key)?;
        entry.out = true;
        entry.open.take()
    }

    /// The flight that was out has returned. The open batch stays open until it is sealed; false
    /// when there is none.
    pub fn returned(&mut self, key: &K) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        entry.out = false;
        let waiting = entry.open.is_some();
        if !waiting {
            self.entries.remove(key);
        }
        waiting
    }

    /// The batch that is open for `key`.
    pub fn open(&mut self, key: &K) -> Option<&mut B> {
        self.entries.get_mut(key)?.open.as_mut()
    }

    /// Whether nothing is out or open for any key.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
