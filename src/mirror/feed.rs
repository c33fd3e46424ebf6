//! The one watch that keeps the collections of a cluster as etcd has them.

use super::{
    Change, Config, Position, Tier,
    batch::{Batch, Last},
    collection::{Collection, State},
    entries::{self, Entries},
    following::{Ended, Following, denied, end_of, newest},
    load::Source,
    metrics::Families,
    reader::Mirror,
    verify::{Verified, Verifier},
};
use crate::{
    admission::{Gate, Mode, Place, Protection},
    etcd::{key_range::KeyRange, proto::etcdserverpb::WatchCreateRequest, wire::Malformed},
    grpc::ReadError,
    paging::Splits,
    upstream::{Answer, CONTROL, Cluster, is_about_permission},
};
use bytes::Bytes;
use futures_util::FutureExt;
use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// What readers and those who verify ask of the feed.
#[derive(Debug)]
pub(super) enum Order {
    Load { collection: Arc<Collection>, tier: Tier },
    Drop { collection: Arc<Collection> },
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
    splits: Arc<Splits>,
    entries: Entries,
    verifier: Verifier,
    /// The store that the entries are of; see [`Cluster::number`].
    store: u64,
    cluster_id: u64,
    /// All events up to this revision were applied; 0 before the first.
    revision: i64,
    /// What the newest revision was about, by which it is known again.
    last: Option<Last>,
    /// Why it is not followed, as far as that was logged, and since when.
    outage: Option<(Ended, Instant)>,
    orders: mpsc::Receiver<Order>,
    loaded: mpsc::Receiver<entries::Ended>,
    verified: mpsc::Receiver<Verified>,
}

/// Orders, and what has come of them, that wait for the feed.
const ORDERS_MAX: usize = 64;

/// A feed further behind than this loads anew: catching up reads etcd's history under its lock.
const RESUME_MAX: i64 = 20_000;

/// A response of the feed: what one revision brings, or what a pause has gathered.
const RESPONSE_BYTES_MAX: usize = 1 << 30;

/// Between looks at what has no event of its own.
const TICK: Duration = Duration::from_secs(1);

/// A member that takes longer to open a watch is left for another.
const OPEN_MAX: Duration = Duration::from_secs(5);

/// Before a lost feed is opened again, and before permission is asked for again.
const PAUSE: Duration = Duration::from_millis(500);
const DENIED: Duration = Duration::from_secs(60);

const ANOTHER_STORE: &str = "another store has taken the place of the one before";

/// Starts the mirror of a cluster.
pub fn start(
    cluster: &Arc<Cluster>,
    gate: Arc<Gate>,
    protection: Arc<Protection>,
    config: Config,
    families: &Families,
) -> Running {
    let (orders_in, orders) = mpsc::channel(ORDERS_MAX);
    let (loaded_in, loaded) = mpsc::channel(ORDERS_MAX);
    let (verified_in, verified) = mpsc::channel(1);
    let metrics = families.cluster(&cluster.name);
    let entries = Entries::new(&cluster.name, metrics.clone(), loaded_in);
    let mirror = Arc::new(Mirror::new(&cluster.name, config, orders_in, metrics));
    let feed = Feed {
        mirror: Arc::clone(&mirror),
        source: Arc::downgrade(cluster),
        gate,
        protection,
        splits: Arc::default(),
        entries,
        verifier: Verifier::new(verified_in),
        store: cluster.number(),
        cluster_id: 0,
        revision: 0,
        last: None,
        outage: None,
        orders,
        loaded,
        verified,
    };
    Running { mirror, _feed: AbortOnDropHandle::new(tokio::spawn(feed.run())) }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.mirror.metrics.live.set(0);
        self.mirror.set_position(Position::default());
        // Nobody reads them any more, and a call that is under way may hold the mirror for days.
        self.mirror.collections().iter().for_each(|collection| collection.set(State::Cold));
    }
}

impl Feed {
    async fn run(mut self) {
        self.position(false, self.protection.mirror() != Mode::Off);
        loop {
            let ended = self.follow().await;
            self.position(false, matches!(ended, Ended::Lost(_) | Ended::Gap(_)));
            self.log(&ended);
            let pause = match ended {
                Ended::Gone => return,
                Ended::Lost(_) => PAUSE,
                Ended::Off => {
                    self.drop_all();
                    TICK
                }
                Ended::Gap(_) => {
                    self.mirror.metrics.resets.inc();
                    self.drop_all();
                    PAUSE
                }
                Ended::Denied(_) => {
                    self.drop_all();
                    DENIED
                }
            };
            sleep(pause).await;
        }
    }

