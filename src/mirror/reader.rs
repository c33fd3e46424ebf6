//! The mirror of one cluster, as readers see it.

#[cfg(test)]
pub(super) mod tests;

use super::{Collection, Config, State, Store, Tier, Turn, feed::Order, metrics::Metrics};
use crate::{
    admission::Place,
    etcd::{key_range::KeyRange, proto::etcdserverpb::ResponseHeader},
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::RwLock;
use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    time::{Instant, timeout},
};

/// What is held of one cluster, and how far it follows.
#[derive(Debug)]
pub struct Mirror {
    pub cluster: Arc<str>,
    config: ArcSwap<Config>,
    collections: RwLock<HashMap<Bytes, Arc<Collection>>>,
    /// How far the feed is.
    position: watch::Sender<Position>,
    orders: mpsc::Sender<Order>,
    /// Watchers that leave together and are created at etcd at the same time.
    entries: Arc<Semaphore>,
    /// Streams whose watchers come back at the same time.
    returns: Arc<Semaphore>,
    /// etcd seems to have another store than is followed.
    pub(super) look: Notify,
    pub metrics: Metrics,
}

/// How far the feed is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// All events up to this revision were applied; 0 while none is known.
    pub revision: i64,
    /// Whether it goes on.
    pub live: bool,
    /// Whether it is opened again and again until it does.
    pub opening: bool,
    /// Of the store that is followed.
    pub cluster_id: u64,
}

/// Why a read is not answered from memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    /// It is switched off, or the client asked for etcd itself.
    Off,
    /// The keys are not those of one collection.
    Keys,
    /// Not in memory, or not yet.
    Cold,
    /// The values are not in memory, or something is asked for that only etcd answers.
    Tier,
    /// The feed has not reached the revision in time.
    Behind,
    /// The past that is asked for is not remembered.
    Past,
}

impl Pass {
    pub const ALL: [Self; 6] =
        [Self::Off, Self::Keys, Self::Cold, Self::Tier, Self::Behind, Self::Past];

    /// As in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Keys => "keys",
            Self::Cold => "cold",
            Self::Tier => "tier",
            Self::Behind => "behind",
            Self::Past => "past",
        }
    }
}

/// A list that waits for longer than this for its collection to be loaded is better read by itself.
const LOAD_MAX: Duration = Duration::from_secs(10);

/// How many of the watchers that memory cannot serve any more are created at etcd at once: they may be
/// all watchers of a cluster, and etcd reads the past for each.
const ENTRIES_MAX: usize = 32;

/// How many streams have their watchers come back at once: they may be all that there are.
const RETURNS_MAX: usize = 32;

/// A watcher whose turn has not come by then goes on at etcd without one: it gets nothing meanwhile.
const ENTRY_MAX: Duration = Duration::from_secs(15);

/// Names that are remembered, most of them cold. More than any cluster has resources.
const COLLECTIONS_MAX: usize = 4096;

impl Mirror {
    pub(super) fn new(
        cluster: &Arc<str>,
        config: Config,
        orders: mpsc::Sender<Order>,
        metrics: Metrics,
    ) -> Self {
        Self {
            cluster: Arc::clone(cluster),
            config: ArcSwap::from_pointee(config),
            collections: RwLock::default(),
            position: watch::Sender::default(),
            orders,
            entries: Arc::new(Semaphore::new(ENTRIES_MAX)),
            returns: Arc::new(Semaphore::new(RETURNS_MAX)),
            look: Notify::new(),
            metrics,
        }
    }

    pub fn config(&self) -> arc_swap::Guard<Arc<Config>> {
        self.config.load()
    }

    /// Takes over what may change; the feed notices within a second.
    pub fn reconfigure(&self, config: Config) {
        self.config.store(Arc::new(config));
    }

    pub fn position(&self) -> Position {
        *self.position.borrow()
    }

    pub(super) fn set_position(&self, position: Position) {
        self.position.send_if_modified(|known| {
            let changed = *known != position;
            *known = position;
            changed
        });
    }

