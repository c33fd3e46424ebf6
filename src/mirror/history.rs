//! What has happened to a collection lately.

use super::{object::Object, snapshot::Tier};
use std::{collections::VecDeque, sync::Arc};

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: Kind,
    /// As etcd sends it: after a delete, only the key and the revision.
    pub object: Arc<Object>,
    /// What was there before, with its value only if the mirror held that.
    pub prev: Option<Arc<Object>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Put,
    Delete,
}

impl Event {
    pub fn revision(&self) -> i64 {
        self.object.mod_revision
    }
}

/// How much is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub events: usize,
    pub bytes: usize,
}

/// The events asked for, or the state, lie before what is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what happened up to revision {floor} is not remembered")]
pub struct Trimmed {
    pub floor: i64,
}

/// The last events of a collection in their order, as many as the limits allow. Events of one
/// revision stay and go together.
#[derive(Debug)]
pub struct History {
    events: VecDeque<Remembered>,
    /// Every event after this revision is here.
    floor: i64,
    bytes: usize,
    limits: Limits,
    /// What the collection itself keeps of objects that were put.
    tier: Tier,
}

#[derive(Debug)]
struct Remembered {
    event: Event,
    /// Bytes that only the history keeps.
    bytes: usize,
}

impl History {
    /// Of a collection that was loaded at this revision.
    pub(super) fn new(floor: i64, tier: Tier, limits: Limits) -> Self {
        Self { events: VecDeque::new(), floor, bytes: 0, limits, tier }
    }

    /// The oldest revision whose state can be told.
    pub fn floor(&self) -> i64 {
        self.floor
    }

    /// Bytes that are kept for the sake of the history alone.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.events.len()
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The events after a revision, in their order.
    ///
    /// # Errors
    ///
    /// When not all of them are remembered.
    pub fn after(&self, revision: i64) -> Result<impl DoubleEndedIterator<Item = &Event>, Trimmed> {
        if revision < self.floor {
            return Err(Trimmed { floor: self.floor });
        }
        let start = self.events.partition_point(|past| past.event.revision() <= revision);
        Ok(self.events.range(start..).map(|past| &past.event))
    }

    /// Adds an event that is not older than the last one. The limits are kept by [`Self::trim`].
    pub(super) fn push(&mut self, event: Event) {
        let bytes = kept_bytes(&event, self.tier);
        self.bytes += bytes;
        self.events.push_back(Remembered { event, bytes });
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.trim();
    }

    /// Weighs its events anew, as the collection keeps more or less of them from now on.
    pub(super) fn set_tier(&mut self, tier: Tier) {
        self.tier = tier;
        for past in &mut self.events {
            past.bytes = kept_bytes(&past.event, tier);
        }
        self.bytes = self.events.iter().map(|past| past.bytes).sum();
        self.trim();
    }

    /// Forgets the oldest revisions until the rest is within the limits.
    pub(super) fn trim(&mut self) {
        while self.events.len() > self.limits.events || self.bytes > self.limits.bytes {
            let Some(oldest) = self.events.front().map(|past| past.event.revision()) else { break };
            let kept = self.events.partition_point(|past| past.event.revision() == oldest);
            self.bytes -= self.events.drain(..kept).map(|past| past.bytes).sum::<usize>();
            self.floor = oldest;
        }
    }
}

/// Bytes that an event keeps and the collection does not. An object that was replaced is counted with
/// the event that replaced it.
fn kept_bytes(event: &Event, tier: Tier) -> usize {
    let is_kept_anyway = event.kind == Kind::Put && tier == Tier::Value;
    let own = if is_kept_anyway { 0 } else { event.object.weight() };
    size_of::<Remembered>() + own + event.prev.as_ref().map_or(0, |prev| prev.weight())
}
