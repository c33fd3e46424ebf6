//! A collection, and the watchers that are places in its history.

use super::Desk;
use crate::{
    etcd::proto::etcdserverpb::{ResponseHeader, WatchCreateRequest},
    grpc::SendError,
    mirror::{Batch, Behind, Collection, Store, Watcher},
    rpc::watch::{
        ids::{Moving, Seen},
        seat::Seat,
    },
    sabotage::Sabotage,
};
use prometheus_client::metrics::gauge::Gauge;
use std::{
    collections::BTreeMap,
    ops::RangeBounds,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{task::yield_now, time::Instant};

/// Bytes of events in one response, or those of one revision. The events are those of the history,
/// and become bytes as the client takes them.
const BATCH_BYTES: usize = 8 << 20;

/// Revisions that a watcher which had seen everything gets one by one, as from the buffer that etcd
/// has for each stream; what comes later arrives together.
const ONE_BY_ONE_MAX: usize = 128;

/// Silence after which a watcher that wants to know hears how far it is.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// A collection and the places in its history.
#[derive(Debug)]
pub(super) struct Followed {
    collection: Arc<Collection>,
    /// Kept by the collection alone: one that was given up is gone, however long a client does not read.
    store: Weak<Store>,
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

impl Followed {
    pub(super) fn new(seat: &Seat) -> Self {
        let ResponseHeader { cluster_id, revision, .. } = seat.header;
        Self {
            collection: Arc::clone(&seat.collection),
            store: Weak::clone(&seat.store),
            seen: Seen { cluster_id, revision },
            cursors: BTreeMap::new(),
        }
    }

    /// Takes a watcher in. Those of another store of the same collection leave.
    pub(super) fn add(&mut self, seat: Seat, desk: &Desk) {
        if !Weak::ptr_eq(&self.store, &seat.store) {
            self.leave(desk);
            *self = Self::new(&seat);
        }
        let cursor = Cursor {
            // As etcd has it: who asks for the past has not seen everything.
            synced: !(1..=seat.header.revision).contains(&seat.request.start_revision),
            told: Instant::now(),
            _counted: Counted::new(desk.mirror.metrics.watchers.clone()),
            watcher: seat.watcher,
            request: seat.request,
        };
        self.cursors.insert(cursor.request.watch_id, cursor);
    }

    pub(super) fn remove(&mut self, watch_id: i64) {
        self.cursors.remove(&watch_id);
    }

    /// The number of watchers.
    pub(super) fn len(&self) -> usize {
        self.cursors.len()
    }

    /// Those that have seen everything up to `revision`, and how far each may be told that it is.
    pub(super) fn reached(&self, revision: i64) -> impl Iterator<Item = (i64, i64)> {
        let overtakes = Sabotage::OvertakeEvents.is_on();
        self.cursors.iter().filter_map(move |(id, Cursor { watcher, .. })| {
            let reached = if overtakes { Some(revision) } else { watcher.reached(revision) };
            Some((*id, reached?))
        })
    }

    /// Sends each watcher with one of these ids what it has not seen yet.
    pub(super) async fn deliver(
        &mut self,
        desk: &Desk,
        ids: impl RangeBounds<i64>,
    ) -> Result<(), SendError> {
        // In this order: what the feed has reached is in a store that is still there after that.
        let reached = desk.mirror.position().revision;
        let current = self.collection.store();
        let Some(current) = current.filter(|current| Arc::as_ptr(current) == self.store.as_ptr())
        else {
            self.leave(desk);
            return Ok(());
        };
        // The feed tells of a change before it tells how far it is.
        let revision = reached.max(current.snapshot().revision);
        drop(current);
        self.seen.revision = revision;
        let mut behind = Vec::new();
        for (id, cursor) in self.cursors.range_mut(ids) {
            match cursor.deliver(&self.store, desk, revision).await {
                Ok(()) => {}
                Err(Stop::Behind(why)) => {
                    tracing::debug!(cluster = &*desk.mirror.cluster, %why, "watcher: to etcd");
                    behind.push(*id);
                }
                Err(Stop::GivenUp) => behind.push(*id),
                Err(Stop::Client(error)) => return Err(error),
            }
        }
        for cursor in behind.into_iter().filter_map(|id| self.cursors.remove(&id)) {
            cursor.leave(desk, self.seen);
        }
        Ok(())
    }

    /// Tells those who want it, and have heard nothing for a while, how far they are.
    pub(super) async fn tell_progress(
        &mut self,
        desk: &Desk,
        revision: i64,
    ) -> Result<(), SendError> {
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
    pub(super) fn leave(&mut self, desk: &Desk) {
        for cursor in std::mem::take(&mut self.cursors).into_values() {
            cursor.leave(desk, self.seen);
        }
    }
}

/// Why a watcher does not get what happened.
enum Stop {
    Client(SendError),
    Behind(Behind),
    /// The collection was given up while the client did not read.
    GivenUp,
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
    async fn deliver(
        &mut self,
        store: &Weak<Store>,
        desk: &Desk,
        revision: i64,
    ) -> Result<(), Stop> {
        while self.watcher.is_behind(revision) {
            if let Some(batch) = self.poll(store, revision)? {
                self.send(batch, desk, revision).await?;
            }
            // Others of this thread have their turn.
            yield_now().await;
        }
        self.synced = true;
        Ok(())
    }

    /// The next events. The store is let go before they are sent.
    fn poll(&mut self, store: &Weak<Store>, revision: i64) -> Result<Option<Batch>, Stop> {
        let store = store.upgrade().ok_or(Stop::GivenUp)?;
        Ok(store.history(|history| self.watcher.poll(history, revision, BATCH_BYTES))?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_is_counted_for_as_long_as_it_is_there() {
        let gauge = Gauge::default();
        let counted = [Counted::new(gauge.clone()), Counted::new(gauge.clone())];
        assert_eq!(gauge.get(), 2);
        drop(counted);
        assert_eq!(gauge.get(), 0);
    }
}