    /// Tells once why nothing is followed, however often that is tried.
    fn log(&mut self, ended: &Ended) {
        let known = self.outage.as_ref().map(|(known, _)| mem::discriminant(known));
        if known == Some(mem::discriminant(ended)) {
            return;
        }
        let cluster = &*self.mirror.cluster;
        match ended {
            Ended::Off | Ended::Gone => {
                self.outage = None;
                return;
            }
            Ended::Lost(reason) => tracing::warn!(cluster, reason, "mirror: feed lost"),
            Ended::Gap(reason) => tracing::warn!(cluster, reason, "mirror: begins anew"),
            Ended::Denied(reason) => {
                tracing::warn!(cluster, reason, "mirror: off, etcd does not let it watch all keys");
            }
        }
        let since = self.outage.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        self.outage = Some((ended.clone(), since));
    }

    /// Follows the store from where it was left.
    async fn follow(&mut self) -> Ended {
        if self.protection.mirror() == Mode::Off {
            return Ended::Off;
        }
        let mirror = Arc::clone(&self.mirror);
        // What was seen before is looked at now.
        let _ = mirror.look.notified().now_or_never();
        let resumes = self.last;
        let mut answer = match timeout(OPEN_MAX, self.open()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(ended)) => return ended,
            Err(_) => return Ended::Lost("etcd does not answer".into()),
        };
        let mut following = Following::new(resumes, self.revision);
        let mut denied = Box::pin(denied(self.source.clone()));
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let ended = tokio::select! {
                message = answer.body.message(RESPONSE_BYTES_MAX) => match message {
                    Ok(Some(message)) => self.on_response(&message.payload(), &mut following),
                    Ok(None) => Some(end_of(&mut answer).await),
                    Err(ReadError::TooLarge { .. }) => Some(Ended::Gap("too much came at once")),
                    Err(error) => Some(Ended::Lost(error.to_string())),
                },
                Some(order) = self.orders.recv() => {
                    self.on_order(order);
                    None
                }
                Some(loaded) = self.loaded.recv() => {
                    self.entries.on_loaded(loaded, &self.mirror.config());
                    self.entries.fill(self.revision, &self.mirror.config());
                    None
                }
                Some(verified) = self.verified.recv() => {
                    self.on_verified(&verified);
                    None
                }
                _ = tick.tick() => self.on_tick(&mut following),
                // Opening the watch anew compares the stores.
                () = mirror.look.notified() => {
                    Some(Ended::Lost("etcd answers as another store would".into()))
                }
                ended = &mut denied => Some(ended),
            };
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    /// Opens the watch at the newest revision that was applied, unless that would be too far back.
    async fn open(&mut self) -> Result<Answer, Ended> {
        let cluster = self.source.upgrade().ok_or(Ended::Gone)?;
        let lost = |error: crate::upstream::Error| Ended::Lost(error.to_string());
        let header = newest(&cluster).await?;
        let newest = header.revision;
        let another = self.revision > 0 && header.cluster_id != self.cluster_id;
        let store = cluster.number();
        if mem::replace(&mut self.store, store) != store || another {
            return Err(Ended::Gap(ANOTHER_STORE));
        }
        match self.revision {
            0 => (self.revision, self.cluster_id) = (newest, header.cluster_id),
            known if newest < known => return Err(Ended::Gap("etcd has gone back")),
            known if newest - known > RESUME_MAX => return Err(Ended::Gap("it is too far behind")),
            _ => {}
        }
        // What is known already comes again, and shows whether this is the history it is from.
        let create = WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            start_revision: self.revision,
            ..WatchCreateRequest::default()
        };
        let answer = cluster.watch(create, CONTROL).await.map_err(lost)?;
        match answer.refusal() {
            Some(status) if is_about_permission(&status) => {
                Err(Ended::Denied(status.message().to_owned()))
            }
            Some(status) => Err(Ended::Lost(status.message().to_owned())),
            None => Ok(answer),
        }
    }

    fn on_response(&mut self, response: &[u8], following: &mut Following) -> Option<Ended> {
        let Ok(mut batch) = Batch::read(response) else {
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
        if !batch.events.is_empty()
            && let Some(last) = following.resumes.take()
            && !batch.has(&last)
        {
            return Some(Ended::Gap(ANOTHER_STORE));
        }
        // What comes again may be older than what was applied.
        if batch.revision().is_some_and(|revision| revision >= self.revision) {
            self.last = batch.last();
        }
        batch.events.retain(|event| event.revision > self.revision);
        if self.apply(&batch).is_err() {
            return Some(Ended::Gap("etcd sent what is no key-value"));
        }
        if following.resumes.is_none() {
            self.on_live();
        }
        None
    }

    /// Applies what happened to each collection, and only then says how far it is.
    fn apply(&mut self, batch: &Batch<'_>) -> Result<(), Malformed> {
        let mut changes: HashMap<&[u8], Vec<Change>> = HashMap::new();
        for event in &batch.events {
            let name = Place::collection_of(event.key);
            if self.entries.contains(name) {
                changes.entry(name).or_default().push(Change::read(event.kind, event.kv)?);
            }
        }
        for (name, changes) in changes {
            self.entries.apply(name, changes);
        }
        self.mirror.metrics.events.inc_by(batch.events.len() as u64);
        self.revision = self.revision.max(batch.revision().unwrap_or(0));
        self.entries.fill(self.revision, &self.mirror.config());
        Ok(())
    }

    fn on_live(&mut self) {
        if let Some((_, since)) = self.outage.take() {
            let (cluster, after) = (&*self.mirror.cluster, since.elapsed());
            tracing::info!(cluster, revision = self.revision, ?after, "mirror: feed is back");
        }
        self.position(true, false);
    }

    fn on_order(&mut self, order: Order) {
        match order {
            // Switched off after it was ordered.
            Order::Load { collection, .. } if collection.is_off() => {
                self.entries.forget(&collection);
            }
            Order::Load { collection, tier } => {
                let Some(cluster) = self.source.upgrade() else { return };
                let source = self.source_of(cluster);
                self.entries.begin_load(collection, tier, source, &self.mirror.config());
            }
            Order::Drop { collection } => self.entries.forget(&collection),
        }
    }

    fn source_of(&self, cluster: Arc<Cluster>) -> Source {
        Source {
            cluster,
            gate: Arc::clone(&self.gate),
            protection: Arc::clone(&self.protection),
            splits: Arc::clone(&self.splits),
        }
    }

    fn on_tick(&mut self, following: &mut Following) -> Option<Ended> {
        let Some(cluster) = self.source.upgrade() else { return Some(Ended::Gone) };
        if self.protection.mirror() == Mode::Off {
            return Some(Ended::Off);
        }
        if cluster.number() != self.store {
            return Some(Ended::Gap(ANOTHER_STORE));
        }
        let config = self.mirror.config();
        self.entries.remember(config.history);
        self.entries.make_room(&config);
        self.entries.observe();
        self.mirror.metrics.revision.set(self.revision);
        for name in &config.pinned {
            if let Ok(collection) = self.mirror.collection(&KeyRange::single(name.clone()), true) {
                self.mirror.want(&collection, Tier::Value);
            }
        }
        drop(config);
        self.verify_one(&cluster);
        // Probes know how far etcd is, on connections of their own.
        following.check(self.revision, cluster.identity().header.revision)
    }

    /// Compares one collection with etcd, the one whose turn it is.
    fn verify_one(&mut self, cluster: &Arc<Cluster>) {
        let Some(pause) = self.mirror.config().verify_interval else { return };
        if !self.verifier.is_due(pause) {
            return;
        }
        let next = self.entries.ready().min_by_key(|(collection, _)| collection.verified());
        let Some((collection, store)) = next else { return };
        let source = self.source_of(Arc::clone(cluster));
        self.verifier.begin(source, collection.name.clone(), store, self.revision);
    }

    fn on_verified(&mut self, Verified { name, store, same }: &Verified) {
        let held = self.entries.ready().find(|(_, held)| Arc::ptr_eq(held, store));
        let Some((collection, _)) = held else { return };
        collection.set_verified(Instant::now());
        let metrics = &self.mirror.metrics;
        metrics.verifications.inc_by(same.is_some().into());
        if *same == Some(false) {
            metrics.mismatches.inc();
            let (cluster, collection) = (&*self.mirror.cluster, name.escape_ascii().to_string());
            tracing::error!(cluster, collection, "mirror: differs from etcd, and is dropped");
            self.entries.rest(name, "it differed from etcd");
        }
    }

    fn drop_all(&mut self) {
        (self.revision, self.last) = (0, None);
        self.entries.forget_all();
        // What was ordered before is ordered again by those who still want it.
        while let Ok(order) = self.orders.try_recv() {
            if let Order::Load { collection, .. } = order {
                self.entries.forget(&collection);
            }
        }
    }

    fn position(&self, live: bool, opening: bool) {
        self.mirror.metrics.live.set(live.into());
        self.mirror.set_position(Position {
            revision: self.revision,
            live,
            opening,
            cluster_id: self.cluster_id,
        });
    }
}
