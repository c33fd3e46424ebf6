//! The one watch that keeps the collections of a cluster as etcd has them.

use super::{
    Change, Config, Position, State, Store, Tier, Writer,
    batch::Batch,
    collection::Collection,
    load::{Failed, Loaded, Source},
    metrics::Families,
    reader::Mirror,
    verify,
};
use crate::{
    admission::{Gate, Mode, Place, Protection},
    etcd::{
        method::Method,
        proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader, WatchCreateRequest},
    },
    upstream::{Answer, CONTROL, Cluster},
};
use bytes::Bytes;
use http::HeaderMap;
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::task::AbortOnDropHandle;

/// What readers and those who verify ask of the feed.
#[derive(Debug)]
pub(super) enum Order {
    Load {
        collection: Arc<Collection>,
        tier: Tier,
    },
    Drop {
        collection: Arc<Collection>,
    },
    /// etcd seems to have another store than is followed.
    Look,
}

/// A mirror, whose feed ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    pub mirror: Arc<Mirror>,
    _feed: AbortOnDropHandle<()>,
}

/// The one writer of all collections of a cluster.
#[derive(Debug)]
struct Feed {
    mirror: Arc<Mirror>,
    source: Weak<Cluster>,
    gate: Arc<Gate>,
    protection: Arc<Protection>,
    splits: Arc<crate::paging::Splits>,
    entries: HashMap<Bytes, Entry>,
    /// The store that the entries are of; see [`Cluster::number`].
    store: u64,
    cluster_id: u64,
    /// All events up to this revision were applied; 0 before the first.
    revision: i64,
    orders: mpsc::Receiver<Order>,
    done: mpsc::Sender<Done>,
    finished: mpsc::Receiver<Done>,
    verified: Instant,
}

#[derive(Debug)]
enum Entry {
    /// Remembers what happens until the load is there.
    Loading {
        collection: Arc<Collection>,
        tier: Tier,
        since: Vec<Change>,
        bytes: usize,
        _load: AbortOnDropHandle<()>,
    },
    Ready {
        collection: Arc<Collection>,
        writer: Writer,
    },
}

/// What a task of the feed's has come to.
#[derive(Debug)]
pub(super) enum Done {
    Loaded {
        name: Bytes,
        loaded: Result<Loaded, Failed>,
    },
    /// Whether the collection is as etcd has it; `None` if that could not be found out.
    Verified {
        name: Bytes,
        store: Arc<Store>,
        same: Option<bool>,
    },
}

/// Why the feed does not go on.
#[derive(Debug)]
enum Ended {
    Off,
    Gone,
    /// It goes on where it was.
    Lost(String),
    /// What follows cannot be had: all is dropped.
    Gap(&'static str),
    /// etcd does not let Seawall watch everything.
    Denied(String),
}

/// Orders that wait for the feed.
const ORDERS_MAX: usize = 64;

/// A feed further behind than this loads anew: catching up reads etcd's history under its lock.
const RESUME_MAX: i64 = 20_000;

/// Bytes of events that are remembered for a collection while it is loaded.
const SINCE_MAX: usize = 64 << 20;

/// A response of the feed: what one revision brings, or what a pause has gathered.
const RESPONSE_BYTES_MAX: usize = 1 << 30;

/// Between looks at what has no event of its own.
const TICK: Duration = Duration::from_secs(1);

/// etcd is known to be further for so long, and nothing comes.
const STALLED: Duration = Duration::from_secs(5);

/// Before a lost feed is opened again, a load that failed is tried again, and permission is asked
/// for again.
const PAUSE: Duration = Duration::from_millis(500);
const REST: Duration = Duration::from_secs(10);
/// To find out that a collection is too large costs etcd all of it.
const REST_TOO_LARGE: Duration = Duration::from_secs(600);
const DENIED: Duration = Duration::from_secs(60);

/// Starts the mirror of a cluster.
pub fn start(
    cluster: &Arc<Cluster>,
    gate: Arc<Gate>,
    protection: Arc<Protection>,
    config: Config,
    families: &Families,
) -> Running {
    let (orders_in, orders) = mpsc::channel(ORDERS_MAX);
    let (done, finished) = mpsc::channel(ORDERS_MAX);
    let metrics = families.cluster(&cluster.name);
    let mirror = Arc::new(Mirror::new(&cluster.name, config, orders_in, metrics));
    let feed = Feed {
        mirror: Arc::clone(&mirror),
        source: Arc::downgrade(cluster),
        gate,
        protection,
        splits: Arc::default(),
        entries: HashMap::new(),
        store: cluster.number(),
        cluster_id: 0,
        revision: 0,
        orders,
        done,
        finished,
        verified: Instant::now(),
    };
    Running { mirror, _feed: AbortOnDropHandle::new(tokio::spawn(feed.run())) }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.mirror.set_position(Position::default());
    }
}

