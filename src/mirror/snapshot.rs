//! The state of a collection at one revision.

use super::{
    history::{Event, History, Kind, Trimmed},
    tree::Tree,
};
use std::sync::Arc;

/// What is held of the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// All but the values.
    Index,
    Value,
}

/// All objects of a collection as they were at one revision. A clone costs nothing.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Of the last change, or of the load. The state holds until the collection's next change.
    pub revision: i64,
    pub tier: Tier,
    pub objects: Tree,
}

impl Snapshot {
    /// The state at a revision, for which later events are undone. The caller knows that the store
    /// has reached that revision.
    ///
    /// # Errors
    ///
    /// When not all of these events are remembered.
    pub fn at(&self, revision: i64, history: &History) -> Result<Self, Trimmed> {
        let mut past = self.clone();
        if revision >= self.revision {
            return Ok(past);
        }
        // The history may be ahead of this snapshot.
        let later = history.after(revision)?.rev();
        for event in later.skip_while(|event| event.revision() > self.revision) {
            past.undo(event);
        }
        past.revision = revision;
        Ok(past)
    }

    fn undo(&mut self, event: &Event) {
        match &event.prev {
            Some(prev) => {
                if !prev.holds_value() {
                    self.tier = Tier::Index;
                }
                self.objects.put(Arc::clone(prev));
            }
            None if event.kind == Kind::Put => {
                self.objects.remove(event.object.key());
            }
            None => {}
        }
    }

    /// Bytes of memory; what it shares with other snapshots counts in each of them.
    pub fn bytes(&self) -> usize {
        let totals = self.objects.totals();
        let fields = match self.tier {
            Tier::Index => totals.keys_bytes,
            Tier::Value => totals.bytes,
        };
        fields + totals.count * super::object::OVERHEAD
    }
}