    /// The collection that holds all keys of a range; nothing is loaded for it yet. One that is not
    /// known yet comes into being only where that is worth it: any key may look as if it had one.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn collection(
        &self,
        keys: &KeyRange,
        worth_loading: bool,
    ) -> Result<Arc<Collection>, Pass> {
        let name = keys.start.slice(..Place::collection_of(&keys.start).len());
        if !is_inside(keys, &name) {
            return Err(Pass::Keys);
        }
        if let Some(collection) = self.collections.read().get(&name) {
            return Ok(Arc::clone(collection));
        }
        if !worth_loading {
            return Err(Pass::Cold);
        }
        let mut collections = self.collections.write();
        if collections.len() >= COLLECTIONS_MAX {
            collections.retain(|_, known| is_kept(known));
        }
        if collections.len() >= COLLECTIONS_MAX {
            self.make_place(&collections);
            return Err(Pass::Cold);
        }
        // Not a slice of somebody's request.
        let name = Bytes::copy_from_slice(&name);
        let collection =
            collections.entry(name.clone()).or_insert_with(|| Arc::new(Collection::new(name)));
        Ok(Arc::clone(collection))
    }

    /// Has the one given up that nobody has read for longest: the next name that is new takes its place.
    fn make_place(&self, collections: &HashMap<Bytes, Arc<Collection>>) {
        let config = self.config();
        let ready = collections.values().filter(|known| {
            matches!(known.state(), State::Ready(_)) && !config.pinned.contains(&known.name)
        });
        if let Some(longest) = ready.max_by_key(|known| known.idle()) {
            // Fails when the feed has more to do than it can remember. There will be another time.
            let _ = self.orders.try_send(Order::Drop { collection: Arc::clone(longest) });
        }
    }

    /// All collections that are known, by their names.
    pub fn collections(&self) -> Vec<Arc<Collection>> {
        let mut all: Vec<_> = self.collections.read().values().cloned().collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// What a collection holds, if that is enough; else it is loaded if the read is worth it.
    ///
    /// # Errors
    ///
    /// Why it is not there.
    pub fn store(
        &self,
        collection: &Arc<Collection>,
        tier: Tier,
        worth_loading: bool,
    ) -> Result<Arc<Store>, Pass> {
        if collection.is_off() {
            return Err(Pass::Off);
        }
        if !self.position().live {
            return Err(Pass::Behind);
        }
        collection.touch();
        let store = collection.store();
        match &store {
            Some(store) if store.snapshot().tier >= tier => {
                collection.hits.fetch_add(1, Relaxed);
                return Ok(Arc::clone(store));
            }
            _ => {}
        }
        collection.misses.fetch_add(1, Relaxed);
        if worth_loading {
            self.want(collection, tier);
        }
        Err(if store.is_some() { Pass::Tier } else { Pass::Cold })
    }

    /// Whether a collection holds enough for watchers that would come back to it; else it is loaded if
    /// they are worth it. This is no read.
    pub fn offers(&self, collection: &Arc<Collection>, tier: Tier, worth_loading: bool) -> bool {
        let held = collection.store().is_some_and(|store| store.snapshot().tier >= tier);
        if !held && worth_loading {
            self.want(collection, tier);
        }
        held && !collection.is_off()
    }

    /// Waits until a collection that is being loaded has been: all who want it share that one read of
    /// etcd, rather than compete with it.
    ///
    /// # Errors
    ///
    /// When it is not being loaded, or takes too long.
    pub async fn loaded(
        &self,
        collection: &Collection,
        tier: Tier,
        deadline: Option<Instant>,
    ) -> Result<(), Pass> {
        // Who waits in vain needs the rest of its time for etcd.
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()) / 2);
        let wait_max = left.map_or(LOAD_MAX, |left| left.min(LOAD_MAX));
        let mut positions = self.position.subscribe();
        let mut following = collection.follow();
        let loaded = async {
            loop {
                match collection.state() {
                    State::Ready(store) if store.snapshot().tier >= tier => return Ok(()),
                    State::Ready(_) if !collection.is_filling() => return Err(Pass::Tier),
                    State::Ready(_) | State::Loading => {
                        following.changed().await.map_err(|_| Pass::Cold)?;
                    }
                    State::Cold | State::Resting { .. } => return Err(Pass::Cold),
                }
            }
        };
        tokio::select! {
            loaded = timeout(wait_max, loaded) => loaded.unwrap_or(Err(Pass::Cold)),
            _ = positions.wait_for(|position| !position.live) => Err(Pass::Behind),
        }
    }

    /// Has a collection loaded. That the feed has more to do than it can remember is no reason to
    /// wait: another read will want it again.
    pub(super) fn want(&self, collection: &Arc<Collection>, tier: Tier) {
        let Ok(room) = self.orders.try_reserve() else { return };
        if !collection.is_off() && collection.begin_loading(tier, Instant::now()) {
            room.send(Order::Load { collection: Arc::clone(collection), tier });
        }
    }

    /// Switches a collection off, or on again. `None` when there is no such collection.
    pub async fn switch(&self, name: &[u8], off: bool) -> Option<Arc<Collection>> {
        let collection = self.collections.read().get(name).cloned()?;
        collection.set_off(off);
        if off {
            let order = Order::Drop { collection: Arc::clone(&collection) };
            // Fails when the feed has ended, and all that it held with it.
            let _ = self.orders.send(order).await;
        }
        Some(collection)
    }

    /// Switches a collection off that nobody may have asked for yet.
    pub fn start_off(&self, name: &[u8]) {
        let name = Bytes::copy_from_slice(name);
        let mut collections = self.collections.write();
        let collection = collections.entry(name.clone());
        collection.or_insert_with(|| Arc::new(Collection::new(name))).set_off(true);
    }

    /// Whether a header that etcd gave after the feed was at `before` is that of the store that is
    /// followed. If not, all is dropped.
    pub fn is_of(&self, header: &ResponseHeader, before: Position) -> bool {
        let same = header.cluster_id == before.cluster_id && header.revision >= before.revision;
        if !same && before.live {
            // The feed looks for itself, and drops what is of another store.
            self.look.notify_one();
        }
        same
    }

    /// A header of etcd's, at the newest revision that is known of the same store.
    pub fn newest(&self, header: ResponseHeader) -> ResponseHeader {
        let Position { revision, cluster_id, .. } = self.position();
        match header.cluster_id == cluster_id {
            true => ResponseHeader { revision: header.revision.max(revision), ..header },
            false => header,
        }
    }

    /// The turn of a watcher to go on at etcd, until it has been created there. `None` when that would
    /// be too long a wait.
    pub async fn entry(&self) -> Option<Turn> {
        let entering = timeout(ENTRY_MAX, Arc::clone(&self.entries).acquire_owned());
        // Fails when the semaphore is closed, too, which nobody does.
        entering.await.ok()?.ok().map(Turn::new)
    }

    /// The turn of a stream's watchers to come back, if it is theirs now.
    pub fn try_return(&self) -> Option<Turn> {
        Arc::clone(&self.returns).try_acquire_owned().ok().map(Turn::new)
    }

    /// Bytes of all collections that are ready, and of their past.
    pub fn held_bytes(&self) -> u64 {
        let collections = self.collections.read();
        let held = collections.values().filter_map(|collection| collection.store());
        held.map(|store| store.bytes() as u64).sum()
    }

    /// Waits for a feed that is being opened.
    ///
    /// # Errors
    ///
    /// When it is not, for whatever reason: it is not known when it will be.
    pub async fn live(&self) -> Result<(), Pass> {
        let mut following = self.position.subscribe();
        let waiting = following.wait_for(|position| position.live || !position.opening);
        match waiting.await {
            Ok(position) if position.live => Ok(()),
            _ => Err(Pass::Behind),
        }
    }

    /// Waits until the feed has reached `revision` of the store with this id, and tells how far it is
    /// then.
    ///
    /// # Errors
    ///
    /// When it does not get so far in time, is not live, or follows another store.
    pub async fn reached(&self, revision: i64, cluster_id: u64) -> Result<i64, Pass> {
        let reached = |position: &Position| !position.live || position.revision >= revision;
        let now = self.position();
        let position = if reached(&now) {
            now
        } else {
            let mut following = self.position.subscribe();
            let waiting = following.wait_for(reached);
            let wait_max = self.config().wait_max;
            *timeout(wait_max, waiting)
                .await
                .map_err(|_| Pass::Behind)?
                .map_err(|_| Pass::Behind)?
        };
        match position.live && position.cluster_id == cluster_id {
            true => Ok(position.revision),
            false => Err(Pass::Behind),
        }
    }
}

