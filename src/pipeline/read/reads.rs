use super::{Flown, key::Key};
use crate::{
    admission::{Held, Protection},
    coalesce::{Flights, Pinned},
    paging::{Assembly, Splits},
    upstream::Cluster,
};
use parking_lot::Mutex;
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use std::{collections::HashMap, sync::Arc};

/// What reads have in common, for all listeners.
#[derive(Debug)]
pub struct Reads {
    pub(in crate::pipeline) protection: Arc<Protection>,
    pub(super) flights: Arc<Flights<Key, Flown>>,
    pinned: Arc<Pinned<Key, Kept>>,
    splits: SplitsOf,
    pub(super) metrics: ReadMetrics,
}

#[derive(Debug, Default)]
pub(super) struct ReadMetrics {
    pub(super) reads: Counter,
    pub(super) flights: Counter,
    pub(super) kept: Counter,
    pub(super) pages: Counter,
}

/// An answer at an explicit revision.
pub(super) struct Kept {
    pub(super) list: Assembly,
    /// The room that it takes, also while it is sent after it was given up.
    pub(super) held: Arc<Held>,
}

/// What it takes to keep an answer, besides its bytes and those of its key.
const KEPT_BYTES: u64 = 1024;

impl Reads {
    pub fn new(protection: Arc<Protection>, registry: &mut Registry) -> Arc<Self> {
        let metrics = ReadMetrics::default();
        for (name, help, counter) in [
            ("reads", "Calls that may share a read of etcd", &metrics.reads),
            ("read_flights", "Reads of etcd that were made for them", &metrics.flights),
            ("reads_kept", "Calls answered from an answer that was kept", &metrics.kept),
            ("list_pages", "Ranges that lists were cut into", &metrics.pages),
        ] {
            registry.register(name, help, counter.clone());
        }
        let config = protection.coalescing();
        let pinned = Arc::new(Pinned::new(config.pinned_bytes, |kept: &Kept| kept.held.bytes()));
        let kept = Arc::downgrade(&pinned);
        protection.memory.reclaim_by(move || {
            if let Some(kept) = kept.upgrade() {
                kept.clear();
            }
        });
        Arc::new(Self {
            protection,
            flights: Flights::new(config.waiters_max),
            pinned,
            splits: SplitsOf::default(),
            metrics,
        })
    }

    /// Takes over what may change while calls are under way.
    pub fn reconfigure(&self) {
        let config = self.protection.coalescing();
        self.flights.set_waiters_max(config.waiters_max);
        self.pinned.set_bytes(config.pinned_bytes);
    }

    /// The answer to a read at an explicit revision, if it was kept.
    pub(super) fn kept(&self, key: &Key) -> Option<Arc<Kept>> {
        self.pinned.get(key)
    }

    /// Keeps an answer at an explicit revision, if there is room.
    pub(super) fn keep(&self, key: Key, list: &Assembly) {
        let bytes = list.bytes() + key.size() + KEPT_BYTES;
        if self.pinned.takes(bytes)
            && let Some(held) = self.protection.memory.try_hold(bytes)
        {
            self.pinned.put(key, Arc::new(Kept { list: list.clone(), held: Arc::new(held) }));
        }
    }

    /// Forgets where to cut the lists of a cluster that is gone.
    pub fn forget(&self, cluster: &str) {
        self.splits.0.lock().remove(cluster);
    }

    pub fn splits(&self, cluster: &Cluster) -> Arc<Splits> {
        self.splits.of(&cluster.name, cluster.number())
    }
}

/// Where to cut the lists of each cluster, by its name and with the number of its store: those of a
/// store that is gone are forgotten.
#[derive(Debug, Default)]
struct SplitsOf(Mutex<HashMap<Arc<str>, OfStore>>);

#[derive(Debug, Default)]
struct OfStore {
    number: u64,
    splits: Arc<Splits>,
}

impl SplitsOf {
    fn of(&self, name: &Arc<str>, number: u64) -> Arc<Splits> {
        let mut clusters = self.0.lock();
        let store = clusters.entry(Arc::clone(name)).or_default();
        if store.number != number {
            *store = OfStore { number, splits: Arc::default() };
        }
        Arc::clone(&store.splits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each change of a cluster's configuration left those of the one before.
    #[test]
    fn a_store_that_is_gone_leaves_no_splits() {
        let splits = SplitsOf::default();
        let (main, events) = (Arc::from("main"), Arc::from("events"));
        let of_one = splits.of(&main, 1);
        assert!(Arc::ptr_eq(&of_one, &splits.of(&main, 1)));
        assert!(!Arc::ptr_eq(&of_one, &splits.of(&events, 2)));
        let gone = Arc::downgrade(&of_one);
        drop(of_one);
        splits.of(&main, 3);
        assert!(gone.upgrade().is_none());
        assert_eq!(splits.0.lock().len(), 2);
    }
}
