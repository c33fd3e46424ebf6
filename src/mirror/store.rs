//! A collection: its state, its history, and the one who writes them.

#[cfg(test)]
mod tests;

use super::{
    history::{Event, History, Kind, Limits, Trimmed},
    object::Object,
    snapshot::{Snapshot, Tier},
    tree::Tree,
};
use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use std::{collections::VecDeque, sync::Arc};

/// A collection as readers see it.
///
/// The history has an event before the snapshot does, as at etcd, where watchers may be told of a
/// write before it can be read.
#[derive(Debug)]
pub struct Store {
    snapshot: ArcSwap<Snapshot>,
    /// Locked for as long as a few thousand events take to be looked at, and never across an await.
    history: RwLock<History>,
    /// States that were put together for a read, the newest work last, since the pages of a list are
    /// all at one revision. To be read again does not make one newer.
    past: Mutex<VecDeque<Arc<Snapshot>>>,
}

/// States of the past that are kept.
const PAST_MAX: usize = 4;

/// What etcd says about one key: the `kv` of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub kind: Kind,
    pub object: Object,
}

/// The only one who changes a collection.
#[derive(Debug)]
pub struct Writer {
    store: Arc<Store>,
    /// What is published next.
    next: Snapshot,
}

impl Store {
    /// The newest state.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The state at a revision that the store has reached.
    ///
    /// # Errors
    ///
    /// When what has happened since is not remembered.
    pub fn at(&self, revision: i64) -> Result<Arc<Snapshot>, Trimmed> {
        let newest = self.snapshot();
        if revision >= newest.revision {
            return Ok(newest);
        }
        if let Some(known) = self.recall(revision) {
            return Ok(known);
        }
        // Undoing takes its time, for which the writer need not wait.
        let later: Vec<_> = self.history.read().after(revision)?.cloned().collect();
        let past = Arc::new(newest.before(&later, revision));
        self.keep(&newest, &past);
        Ok(past)
    }

    fn recall(&self, revision: i64) -> Option<Arc<Snapshot>> {
        let past = self.past.lock();
        past.iter().find(|past| past.revision == revision).cloned()
    }

    /// Keeps a state that was made from `newest`, unless that has values which were given up since.
    fn keep(&self, newest: &Snapshot, past: &Arc<Snapshot>) {
        let mut kept = self.past.lock();
        if self.snapshot.load().tier == newest.tier {
            if kept.len() == PAST_MAX {
                kept.pop_front();
            }
            kept.push_back(Arc::clone(past));
        }
    }

    /// Gives up states that only the kept ones hold objects of.
    fn forget_before(&self, revision: i64) {
        self.past.lock().retain(|past| past.revision >= revision);
    }

    /// Looks at the history. The writer waits meanwhile.
    pub fn history<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.history.read())
    }

    /// Bytes of memory of the newest state and the history.
    pub fn bytes(&self) -> usize {
        self.snapshot.load().bytes() + self.history.read().bytes()
    }
}

impl Writer {
    /// Begins with all objects, in the order of their keys, as they were at one revision.
    pub fn load(
        objects: impl IntoIterator<Item = Object>,
        revision: i64,
        tier: Tier,
        limits: Limits,
    ) -> Self {
        let objects = objects.into_iter().map(|object| Arc::new(held(object, tier)));
        let next = Snapshot { revision, tier, objects: Tree::from_sorted(objects) };
        let store = Store {
            snapshot: ArcSwap::from_pointee(next.clone()),
            history: RwLock::new(History::new(revision, tier, limits)),
            past: Mutex::default(),
        };
        Self { store: Arc::new(store), next }
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Makes what happened, in its order, visible at once. A batch holds whole revisions; those that
    /// the collection has already, because it was loaded later, are passed over.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        let known = self.next.revision;
        let mut events = Vec::new();
        for change in changes {
            if change.object.mod_revision > known {
                events.push(self.change(change));
            }
        }
        if events.is_empty() {
            return;
        }
        let mut history = self.store.history.write();
        events.into_iter().for_each(|event| history.push(event));
        history.trim();
        let floor = history.floor();
        drop(history);
        self.store.forget_before(floor);
        self.publish();
    }

    /// Remembers this much from now on.
    pub(super) fn limit(&mut self, limits: Limits) {
        if self.store.history(History::limits) == limits {
            return;
        }
        let mut history = self.store.history.write();
        history.set_limits(limits);
        let floor = history.floor();
        drop(history);
        self.store.forget_before(floor);
    }

    /// Takes up the values that a later load has brought, in the order of their keys. All that
    /// happened up to the load's revision must have been applied.
    ///
    /// # Errors
    ///
    /// When what has happened since is not remembered; nothing changes then.
    pub fn load_values(
        &mut self,
        objects: impl IntoIterator<Item = Object>,
        revision: i64,
    ) -> Result<(), Trimmed> {
        let mut objects = Tree::from_sorted(objects.into_iter().map(Arc::new));
        for event in self.store.history.read().after(revision)? {
            match event.kind {
                Kind::Put => objects.put(Arc::clone(&event.object)),
                Kind::Delete => objects.remove(event.object.key()),
            };
        }
        let revision = self.next.revision.max(revision);
        self.next = Snapshot { revision, tier: Tier::Value, objects };
        self.store.history.write().set_tier(Tier::Value);
        self.publish();
        self.store.past.lock().clear();
        Ok(())
    }

    fn change(&mut self, Change { kind, object }: Change) -> Event {
        let object = Arc::new(object);
        self.next.revision = object.mod_revision;
        let objects = &mut self.next.objects;
        let prev = match kind {
            Kind::Put if self.next.tier == Tier::Value => objects.put(Arc::clone(&object)),
            Kind::Put => objects.put(Arc::new(object.without_value())),
            Kind::Delete => objects.remove(object.key()),
        };
        Event { kind, object, prev }
    }

    /// Gives the values up. Events that have theirs keep them, within the limits of the history.
    pub fn drop_values(&mut self) {
        self.next.tier = Tier::Index;
        self.store.history.write().set_tier(Tier::Index);
        let bare = self.next.objects.from_rank(0).map(|object| Arc::new(object.without_value()));
        self.next.objects = Tree::from_sorted(bare);
        self.publish();
        self.store.past.lock().clear();
    }

    fn publish(&self) {
        self.store.snapshot.store(Arc::new(self.next.clone()));
    }
}

fn held(object: Object, tier: Tier) -> Object {
    match tier {
        Tier::Index if object.holds_value() => object.without_value(),
        Tier::Index | Tier::Value => object,
    }
}
