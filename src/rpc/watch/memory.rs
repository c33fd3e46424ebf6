//! The watchers of one client's stream that are served from what is held of one cluster.
//!
//! A watcher is a place in the history of its collection. The task here is woken by changes of the
//! collections, and sends what each watcher has not seen yet; while a client is slow its watchers
//! stay where they are. Those that memory cannot serve any more go on at etcd from where they are.

use super::{
    head::ALL,
    ids::{Ids, Moving, Seen, Source},
    outlet::{Outlet, Turn},
    seat::Seat,
    upstreams::Event,
};
use crate::{
    admission::{Mode, Protection},
    etcd::proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse},
    grpc::{self, SendError},
    mirror::{Batch, Behind, Collection, Mirror, Store, Watcher},
    sabotage::Sabotage,
    upstream::Cluster,
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use h2::Reason;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use prost::Message as _;
use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    ops::RangeBounds,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::yield_now,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;

/// Orders of the session that wait for the task; the session waits when it is full.
const ORDERS_QUEUED: usize = 16;

/// Bytes of events in one response, or those of one revision. The events are those of the history,
/// and become bytes as the client takes them.
const BATCH_BYTES: usize = 8 << 20;

/// Bytes that are handed to the connection at once.
const CHUNK: usize = 64 << 10;

/// Revisions that a watcher which had seen everything gets one by one, as from the buffer that etcd
/// has for each stream; what comes later arrives together.
const ONE_BY_ONE_MAX: usize = 128;

/// Between looks at what has no wake-up of its own.
const TICK: Duration = Duration::from_secs(1);

/// Silence after which a watcher that wants to know hears how far it is.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Watchers wait for a lost feed this long before they go to etcd.
const LOST_MAX: Duration = Duration::from_secs(5);

/// What the session asks for.
#[derive(Debug)]
pub(super) enum Order {
    Create(Box<Seat>),
    Cancel(i64),
    Progress,
}

/// The task with the watchers; it ends with this.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) orders: mpsc::Sender<Order>,
    _task: AbortOnDropHandle<()>,
}

/// What the task works with.
#[derive(Debug)]
pub(super) struct Desk {
    /// Index of the cluster.
    pub(super) index: usize,
    pub(super) cluster: Arc<Cluster>,
    pub(super) mirror: Arc<Mirror>,
    pub(super) protection: Arc<Protection>,
    pub(super) outlet: Arc<Outlet>,
    /// Never locked across an await.
    pub(super) ids: Arc<Mutex<Ids>>,
    pub(super) events: mpsc::Sender<Event>,
    /// Told when a watcher moves.
    pub(super) moved: Arc<Notify>,
}

#[derive(Debug)]
struct Keeper {
    desk: Desk,
    followed: HashMap<Bytes, Followed>,
    /// One for each of `followed`.
    changes: FuturesUnordered<BoxFuture<'static, Changed>>,
    loss: Loss,
}

/// A collection that was followed, and has changed.
struct Changed {
    name: Bytes,
    following: watch::Receiver<()>,
}

/// A collection and the places in its history.
#[derive(Debug)]
struct Followed {
    collection: Arc<Collection>,
    store: Arc<Store>,
    /// The store at etcd, and how far it was followed.
    seen: Seen,
    cursors: BTreeMap<i64, Cursor>,
}

/// A watcher.
#[derive(Debug)]
struct Cursor {
    watcher: Watcher,
    request: WatchCreateRequest,
    /// Whether it has seen everything once.
    synced: bool,
    /// When it was sent something last.
    told: Instant,
    _counted: Counted,
}

/// Since when the feed does not go on.
#[derive(Debug, Default)]
struct Loss(Option<Instant>);

impl Loss {
    /// Whether the feed has been lost for too long to wait for it.
    fn is_long(&mut self, live: bool) -> bool {
        if live {
            self.0 = None;
            return false;
        }
        self.0.get_or_insert_with(Instant::now).elapsed() >= LOST_MAX
    }
}