/// Whether the table needs this collection: it is more than a name, or somebody has it in hand and may
/// have it loaded, and there must not be another one of its name by then.
fn is_kept(collection: &Arc<Collection>) -> bool {
    collection.is_off()
        || !matches!(collection.state(), State::Cold)
        || Arc::strong_count(collection) > 1
}

/// Whether all keys of the range are those of the collection: its bare name, or below it. What is
/// below a group of resources, or below a single key, belongs to other collections.
fn is_inside(keys: &KeyRange, name: &Bytes) -> bool {
    let below = below(name);
    let inside = || keys.start >= below.start && keys.end <= below.end;
    is_collection(name) && (keys.as_single().is_some() || inside())
}

/// Whether all keys below `name` belong to one collection of this name.
pub fn is_collection(name: &[u8]) -> bool {
    let below = [name, b"/x/y"].concat();
    !name.is_empty() && Place::collection_of(&below) == name
}

/// Whether the range is that of all keys of the collection.
pub fn is_whole(keys: &KeyRange, name: &Bytes) -> bool {
    *keys == below(name)
}

/// All keys of a collection but its bare name.
pub(super) fn below(name: &Bytes) -> KeyRange {
    KeyRange::prefix([&name[..], b"/"].concat().into())
}

#[cfg(test)]
impl Mirror {
    /// One whose feed is here, and does nothing.
    pub(crate) fn fixture(position: Position) -> Arc<Self> {
        let (mirror, _) = tests::mirror();
        mirror.set_position(position);
        mirror
    }
}
