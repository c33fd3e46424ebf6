//! The collections that are held or being loaded, and what of them is given up when memory is short.

#[cfg(test)]
mod tests;

use super::{
    Change, Config, State, Store, Tier, Writer,
    collection::Collection,
    load::{Failed, Loaded, Source},
    metrics::Metrics,
};
use bytes::Bytes;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::AbortOnDropHandle;

/// What the feed keeps up to date.
#[derive(Debug)]
pub(super) struct Entries {
    cluster: Arc<str>,
    metrics: Metrics,
    by_name: HashMap<Bytes, Entry>,
    ended: mpsc::Sender<Ended>,
}

#[derive(Debug)]
enum Entry {
    /// Remembers what happens until the load is there.
    Loading {
        collection: Arc<Collection>,
        tier: Tier,
        since: Vec<Change>,
        since_bytes: usize,
        /// Bytes of what was read so far.
        read: Arc<AtomicUsize>,
        _load: AbortOnDropHandle<()>,
    },
    Ready {
        collection: Arc<Collection>,
        writer: Writer,
    },
}

/// What a load has come to.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) name: Bytes,
    pub(super) loaded: Result<Loaded, Failed>,
}

/// Bytes of events that are remembered for a collection while it is loaded.
const SINCE_MAX: usize = 64 << 20;

/// What was read within this time is not given up for what is only being loaded.
const IN_USE: Duration = Duration::from_secs(60);

/// Before a load that failed is tried again.
const REST: Duration = Duration::from_secs(10);
/// To find out that a collection is too large costs etcd all of it.
const REST_TOO_LARGE: Duration = Duration::from_secs(600);

impl Entries {
    pub(super) fn new(cluster: &Arc<str>, metrics: Metrics, ended: mpsc::Sender<Ended>) -> Self {
        Self { cluster: Arc::clone(cluster), metrics, by_name: HashMap::new(), ended }
    }

    pub(super) fn contains(&self, name: &[u8]) -> bool {
        self.by_name.contains_key(name)
    }

    /// Those that are ready.
    pub(super) fn ready(&self) -> impl Iterator<Item = (&Arc<Collection>, &Arc<Store>)> {
        self.by_name.values().filter_map(|entry| match entry {
            Entry::Ready { collection, writer } => Some((collection, writer.store())),
            Entry::Loading { .. } => None,
        })
    }

    /// Has a collection read, and remembers what happens to it from now on.
    pub(super) fn begin_load(
        &mut self,
        collection: Arc<Collection>,
        tier: Tier,
        source: Source,
        config: &Config,
    ) {
        let (name, ended) = (collection.name.clone(), self.ended.clone());
        let read = Arc::new(AtomicUsize::new(0));
        let (room, reading) = (self.room_for(&name, config), Arc::clone(&read));
        let load = tokio::spawn(async move {
            let loaded = source.load(&name, tier, room, &reading).await;
            // Fails when the feed has ended, and all that it held with it.
            let _ = ended.send(Ended { name, loaded }).await;
        });
        self.expect(collection, tier, read, AbortOnDropHandle::new(load));
    }

    fn expect(
        &mut self,
        collection: Arc<Collection>,
        tier: Tier,
        read: Arc<AtomicUsize>,
        load: AbortOnDropHandle<()>,
    ) {
        let name = collection.name.clone();
        let (since, since_bytes) = (Vec::new(), 0);
        let entry = Entry::Loading { collection, tier, since, since_bytes, read, _load: load };
        self.by_name.insert(name, entry);
    }

    /// Memory that a load may take: what is free, and what others hold that nobody has read lately.
    fn room_for(&self, name: &Bytes, config: &Config) -> usize {
        let others = self.by_name.iter().filter(|(other, _)| *other != name);
        let kept = others.filter(|(other, entry)| match entry {
            Entry::Loading { .. } => true,
            Entry::Ready { collection, .. } => {
                collection.idle() < IN_USE || config.pinned.contains(other)
            }
        });
        let kept: usize = kept.map(|(_, entry)| entry.bytes()).sum();
        (config.memory_bytes as usize).saturating_sub(kept)
    }

    /// Takes what was loaded over, if it is still wanted.
    pub(super) fn on_loaded(&mut self, Ended { name, loaded }: Ended, config: &Config) {
        // It may have been given up meanwhile.
        let Some(Entry::Loading { collection, tier, since, .. }) = self.by_name.remove(&name)
        else {
            return;
        };
        let (cluster, shown) = (&*self.cluster, name.escape_ascii().to_string());
        match loaded {
            Ok(Loaded { revision, objects }) => {
                let keys = objects.len();
                let mut writer = Writer::load(objects, revision, tier, config.history);
                writer.apply(since);
                collection.set(State::Ready(Arc::clone(writer.store())));
                self.by_name.insert(name, Entry::Ready { collection, writer });
                self.metrics.loads.inc();
                tracing::info!(
                    cluster,
                    collection = shown,
                    ?tier,
                    keys,
                    revision,
                    "mirror: loaded"
                );
                self.make_room(config);
            }
            Err(failed) => {
                self.metrics.loads_failed.inc();
                tracing::warn!(cluster, collection = shown, ?tier, %failed, "mirror: not loaded");
                collection.set(after_failure(&collection, tier, &failed));
            }
        }
    }