impl Feed {
    async fn run(mut self) {
        loop {
            let ended = self.follow().await;
            self.position(false);
            let pause = match ended {
                Ended::Gone => return,
                Ended::Off => {
                    self.drop_all();
                    TICK
                }
                Ended::Lost(reason) => {
                    tracing::warn!(cluster = &*self.mirror.cluster, reason, "mirror: feed lost");
                    PAUSE
                }
                Ended::Gap(reason) => {
                    tracing::warn!(cluster = &*self.mirror.cluster, reason, "mirror: begins anew");
                    self.mirror.metrics.resets.inc();
                    self.drop_all();
                    PAUSE
                }
                Ended::Denied(reason) => {
                    let cluster = &*self.mirror.cluster;
                    tracing::warn!(
                        cluster,
                        reason,
                        "mirror: off, etcd does not let it watch all keys"
                    );
                    self.drop_all();
                    DENIED
                }
            };
            sleep(pause).await;
        }
    }

    /// Follows the store from where it was left.
    async fn follow(&mut self) -> Ended {
        if self.protection.mirror() == Mode::Off {
            return Ended::Off;
        }
        let mut answer = match self.open().await {
            Ok(answer) => answer,
            Err(ended) => return ended,
        };
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut behind_since = None;
        loop {
            let ended = tokio::select! {
                message = answer.body.message(RESPONSE_BYTES_MAX) => match message {
                    Ok(Some(message)) => self.on_response(&message.payload()),
                    Ok(None) => Some(self.on_end(&mut answer).await),
                    Err(error) => Some(Ended::Lost(error.to_string())),
                },
                Some(order) = self.orders.recv() => self.on_order(order),
                Some(done) = self.finished.recv() => {
                    self.on_done(done);
                    None
                }
                _ = tick.tick() => self.on_tick(&mut behind_since),
            };
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    /// Opens the watch after what was applied, unless that would be too far back.
    async fn open(&mut self) -> Result<Answer, Ended> {
        let cluster = self.source.upgrade().ok_or(Ended::Gone)?;
        let lost = |error: crate::upstream::Error| Ended::Lost(error.to_string());
        let header = newest(&cluster).await?;
        let newest = header.revision;
        let another = self.revision > 0 && header.cluster_id != self.cluster_id;
        if cluster.number() != std::mem::replace(&mut self.store, cluster.number()) || another {
            return Err(Ended::Gap("another store has taken the place of the one before"));
        }
        match self.revision {
            0 => (self.revision, self.cluster_id) = (newest, header.cluster_id),
            known if newest < known => return Err(Ended::Gap("etcd has gone back")),
            known if newest - known > RESUME_MAX => return Err(Ended::Gap("it is too far behind")),
            _ => {}
        }
        let create = WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            start_revision: self.revision + 1,
            ..WatchCreateRequest::default()
        };
        let answer = cluster.watch(create, CONTROL).await.map_err(lost)?;
        match answer.refusal() {
            Some(status) if crate::upstream::is_about_permission(&status) => {
                Err(Ended::Denied(status.message().to_owned()))
            }
            Some(status) => Err(Ended::Lost(status.message().to_owned())),
            None => Ok(answer),
        }
    }

    fn on_response(&mut self, response: &[u8]) -> Option<Ended> {
        let Ok(batch) = Batch::read(response) else {
            return Some(Ended::Gap("etcd sent what is no watch response"));
        };
        if batch.canceled {
            return Some(match batch.compact_revision {
                0 if batch.cancel_reason.contains("permission denied") => {
                    Ended::Denied(batch.cancel_reason)
                }
                0 => Ended::Lost(batch.cancel_reason),
                _ => Ended::Gap("what follows was compacted"),
            });
        }
        if batch.created {
            self.position(true);
        }
        match self.apply(&batch) {
            Ok(()) => None,
            Err(_) => Some(Ended::Gap("etcd sent what is no key-value")),
        }
    }

    /// Applies what happened to each collection, and only then says how far it is.
    fn apply(&mut self, batch: &Batch<'_>) -> Result<(), crate::etcd::wire::Malformed> {
        let Some(revision) = batch.revision() else { return Ok(()) };
        let mut changes: HashMap<&[u8], Vec<Change>> = HashMap::new();
        for event in &batch.events {
            let name = Place::collection_of(event.key);
            if self.entries.contains_key(name) {
                changes.entry(name).or_default().push(Change::read(event.kind, event.kv)?);
            }
        }
        for (name, changes) in changes {
            if let Some(entry) = self.entries.get_mut(name)
                && !entry.apply(changes)
            {
                self.rest(name, "more happened than could be remembered");
            }
        }
        self.mirror.metrics.events.inc_by(batch.events.len() as u64);
        self.revision = self.revision.max(revision);
        self.position(true);
        Ok(())
    }

    async fn on_end(&self, answer: &mut Answer) -> Ended {
        let status = answer.body.trailers().await.ok().flatten();
        let status = status.as_ref().and_then(crate::grpc::from_headers);
        match status {
            Some(status) if crate::upstream::is_about_permission(&status) => {
                Ended::Denied(status.message().to_owned())
            }
            Some(status) => Ended::Lost(status.message().to_owned()),
            None => Ended::Lost("etcd has ended the watch".into()),
        }
    }

    fn on_order(&mut self, order: Order) -> Option<Ended> {
        match order {
            Order::Load { collection, tier } => self.begin_load(collection, tier),
            Order::Drop { collection } => {
                self.entries.remove(&collection.name);
                collection.set(State::Cold);
            }
            // Opening the watch anew compares the stores.
            Order::Look => return Some(Ended::Lost("etcd answers as another store would".into())),
        }
        None
    }

    fn begin_load(&mut self, collection: Arc<Collection>, tier: Tier) {
        let Some(cluster) = self.source.upgrade() else { return };
        let source = self.source_of(cluster);
        let (name, done) = (collection.name.clone(), self.done.clone());
        let others = self.held() - self.held_by(&name);
        let room = (self.mirror.config().memory_bytes as usize).saturating_sub(others);
        let loading = async move {
            // Values of others may be worth less than these.
            let loaded = source.load(&name, tier, room).await;
            // Fails when the feed has ended, and all that it held with it.
            let _ = done.send(Done::Loaded { name, loaded }).await;
        };
        let name = collection.name.clone();
        let entry = Entry::Loading {
            collection,
            tier,
            since: Vec::new(),
            bytes: 0,
            _load: AbortOnDropHandle::new(tokio::spawn(loading)),
        };
        self.entries.insert(name, entry);
    }

    fn source_of(&self, cluster: Arc<Cluster>) -> Source {
        Source {
            cluster,
            gate: Arc::clone(&self.gate),
            protection: Arc::clone(&self.protection),
            splits: Arc::clone(&self.splits),
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Loaded { name, loaded } => self.on_loaded(&name, loaded),
            Done::Verified { name, store, same } => self.on_verified(&name, &store, same),
        }
    }

    fn on_loaded(&mut self, name: &Bytes, loaded: Result<Loaded, Failed>) {
        // It may have been given up meanwhile.
        let Some(Entry::Loading { collection, tier, since, .. }) = self.entries.remove(name) else {
            return;
        };
        let cluster = &*self.mirror.cluster;
        let shown = name.escape_ascii().to_string();
        match loaded {
            Ok(Loaded { revision, objects }) => {
                let keys = objects.len();
                let history = self.mirror.config().history;
                let mut writer = Writer::load(objects, revision, tier, history);
                writer.apply(since);
                collection.set(State::Ready(Arc::clone(writer.store())));
                self.entries.insert(name.clone(), Entry::Ready { collection, writer });
                self.mirror.metrics.loads.inc();
                tracing::info!(
                    cluster,
                    collection = shown,
                    ?tier,
                    keys,
                    revision,
                    "mirror: loaded"
                );
                self.make_room();
            }
            Err(failed) => {
                self.mirror.metrics.loads_failed.inc();
                tracing::warn!(cluster, collection = shown, %failed, "mirror: not loaded");
                let (rest, why) = match failed {
                    Failed::TooLarge => (REST_TOO_LARGE, "it is larger than mirror.memory leaves"),
                    _ => (REST, "it could not be loaded"),
                };
                collection.set(State::Resting { until: Instant::now() + rest, why });
            }
        }
    }

    /// Gives a collection up for a while.
    fn rest(&mut self, name: &[u8], why: &'static str) {
        if let Some(entry) = self.entries.remove(name) {
            let until = Instant::now() + REST;
            entry.collection().set(State::Resting { until, why });
        }
    }

    fn on_tick(&mut self, behind_since: &mut Option<Instant>) -> Option<Ended> {
        let Some(cluster) = self.source.upgrade() else { return Some(Ended::Gone) };
        if self.protection.mirror() == Mode::Off {
            return Some(Ended::Off);
        }
        if cluster.number() != self.store {
            return Some(Ended::Gap("another store has taken the place of the one before"));
        }
        let metrics = &self.mirror.metrics;
        metrics.revision.set(self.revision);
        metrics.bytes.set(self.held() as i64);
        let ready = self.entries.values().filter(|entry| matches!(entry, Entry::Ready { .. }));
        metrics.collections.set(ready.count() as i64);
        self.make_room();
        for name in self.mirror.config().pinned.clone() {
            if let Ok(collection) =
                self.mirror.collection(&crate::etcd::key_range::KeyRange::single(name))
            {
                self.mirror.want(&collection, Tier::Value);
            }
        }
        self.verify_one(cluster.clone());
        // Probes know how far etcd is, on connections of their own.
        if cluster.identity().header.revision <= self.revision {
            *behind_since = None;
            return None;
        }
        let since = *behind_since.get_or_insert_with(Instant::now);
        (since.elapsed() >= STALLED).then(|| Ended::Lost("nothing comes".into()))
    }

    /// Compares one collection with etcd, the one whose turn it is.
    fn verify_one(&mut self, cluster: Arc<Cluster>) {
        let Some(pause) = self.mirror.config().verify_interval else { return };
        if self.verified.elapsed() < pause {
            return;
        }
        self.verified = Instant::now();
        let source = self.source_of(cluster);
        if let Some((name, store)) = self.next_to_verify() {
            let done = self.done.clone();
            tokio::spawn(async move {
                let same = verify::compare(&source, &name, &store).await;
                // Fails when the feed has ended, and all that it held with it.
                let _ = done.send(Done::Verified { name, store, same }).await;
            });
        }
    }

    fn next_to_verify(&self) -> Option<(Bytes, Arc<Store>)> {
        let ready = self.entries.iter().filter_map(|(name, entry)| match entry {
            Entry::Ready { collection, writer } => {
                Some((collection.verified(), name.clone(), Arc::clone(writer.store())))
            }
            Entry::Loading { .. } => None,
        });
        ready.min_by_key(|(verified, ..)| *verified).map(|(_, name, store)| (name, store))
    }

    fn on_verified(&mut self, name: &Bytes, store: &Arc<Store>, same: Option<bool>) {
        let Some(Entry::Ready { collection, writer }) = self.entries.get(name) else { return };
        if !Arc::ptr_eq(writer.store(), store) {
            return;
        }
        collection.set_verified(Instant::now());
        match same {
            None => {}
            Some(true) => {
                self.mirror.metrics.verifications.inc();
            }
            Some(false) => {
                self.mirror.metrics.verifications.inc();
                self.mirror.metrics.mismatches.inc();
                let collection = name.escape_ascii().to_string();
                let cluster = &*self.mirror.cluster;
                tracing::error!(cluster, collection, "mirror: differs from etcd, and is dropped");
                self.rest(name, "it differed from etcd");
            }
        }
    }

    /// Bytes of everything that is held.
    fn held(&self) -> usize {
        self.entries.values().map(Entry::bytes).sum()
    }

    fn held_by(&self, name: &Bytes) -> usize {
        self.entries.get(name).map_or(0, Entry::bytes)
    }

    /// Gives up values, then collections, of those that were not read for the longest time, until
    /// the rest is within the budget.
    fn make_room(&mut self) {
        let budget = self.mirror.config().memory_bytes as usize;
        while self.held() > budget {
            let Some(name) = self.least_useful() else { return };
            self.mirror.metrics.evictions.inc();
            match self.entries.get_mut(&name) {
                Some(Entry::Ready { writer, .. })
                    if writer.store().snapshot().tier == Tier::Value =>
                {
                    writer.drop_values();
                }
                _ => self.rest(&name, "memory was short"),
            }
        }
    }

    fn least_useful(&self) -> Option<Bytes> {
        let pinned = self.mirror.config();
        let ready = self.entries.iter().filter_map(|(name, entry)| match entry {
            Entry::Ready { collection, writer } => {
                let kept = pinned.pinned.contains(name);
                let bare = writer.store().snapshot().tier == Tier::Index;
                // What is not pinned first; among those, what has values; then the longest unread.
                Some(((!kept, !bare, collection.idle()), name))
            }
            Entry::Loading { .. } => None,
        });
        ready.max_by_key(|(use_, _)| *use_).map(|(_, name)| name.clone())
    }

    fn drop_all(&mut self) {
        self.revision = 0;
        for (_, entry) in self.entries.drain() {
            entry.collection().set(State::Cold);
        }
        // What was ordered before is ordered again by those who still want it.
        while let Ok(order) = self.orders.try_recv() {
            if let Order::Load { collection, .. } = order {
                collection.set(State::Cold);
            }
        }
    }

    fn position(&self, live: bool) {
        self.mirror.metrics.live.set(live.into());
        self.mirror.set_position(Position {
            revision: self.revision,
            live,
            cluster_id: self.cluster_id,
        });
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
            Self::Loading { bytes, .. } => *bytes,
            Self::Ready { writer, .. } => writer.store().bytes(),
        }
    }

