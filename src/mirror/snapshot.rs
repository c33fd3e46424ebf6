//! The state of a collection at one revision.

use super::{
    history::{Event, Kind},
    tree::{Totals, Tree},
};
use crate::etcd::key_range::{End, KeyRange};
use std::sync::Arc;

/// What is held of the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// All but the values.
    Index,
    Value,
}

impl Tier {
    /// As operators read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Value => "values",
        }
    }
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
    /// The state at an earlier revision, for which all events that came after it are undone. Those
    /// that this snapshot does not have yet are passed over.
    pub(super) fn before(&self, later: &[Event], revision: i64) -> Self {
        let mut past = Self { revision, ..self.clone() };
        for event in later.iter().rev().skip_while(|event| event.revision() > self.revision) {
            past.undo(event);
        }
        past
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

    /// What the objects of a range amount to.
    pub fn totals(&self, range: &KeyRange) -> Totals {
        if range.is_empty() {
            return Totals::default();
        }
        let before_end = match &range.end {
            End::Key(end) => self.objects.before_key(end),
            End::Infinite => self.objects.totals(),
        };
        before_end - self.objects.before_key(&range.start)
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
