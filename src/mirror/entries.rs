//! The collections that are held or being loaded, and what of them is given up when memory is short.

#[cfg(test)]
mod tests;

use super::{
    Change, Config, Limits, State, Store, Tier, Writer,
    collection::Collection,
    load::{Failed, Loaded, Source},
    metrics::Metrics,
};
use bytes::Bytes;
use std::{
    collections::HashMap,
    fmt,
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
        filling: Option<Filling>,
    },
}

/// Values on their way to a collection that has its keys.
#[derive(Debug)]
struct Filling {
    /// Bytes of what was read so far.
    read: Arc<AtomicUsize>,
    /// Waits until the feed is as far.
    loaded: Option<Loaded>,
    _load: AbortOnDropHandle<()>,
}

/// What a load has come to.
#[derive(Debug)]
pub(super) struct Ended {
    name: Bytes,
    /// Which load it was, as the entry knows it: another may have begun since.
    read: Arc<AtomicUsize>,
    loaded: Result<Loaded, Failed>,
}

/// Bytes of events that are remembered for a collection while it is loaded.
const SINCE_MAX: usize = 64 << 20;

/// What was read within this time is not given up for what is only being loaded.
const IN_USE: Duration = Duration::from_secs(60);

/// Before a load that failed is tried again, and before what was given up is loaded again.
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
            Entry::Ready { collection, writer, .. } => Some((collection, writer.store())),
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
            let _ = ended.send(Ended { name, read: reading, loaded }).await;
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
        if let Some(Entry::Ready { filling, .. }) = self.by_name.get_mut(&name) {
            *filling = Some(Filling { read, loaded: None, _load: load });
            return;
        }
        let (since, since_bytes) = (Vec::new(), 0);
        let entry = Entry::Loading { collection, tier, since, since_bytes, read, _load: load };
        self.by_name.insert(name, entry);
    }

    /// Memory that a load may take: what is free, and what others hold that nobody has read lately.
    fn room_for(&self, name: &Bytes, config: &Config) -> usize {
        let others = self.by_name.iter().filter(|(other, _)| *other != name);
        let kept = others.filter(|(other, entry)| match entry {
            Entry::Loading { .. } => true,
            Entry::Ready { .. } => self.is_in_use(other, config),
        });
        let kept: usize = kept.map(|(_, entry)| entry.bytes()).sum();
        (config.memory_bytes as usize).saturating_sub(kept)
    }

    /// Takes what was loaded over, if it is still wanted; values wait for [`Self::fill`].
    pub(super) fn on_loaded(&mut self, Ended { name, read, loaded }: Ended, config: &Config) {
        let entry = self.by_name.get(&name);
        if !entry.and_then(Entry::load).is_some_and(|load| Arc::ptr_eq(load, &read)) {
            // It was given up meanwhile.
            return;
        }
        let failed = match (self.by_name.get_mut(&name), loaded) {
            (Some(Entry::Ready { filling: Some(filling), .. }), Ok(loaded)) => {
                filling.loaded = Some(loaded);
                return;
            }
            (Some(Entry::Loading { .. }), Ok(loaded)) => {
                self.begin(name, loaded, config);
                return self.make_room(config);
            }
            (_, Err(failed)) => failed,
            (_, Ok(_)) => return,
        };
        match self.by_name.get_mut(&name) {
            Some(Entry::Ready { collection, filling, .. }) if filling.is_some() => {
                *filling = None;
                collection.end_filling(Some(Instant::now() + pause(&failed)));
            }
            Some(Entry::Loading { collection, tier, .. }) => {
                collection.set(after_failure(collection, *tier, &failed));
                self.by_name.remove(&name);
            }
            _ => return,
        }
        self.tell_failed(&name, &failed);
    }

    /// Begins to keep up to date what was loaded.
    fn begin(&mut self, name: Bytes, Loaded { revision, objects }: Loaded, config: &Config) {
        let Some(Entry::Loading { collection, tier, since, .. }) = self.by_name.remove(&name)
        else {
            return;
        };
        let mut writer = Writer::load(objects, revision, tier, config.history);
        writer.apply(since);
        collection.set(State::Ready(Arc::clone(writer.store())));
        self.log_loaded(&name, writer.store());
        self.by_name.insert(name, Entry::Ready { collection, writer, filling: None });
    }

    /// Gives those collections their values that have come as far as these are. The feed has brought
    /// everything up to `revision`.
    pub(super) fn fill(&mut self, revision: i64, config: &Config) {
        let mut filled = Vec::new();
        for (name, entry) in &mut self.by_name {
            let Entry::Ready { collection, writer, filling } = entry else { continue };
            let loaded = filling
                .as_mut()
                .and_then(|filling| filling.loaded.take_if(|loaded| loaded.revision <= revision));
            let Some(Loaded { revision, objects }) = loaded else { continue };
            *filling = None;
            // What has happened since may be more than is remembered.
            let is_filled = writer.load_values(objects, revision).is_ok();
            collection.end_filling((!is_filled).then(|| Instant::now() + REST));
            if is_filled {
                filled.push((name.clone(), Arc::clone(writer.store())));
            }
        }
        if !filled.is_empty() {
            filled.iter().for_each(|(name, store)| self.log_loaded(name, store));
            self.make_room(config);
        }
    }

    /// Takes over how much is remembered of what happens.
    pub(super) fn remember(&mut self, limits: Limits) {
        for entry in self.by_name.values_mut() {
            if let Entry::Ready { writer, .. } = entry {
                writer.limit(limits);
            }
        }
    }

    fn tell_failed(&self, name: &[u8], failed: &dyn fmt::Display) {
        self.metrics.loads_failed.inc();
        let (cluster, collection) = (&*self.cluster, name.escape_ascii().to_string());
        tracing::warn!(cluster, collection, %failed, "mirror: not loaded");
    }

    fn log_loaded(&self, name: &Bytes, store: &Store) {
        self.metrics.loads.inc();
        let (cluster, collection) = (&*self.cluster, name.escape_ascii().to_string());
        let snapshot = store.snapshot();
        let (tier, revision) = (snapshot.tier.as_str(), snapshot.revision);
        let keys = snapshot.objects.totals().count;
        tracing::info!(cluster, collection, tier, keys, revision, "mirror: loaded");
    }

    /// Applies what happened to one collection.
    pub(super) fn apply(&mut self, name: &[u8], changes: Vec<Change>) {
        let remembered = self.by_name.get_mut(name).is_none_or(|entry| entry.apply(changes));
        if !remembered {
            let why = "more happened than could be remembered";
            self.rest(name, why);
            self.tell_failed(name, &why);
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
    /// the rest is within the budget; loads before what was read lately.
    pub(super) fn make_room(&mut self, config: &Config) {
        while self.held() > config.memory_bytes as usize {
            let Some(name) = self.dispensable(config) else { return };
            self.metrics.evictions.inc();
            match self.by_name.get_mut(&name) {
                Some(Entry::Ready { collection, writer, .. })
                    if writer.store().snapshot().tier == Tier::Value =>
                {
                    writer.drop_values();
                    // Read again at once, they would be too many again.
                    collection.end_filling(Some(Instant::now() + REST));
                }
                Some(Entry::Ready { collection, filling: filling @ Some(_), .. }) => {
                    *filling = None;
                    collection.end_filling(Some(Instant::now() + REST));
                }
                _ => self.rest(&name, "memory was short"),
            }
        }
    }

    /// What goes first: what nobody has read lately, then what is only being loaded, then the rest.
    fn dispensable(&self, config: &Config) -> Option<Bytes> {
        let least = self.least_useful(config);
        let unused = least.as_ref().filter(|name| !self.is_in_use(name, config)).cloned();
        unused.or_else(|| self.largest_load()).or(least)
    }

    fn is_in_use(&self, name: &Bytes, config: &Config) -> bool {
        let read = |entry: &Entry| entry.collection().idle() < IN_USE;
        config.pinned.contains(name) || self.by_name.get(name).is_some_and(read)
    }

    fn least_useful(&self, config: &Config) -> Option<Bytes> {
        // To give up what is empty makes no room.
        let held = self.by_name.iter().filter(|(_, entry)| entry.bytes() > 0);
        let ready = held.filter_map(|(name, entry)| match entry {
            Entry::Ready { collection, writer, .. } => {
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
        let loads = self.by_name.iter().filter(|(_, entry)| entry.load().is_some());
        let largest = loads.max_by_key(|(_, entry)| entry.bytes());
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

/// How long what could not be loaded is not tried again.
fn pause(failed: &Failed) -> Duration {
    match failed {
        Failed::TooLarge => REST_TOO_LARGE,
        Failed::Etcd(_) | Failed::Denied | Failed::Silent | Failed::Malformed => REST,
    }
}

/// What becomes of a collection that could not be loaded.
fn after_failure(collection: &Collection, tier: Tier, failed: &Failed) -> State {
    let until = Instant::now() + pause(failed);
    match (failed, tier) {
        // Its keys may still find room.
        (Failed::TooLarge, Tier::Value) => {
            collection.end_filling(Some(until));
            State::Cold
        }
        (Failed::TooLarge, Tier::Index) => {
            State::Resting { until, why: "it is larger than mirror.memory leaves" }
        }
        _ => State::Resting { until, why: "it could not be loaded" },
    }
}

impl Entry {
    /// The load that is under way for it.
    fn load(&self) -> Option<&Arc<AtomicUsize>> {
        match self {
            Self::Loading { read, .. } => Some(read),
            Self::Ready { filling, .. } => filling.as_ref().map(|filling| &filling.read),
        }
    }

    fn collection(&self) -> &Arc<Collection> {
        match self {
            Self::Loading { collection, .. } | Self::Ready { collection, .. } => collection,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Loading { since_bytes, read, .. } => since_bytes + read.load(Relaxed),
            Self::Ready { writer, filling, .. } => {
                let filling = filling.as_ref().map_or(0, |filling| filling.read.load(Relaxed));
                writer.store().bytes() + filling
            }
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
            Self::Ready { collection, writer, .. } => {
                writer.apply(changes);
                collection.changed();
                true
            }
        }
    }
}
