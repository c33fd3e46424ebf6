//! The watchers of one client's stream that are served from what is held of one cluster.
//!
//! A watcher is a place in the history of its collection. The task here is woken by changes of the
//! collections, and sends what each watcher has not seen yet; while a client is slow its watchers
//! stay where they are. Those that memory cannot serve any more go on at etcd from where they are, and
//! come back later.

mod followed;
#[cfg(test)]
mod tests;

use super::{
    head::ALL,
    ids::{Ids, Source},
    outlet::{Outlet, Turn},
    seat::Seat,
    upstreams::Event,
};
use crate::{
    admission::{Mode, Protection},
    etcd::proto::etcdserverpb::{ResponseHeader, WatchResponse},
    grpc::{self, SendError},
    mirror::{Batch, EventMessage, Mirror},
    pipeline::{Patience, Stalled},
    sabotage::Sabotage,
    upstream::Cluster,
};
use bytes::Bytes;
use followed::Followed;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use h2::Reason;
use parking_lot::Mutex;
use prost::Message as _;
use std::{collections::HashMap, future::poll_fn, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

/// Orders of the session that wait for the task; the session waits when it is full.
const ORDERS_QUEUED: usize = 16;

/// Bytes that are handed to the connection at once.
const CHUNK: usize = 64 << 10;

/// Between looks at what has no wake-up of its own.
const TICK: Duration = Duration::from_secs(1);

/// Watchers wait for a lost feed this long before they go to etcd.
const LOST_MAX: Duration = Duration::from_secs(5);

/// What the session asks for.
#[derive(Debug)]
pub(super) enum Order {
    Create(Box<Seat>),
    /// Of watchers that the client has already.
    Return(Vec<Seat>),
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

impl Memory {
    pub(super) fn start(desk: Desk) -> Self {
        let (orders, received) = mpsc::channel(ORDERS_QUEUED);
        let task = tokio::spawn(Keeper::new(desk).run(received));
        Self { orders, _task: AbortOnDropHandle::new(task) }
    }
}

impl Keeper {
    fn new(desk: Desk) -> Self {
        let changes = FuturesUnordered::new();
        Self { desk, followed: HashMap::new(), changes, loss: Loss::default() }
    }

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
            Order::Create(seat) => {
                self.desk.created(&seat).await?;
                self.seat(*seat).await
            }
            Order::Return(seats) => {
                for seat in seats {
                    self.take_back(seat).await?;
                }
                Ok(())
            }
            Order::Cancel(id) => self.cancel(id).await,
            Order::Progress => self.progress().await,
        }
    }

    /// Until here the watcher is on its way, and nothing that is told of all watchers is about it.
    async fn take_back(&mut self, seat: Seat) -> Result<(), SendError> {
        let desk = &self.desk;
        if !desk.ids.lock().comes_back(seat.request.watch_id, desk.index) {
            return Ok(());
        }
        desk.mirror.metrics.watch_returns.inc();
        self.seat(seat).await
    }

    async fn seat(&mut self, seat: Seat) -> Result<(), SendError> {
        let desk = &self.desk;
        let name = seat.collection.name.clone();
        let followed = self.followed.entry(name.clone()).or_insert_with(|| {
            self.changes.push(next_change(name.clone(), seat.collection.follow()));
            Followed::new(&seat)
        });
        let id = seat.request.watch_id;
        followed.add(seat, desk);
        // What has happened before it was followed. To look at all others as well each time would
        // take ever longer where a stream has very many.
        followed.deliver(desk, id..=id).await
    }

    async fn cancel(&mut self, watch_id: i64) -> Result<(), SendError> {
        self.followed.values_mut().for_each(|followed| followed.remove(watch_id));
        let desk = &self.desk;
        let header = Some(desk.mirror.newest(desk.cluster.header()));
        let canceled =
            WatchResponse { header, watch_id, canceled: true, ..WatchResponse::default() };
        desk.outlet.turn().await.send(grpc::encode(&canceled)).await?;
        desk.answered().await;
        Ok(())
    }

    /// Says how far all watchers are. As at etcd, there is no answer while one of them waits for a
    /// revision to come, and none while that cannot be known.
    async fn progress(&mut self) -> Result<(), SendError> {
        let position = self.desk.mirror.position();
        if !Sabotage::OvertakeEvents.is_on() {
            self.deliver_all().await?;
        }
        if !position.live {
            return Ok(());
        }
        let watchers: usize = self.followed.values().map(Followed::len).sum();
        let followed = self.followed.values();
        let told: Vec<_> = followed.flat_map(|one| one.reached(position.revision)).collect();
        // From now on nobody is created.
        let mut turn = self.desk.outlet.turn().await;
        let others = self.desk.ids.lock().has_others(Source::Memory(self.desk.index));
        let all = told.len() == watchers;
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
        if self.followed.get(&name).is_some_and(|followed| followed.len() == 0) {
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
        if position.live {
            for followed in self.followed.values_mut() {
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
        let revision = seat.header.revision;
        self.ids.lock().created(watch_id, Source::Memory(self.index), revision);
        turn.send(grpc::encode(&response)).await?;
        drop(turn);
        self.answered().await;
        Ok(())
    }

    /// Lets the session go on with the next request.
    async fn answered(&self) {
        // Fails when the session has ended, and this task is about to.
        let _ = self.events.send(Event::Answered).await;
    }

    /// Sends all responses of a batch, with nothing between them.
    async fn send(&self, batch: Batch, watch_id: i64) -> Result<(), SendError> {
        self.mirror.metrics.watch_events.inc_by(batch.events().len() as u64);
        let header = self.header(batch.revision).encode_to_vec();
        let mut turn = self.outlet.turn().await;
        let mut patience = Patience::new(&self.protection);
        let messages = batch.messages(&header, watch_id);
        let mut left: usize = messages.iter().map(EventMessage::length).sum();
        for mut message in messages {
            while let Some(chunk) = message.next_chunk(CHUNK) {
                let length = chunk.len();
                match patience.send(left, turn.send(chunk)).await {
                    Ok(sent) => sent?,
                    Err(Stalled) => {
                        turn.reset(Stalled::REASON, Code::ResourceExhausted);
                        return Err(SendError::Reset(Stalled::REASON));
                    }
                }
                left -= length;
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
