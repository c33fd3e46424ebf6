//! Watchers as places in the history of a collection: a slow client holds nothing but its place.

mod message;
#[cfg(test)]
mod tests;

use super::history::{Event, History, Kind, Trimmed};
use crate::etcd::{
    key_range::KeyRange,
    proto::etcdserverpb::{WatchCreateRequest, watch_create_request::FilterType},
};
pub use message::EventMessage;

/// Revisions in one response at most, as at etcd.
const REVISIONS_MAX: usize = 1000;

/// Events that are looked at in one go: the writer of the history waits meanwhile.
const LOOKED_AT_MAX: usize = 10_000;

/// A watcher of keys that all lie in one collection.
#[derive(Debug, Clone)]
pub struct Watcher {
    range: KeyRange,
    /// As it was asked for; 0 is from the creation on.
    start_revision: i64,
    /// What lies before this was delivered, or not asked for.
    next_revision: i64,
    puts: bool,
    deletes: bool,
    prev_kv: bool,
    fragment: bool,
    /// Whether the client wants to be told now and then how far it is.
    pub progress_notify: bool,
}

/// Events for a watcher, in their order. All that it sees of a revision is in one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    events: Vec<Event>,
    prev_kv: bool,
    fragment: bool,
    /// What the header of the response says: as at etcd, the events' own revision, and where they
    /// are of several, that of the store.
    pub revision: i64,
}

/// Why a watcher has to be served by etcd from its next revision on. It has not moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Behind {
    #[error(transparent)]
    Trimmed(#[from] Trimmed),
    #[error("the value before revision {revision} is not held")]
    PrevNotHeld { revision: i64 },
}

impl Watcher {
    /// What a client asks for, where every event up to `revision` is in the history. Events start
    /// after that unless the request says otherwise.
    pub fn new(request: &WatchCreateRequest, revision: i64) -> Self {
        let filters: Vec<_> = request.filters().collect();
        Self {
            range: KeyRange::for_watch(request.key.clone(), request.range_end.clone()),
            start_revision: request.start_revision,
            next_revision: match request.start_revision {
                0 => revision + 1,
                start => start,
            },
            puts: !filters.contains(&FilterType::Noput),
            deletes: !filters.contains(&FilterType::Nodelete),
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
        }
    }

    /// The same for a client that has seen everything before `next_revision`.
    pub fn going_on_at(self, next_revision: i64) -> Self {
        Self { next_revision, ..self }
    }

    pub fn range(&self) -> &KeyRange {
        &self.range
    }

    /// The revision from which on another watcher would have to go on in its place.
    pub fn next_revision(&self) -> i64 {
        self.next_revision
    }

    /// Whether events up to `revision` may not have been delivered yet.
    pub fn is_behind(&self, revision: i64) -> bool {
        self.next_revision <= revision
    }

    /// How far the client may be told that it is, where the cluster is known to be at `revision`; no
    /// less far than the events it has got, which may be later ones. `None` while it has not seen
    /// everything up to there, or waits for a later one to begin with.
    pub fn reached(&self, revision: i64) -> Option<i64> {
        let reached = !self.is_behind(revision) && self.start_revision <= revision;
        reached.then_some(self.next_revision - 1)
    }

    /// The next events, of about `max` bytes or of one revision. `revision` is one that the history
    /// had reached before it was looked at; while [`Self::is_behind`] it, there may be more.
    ///
    /// # Errors
    ///
    /// When the history does not have what it takes.
    pub fn poll(
        &mut self,
        history: &History,
        revision: i64,
        max: usize,
    ) -> Result<Option<Batch>, Behind> {
        let mut events: Vec<Event> = Vec::new();
        let (mut bytes, mut revisions, mut last) = (0, 0, None);
        let mut next = self.next_revision.max(revision.saturating_add(1));
        for (looked_at, event) in history.after(self.next_revision.saturating_sub(1))?.enumerate() {
            let full = bytes >= max || revisions == REVISIONS_MAX || looked_at >= LOOKED_AT_MAX;
            if full && last != Some(event.revision()) {
                next = event.revision();
                break;
            }
            last = Some(event.revision());
            next = next.max(event.revision() + 1);
            if !self.wants(event) {
                continue;
            }
            if self.prev_kv && !has_prev(event) {
                return Err(Behind::PrevNotHeld { revision: event.revision() });
            }
            let is_new = events.last().is_none_or(|before| before.revision() < event.revision());
            revisions += usize::from(is_new);
            bytes += message::event_length(event, self.prev_kv);
            events.push(event.clone());
        }
        self.next_revision = next;
        Ok(self.batch(events, revision))
    }

    fn batch(&self, events: Vec<Event>, revision: i64) -> Option<Batch> {
        let (first, last) = (events.first()?.revision(), events.last()?.revision());
        let revision = if first == last { last } else { revision.max(last) };
        Some(Batch { events, prev_kv: self.prev_kv, fragment: self.fragment, revision })
    }

    fn wants(&self, event: &Event) -> bool {
        let kind = match event.kind {
            Kind::Put => self.puts,
            Kind::Delete => self.deletes,
        };
        kind && self.range.contains(event.object.key())
    }
}

impl Batch {
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The same with at least this revision in the header of its responses.
    pub fn under(self, revision: i64) -> Self {
        Self { revision: self.revision.max(revision), ..self }
    }

    /// How many revisions the events are of.
    pub fn revisions(&self) -> usize {
        self.events.chunk_by(|one, next| one.revision() == next.revision()).count()
    }

    /// One batch for each revision, as etcd sends them to a watcher that keeps up.
    pub fn by_revision(self) -> Vec<Self> {
        let mut batches: Vec<Self> = Vec::new();
        for event in self.events {
            match batches.last_mut() {
                Some(batch) if batch.revision == event.revision() => batch.events.push(event),
                _ => {
                    let revision = event.revision();
                    batches.push(Self { events: vec![event], revision, ..self });
                }
            }
        }
        batches
    }
}

/// Whether all is there that a watcher with `prev_kv` is told of this event.
fn has_prev(event: &Event) -> bool {
    match &event.prev {
        Some(prev) => prev.holds_value(),
        None => event.kind == Kind::Put && event.object.is_created(),
    }
}