/// One in a gauge for as long as it lives.
#[derive(Debug)]
struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Memory {
    pub(super) fn start(desk: Desk) -> Self {
        let (orders, received) = mpsc::channel(ORDERS_QUEUED);
        let keeper = Keeper {
            desk,
            followed: HashMap::new(),
            changes: FuturesUnordered::new(),
            loss: Loss::default(),
        };
        let task = tokio::spawn(keeper.run(received));
        Self { orders, _task: AbortOnDropHandle::new(task) }
    }
}

impl Keeper {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let outlet = Arc::clone(&self.desk.outlet);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let sent = tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.on_order(order).await,
                    None => return,
                },
                Some(changed) = self.changes.next() => self.on_changed(changed).await,
                _ = tick.tick() => self.on_tick().await,
                // Only the last one to send something is told.
                () = poll_fn(|cx| outlet.poll_gone(cx)) => Err(SendError::Reset(Reason::CANCEL)),
            };
            if sent.is_err() {
                // Fails when the session has ended, which is what this is about.
                let _ = self.desk.events.send(Event::Gone).await;
                return;
            }
        }
    }

    async fn on_order(&mut self, order: Order) -> Result<(), SendError> {
        match order {
            Order::Create(seat) => self.create(*seat).await,
            Order::Cancel(id) => self.cancel(id).await,
            Order::Progress => self.progress().await,
        }
    }

    async fn create(&mut self, seat: Seat) -> Result<(), SendError> {
        let desk = &self.desk;
        desk.created(&seat).await?;
        let name = seat.collection.name.clone();
        let followed = self.followed.entry(name.clone()).or_insert_with(|| {
            self.changes.push(next_change(name.clone(), seat.collection.follow()));
            Followed::new(&seat)
        });
        if !Arc::ptr_eq(&followed.store, &seat.store) {
            followed.leave(desk);
            *followed = Followed::new(&seat);
        }
        let cursor = Cursor {
            // As etcd has it: who asks for the past has not seen everything.
            synced: !(1..=seat.header.revision).contains(&seat.request.start_revision),
            told: Instant::now(),
            _counted: Counted::new(desk.mirror.metrics.watchers.clone()),
            watcher: seat.watcher,
            request: seat.request,
        };
        let id = cursor.request.watch_id;
        followed.cursors.insert(id, cursor);
        // What has happened before it was followed. To look at all others as well each time would
        // take ever longer where a stream has very many.
        followed.deliver(desk, id..=id).await
    }

    async fn cancel(&mut self, watch_id: i64) -> Result<(), SendError> {
        for followed in self.followed.values_mut() {
            followed.cursors.remove(&watch_id);
        }
        let desk = &self.desk;
        let known = desk.cluster.header().revision;
        let header = Some(desk.header(known.max(desk.mirror.position().revision)));
        let canceled =
            WatchResponse { header, watch_id, canceled: true, ..WatchResponse::default() };
        desk.outlet.turn().await.send(grpc::encode(&canceled)).await
    }

    /// Says how far all watchers are. As at etcd, there is no answer while one of them waits for a
    /// revision to come, and none while that cannot be known.
    async fn progress(&mut self) -> Result<(), SendError> {
        let position = self.desk.mirror.position();
        let overtakes = Sabotage::OvertakeEvents.is_on();
        if !overtakes {
            self.deliver_all().await?;
        }
        if !position.live {
            return Ok(());
        }
        let cursors = || self.followed.values().flat_map(|followed| &followed.cursors);
        let reached = |watcher: &Watcher| match overtakes {
            true => Some(position.revision),
            false => watcher.reached(position.revision),
        };
        let told = cursors().filter_map(|(id, cursor)| Some((*id, reached(&cursor.watcher)?)));
        let told: Vec<_> = told.collect();
        // From now on nobody is created.
        let mut turn = self.desk.outlet.turn().await;
        let others = self.desk.ids.lock().has_others(Source::Memory(self.desk.index));
        let all = told.len() == cursors().count();
        let even = told.windows(2).all(|pair| pair[0].1 == pair[1].1);
        match told.first() {
            Some((_, revision)) if all && even && !others => {
                self.desk.tell_progress(&mut turn, ALL, *revision).await
            }
            // Some have got later events than others.
            Some(_) if all || others => {
                for (id, revision) in told {
                    self.desk.tell_progress(&mut turn, id, revision).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn on_changed(&mut self, changed: Changed) -> Result<(), SendError> {
        let Changed { name, following } = changed;
        self.deliver(&name).await?;
        if self.followed.get(&name).is_some_and(|followed| followed.cursors.is_empty()) {
            self.followed.remove(&name);
        } else {
            self.changes.push(next_change(name, following));
        }
        Ok(())
    }

    async fn on_tick(&mut self) -> Result<(), SendError> {
        let desk = &self.desk;
        let position = desk.mirror.position();
        let is_lost = self.loss.is_long(position.live);
        if is_lost || desk.protection.mirror() != Mode::Enforce {
            self.followed.values_mut().for_each(|followed| followed.leave(desk));
            return Ok(());
        }
        // Places move on, so that one that goes to etcd does not ask for what is long compacted.
        self.deliver_all().await?;
        for followed in self.followed.values_mut().filter(|followed| !followed.cursors.is_empty()) {
            if position.live {
                followed.tell_progress(&self.desk, position.revision).await?;
            }
        }
        Ok(())
    }

    async fn deliver_all(&mut self) -> Result<(), SendError> {
        for followed in self.followed.values_mut() {
            followed.deliver(&self.desk, ..).await?;
        }
        Ok(())
    }

    async fn deliver(&mut self, name: &Bytes) -> Result<(), SendError> {
        match self.followed.get_mut(name) {
            Some(followed) => followed.deliver(&self.desk, ..).await,
            None => Ok(()),
        }
    }
}

impl Followed {
    fn new(seat: &Seat) -> Self {
        let ResponseHeader { cluster_id, revision, .. } = seat.header;
        Self {
            collection: Arc::clone(&seat.collection),
            store: Arc::clone(&seat.store),
            seen: Seen { cluster_id, revision },
            cursors: BTreeMap::new(),
        }
    }

    /// Sends each watcher with one of these ids what it has not seen yet.
    async fn deliver(&mut self, desk: &Desk, ids: impl RangeBounds<i64>) -> Result<(), SendError> {
        // In this order: what the feed has reached is in a store that is still there after that.
        let reached = desk.mirror.position().revision;
        let current = self.collection.store();
        if !current.is_some_and(|current| Arc::ptr_eq(&current, &self.store)) {
            self.leave(desk);
            return Ok(());
        }
        // The feed tells of a change before it tells how far it is.
        let revision = reached.max(self.store.snapshot().revision);
        self.seen.revision = revision;
        let mut behind = Vec::new();
        for (id, cursor) in self.cursors.range_mut(ids) {
            match cursor.deliver(&self.store, desk, revision).await {
                Ok(()) => {}
                Err(Stop::Behind(why)) => {
                    tracing::debug!(cluster = &*desk.mirror.cluster, %why, "watcher: to etcd");
                    behind.push(*id);
                }
                Err(Stop::Client(error)) => return Err(error),
            }
        }
        for cursor in behind.into_iter().filter_map(|id| self.cursors.remove(&id)) {
            cursor.leave(desk, self.seen);
        }
        Ok(())
    }

    /// Tells those who want it, and have heard nothing for a while, how far they are.
    async fn tell_progress(&mut self, desk: &Desk, revision: i64) -> Result<(), SendError> {
        for (id, cursor) in &mut self.cursors {
            let due = cursor.watcher.progress_notify && cursor.told.elapsed() >= SILENCE_MAX;
            if due && let Some(reached) = cursor.watcher.reached(revision) {
                cursor.told = Instant::now();
                desk.tell_progress(&mut desk.outlet.turn().await, *id, reached).await?;
            }
        }
        Ok(())
    }

    /// Has all watchers go on at etcd.
    fn leave(&mut self, desk: &Desk) {
        for cursor in std::mem::take(&mut self.cursors).into_values() {
            cursor.leave(desk, self.seen);
        }
    }
}

/// Why a watcher does not get what happened.
enum Stop {
    Client(SendError),
    Behind(Behind),
}

impl From<SendError> for Stop {
    fn from(error: SendError) -> Self {
        Self::Client(error)
    }
}

impl From<Behind> for Stop {
    fn from(behind: Behind) -> Self {
        Self::Behind(behind)
    }
}

impl Cursor {
    /// Sends what has happened up to `revision`, which the history has reached.
    async fn deliver(&mut self, store: &Store, desk: &Desk, revision: i64) -> Result<(), Stop> {
        while self.watcher.is_behind(revision) {
            let polled =
                store.history(|history| self.watcher.poll(history, revision, BATCH_BYTES))?;
            if let Some(batch) = polled {
                self.send(batch, desk, revision).await?;
            }
            // Others of this thread have their turn.
            yield_now().await;
        }
        self.synced = true;
        Ok(())
    }

    /// In one piece what was caught up with, under the revision of the store; else as it happened.
    async fn send(&mut self, batch: Batch, desk: &Desk, revision: i64) -> Result<(), SendError> {
        let batches = match self.synced {
            true if batch.revisions() <= ONE_BY_ONE_MAX => batch.by_revision(),
            true => vec![batch],
            false => vec![batch.under(revision)],
        };
        for batch in batches {
            desk.send(batch, self.request.watch_id).await?;
        }
        self.told = Instant::now();
        Ok(())
    }

    /// Has etcd go on with it.
    fn leave(self, desk: &Desk, seen: Seen) {
        let start_revision = self.watcher.next_revision();
        let request = WatchCreateRequest { start_revision, ..self.request };
        desk.mirror.metrics.watch_handovers.inc();
        desk.ids.lock().leave(Moving { cluster: desk.index, request, seen });
        desk.moved.notify_one();
    }
}

impl Desk {
    fn header(&self, revision: i64) -> ResponseHeader {
        ResponseHeader { revision, ..self.cluster.header() }
    }

    /// Tells the client, and then the session, that there is a watcher.
    async fn created(&self, seat: &Seat) -> Result<(), SendError> {
        let watch_id = seat.request.watch_id;
        let response = WatchResponse {
            header: Some(seat.header),
            watch_id,
            created: true,
            ..WatchResponse::default()
        };
        let mut turn = self.outlet.turn().await;
        self.ids.lock().created(watch_id, Source::Memory(self.index));
        turn.send(grpc::encode(&response)).await?;
        drop(turn);
        // Fails when the session has ended, and this task is about to.
        let _ = self.events.send(Event::Created).await;
        Ok(())
    }

    /// Sends all responses of a batch, with nothing between them.
    async fn send(&self, batch: Batch, watch_id: i64) -> Result<(), SendError> {
        self.mirror.metrics.watch_events.inc_by(batch.events().len() as u64);
        let header = self.header(batch.revision).encode_to_vec();
        let mut turn = self.outlet.turn().await;
        for mut message in batch.messages(&header, watch_id) {
            while let Some(chunk) = message.next_chunk(CHUNK) {
                turn.send(chunk).await?;
            }
        }
        Ok(())
    }

    async fn tell_progress(
        &self,
        turn: &mut Turn<'_>,
        watch_id: i64,
        revision: i64,
    ) -> Result<(), SendError> {
        let header = Some(self.header(revision));
        let progress = WatchResponse { header, watch_id, ..WatchResponse::default() };
        turn.send(grpc::encode(&progress)).await
    }
}

/// Waits for the next change of a collection. What it changes to is found out afterwards.
fn next_change(name: Bytes, mut following: watch::Receiver<()>) -> BoxFuture<'static, Changed> {
    async move {
        // The collection outlives those who follow it, so that this cannot fail.
        let _ = following.changed().await;
        Changed { name, following }
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_feed_that_is_found_again_in_time_is_waited_for() {
        let mut loss = Loss::default();
        assert!(!loss.is_long(false));
        advance(LOST_MAX - TICK).await;
        assert!(!loss.is_long(false) && !loss.is_long(true));
        advance(LOST_MAX).await;
        assert!(!loss.is_long(false));
        advance(LOST_MAX).await;
        assert!(loss.is_long(false));
    }

    #[test]
    fn a_watcher_is_counted_for_as_long_as_it_is_there() {
        let gauge = Gauge::default();
        let counted = [Counted::new(gauge.clone()), Counted::new(gauge.clone())];
        assert_eq!(gauge.get(), 2);
        drop(counted);
        assert_eq!(gauge.get(), 0);
    }
}