    /// Applies changes, or remembers them; false when there are too many.
    fn apply(&mut self, changes: Vec<Change>) -> bool {
        match self {
            Self::Loading { since, bytes, .. } => {
                *bytes += changes.iter().map(|change| change.object.weight()).sum::<usize>();
                since.extend(changes);
                *bytes <= SINCE_MAX
            }
            Self::Ready { collection, writer } => {
                writer.apply(changes);
                collection.published(writer.store().snapshot().revision);
                true
            }
        }
    }
}

/// What etcd says of its store.
async fn newest(cluster: &Cluster) -> Result<ResponseHeader, Ended> {
    let key = Bytes::from_static(b"\0");
    let request = RangeRequest { key, count_only: true, ..RangeRequest::default() };
    let asking =
        cluster.ask::<RangeResponse>(Method::Range, &request, HeaderMap::new(), CONTROL, None);
    match asking.await {
        Ok(Ok(response)) => Ok(response.header.unwrap_or_default()),
        Ok(Err(status)) if crate::upstream::is_about_permission(&status) => {
            Err(Ended::Denied(status.message().to_owned()))
        }
        Ok(Err(status)) => Err(Ended::Lost(status.message().to_owned())),
        Err(error) => Err(Ended::Lost(error.to_string())),
    }
}