    /// Applies what happened to one collection.
    pub(super) fn apply(&mut self, name: &[u8], changes: Vec<Change>) {
        let remembered = self.by_name.get_mut(name).is_none_or(|entry| entry.apply(changes));
        if !remembered {
            self.rest(name, "more happened than could be remembered");
        }
    }

    /// Gives a collection up, until it is wanted again.
    pub(super) fn forget(&mut self, collection: &Collection) {
        self.by_name.remove(&collection.name);
        collection.set(State::Cold);
    }

    /// Gives a collection up for a while.
    pub(super) fn rest(&mut self, name: &[u8], why: &'static str) {
        if let Some(entry) = self.by_name.remove(name) {
            let until = Instant::now() + REST;
            entry.collection().set(State::Resting { until, why });
        }
    }

    pub(super) fn forget_all(&mut self) {
        for (_, entry) in self.by_name.drain() {
            entry.collection().set(State::Cold);
        }
        self.observe();
    }

    /// Gives up values, then collections, of those that were not read for the longest time, until
    /// the rest is within the budget; then loads, the largest first.
    pub(super) fn make_room(&mut self, config: &Config) {
        while self.held() > config.memory_bytes as usize {
            let Some(name) = self.least_useful(config).or_else(|| self.largest_load()) else {
                return;
            };
            self.metrics.evictions.inc();
            match self.by_name.get_mut(&name) {
                Some(Entry::Ready { writer, .. })
                    if writer.store().snapshot().tier == Tier::Value =>
                {
                    writer.drop_values();
                }
                _ => self.rest(&name, "memory was short"),
            }
        }
    }

    fn least_useful(&self, config: &Config) -> Option<Bytes> {
        let ready = self.by_name.iter().filter_map(|(name, entry)| match entry {
            Entry::Ready { collection, writer } => {
                let kept = config.pinned.contains(name);
                let bare = writer.store().snapshot().tier == Tier::Index;
                // What is not pinned first; among those, what has values; then the longest unread.
                Some(((!kept, !bare, collection.idle()), name))
            }
            Entry::Loading { .. } => None,
        });
        ready.max_by_key(|(use_, _)| *use_).map(|(_, name)| name.clone())
    }

    fn largest_load(&self) -> Option<Bytes> {
        let largest = self.by_name.iter().max_by_key(|(_, entry)| entry.bytes());
        largest.map(|(name, _)| name.clone())
    }

    /// Bytes of everything that is held.
    pub(super) fn held(&self) -> usize {
        self.by_name.values().map(Entry::bytes).sum()
    }

    pub(super) fn observe(&self) {
        self.metrics.bytes.set(self.held() as i64);
        self.metrics.collections.set(self.ready().count() as i64);
    }
}

/// What becomes of a collection that could not be loaded.
fn after_failure(collection: &Collection, tier: Tier, failed: &Failed) -> State {
    match (failed, tier) {
        // Its keys may still find room.
        (Failed::TooLarge, Tier::Value) => {
            collection.rest_values(Instant::now() + REST_TOO_LARGE);
            State::Cold
        }
        (Failed::TooLarge, Tier::Index) => {
            let until = Instant::now() + REST_TOO_LARGE;
            State::Resting { until, why: "it is larger than mirror.memory leaves" }
        }
        _ => State::Resting { until: Instant::now() + REST, why: "it could not be loaded" },
    }
}

impl Entry {
    fn collection(&self) -> &Arc<Collection> {
        match self {
            Self::Loading { collection, .. } | Self::Ready { collection, .. } => collection,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Loading { since_bytes, read, .. } => since_bytes + read.load(Relaxed),
            Self::Ready { writer, .. } => writer.store().bytes(),
        }
    }

    /// Applies changes, or remembers them; false when there are too many.
    fn apply(&mut self, changes: Vec<Change>) -> bool {
        match self {
            Self::Loading { since, since_bytes, .. } => {
                *since_bytes += changes.iter().map(|change| change.object.weight()).sum::<usize>();
                since.extend(changes);
                *since_bytes <= SINCE_MAX
            }
            Self::Ready { collection, writer } => {
                writer.apply(changes);
                collection.changed();
                true
            }
        }
    }
}
