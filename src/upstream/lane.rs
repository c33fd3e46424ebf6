//! The connections of one lane from one data thread to one member.

use super::{
    LaneConfig, Member,
    connect::{self, Connected},
};
use bytes::Bytes;
use h2::client::SendRequest;
use parking_lot::Mutex;
use rand::Rng;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout_at},
};

/// Which kind of connection a call takes: lists share none with writes, and neither with watches,
/// so that none can stall another by flow control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Streams that stay open.
    Watch,
    /// Points, transactions, grants of leases: small and urgent.
    Light,
    /// Ranges over many keys, snapshots.
    Heavy,
}

impl Lane {
    pub const ALL: [Self; 3] = [Self::Watch, Self::Light, Self::Heavy];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Light => "light",
            Self::Heavy => "heavy",
        }
    }
}

/// The connections of a lane. Made by and for one data thread; the member's prober may reach in
/// from another to close them.
#[derive(Debug)]
pub(super) struct Pool {
    lane: Lane,
    config: LaneConfig,
    /// Never held across an await.
    state: Mutex<PoolState>,
    /// Tells waiters that a place came free, a connection came up, or one could not.
    changed: Notify,
}

#[derive(Debug)]
struct PoolState {
    /// At most `connections_max` together with `dialing`.
    open: Vec<Arc<Connection>>,
    dialing: usize,
    /// No dialing before this; grows with each failure in a row.
    dial_after: Instant,
    pause: Duration,
    last_error: Arc<str>,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Bytes>,
    /// Calls on it.
    streams: Arc<AtomicUsize>,
    /// Taken to close it.
    abort: Mutex<Option<oneshot::Sender<()>>>,
}

/// A place for one call on a connection, given back on drop.
#[derive(Debug)]
pub struct Slot {
    connection: Arc<Connection>,
    pool: Arc<Pool>,
}

/// What [`Pool::take`] found.
enum Taken {
    Slot(Slot),
    /// Connections are coming up, or all are full; another one may be dialed at this time.
    Wait(Option<Instant>),
    /// No connection, and it is too early to dial again.
    Unreachable(Arc<str>),
}

impl Pool {
    pub(super) fn new(lane: Lane, config: LaneConfig, first_pause: Duration) -> Self {
        let state = PoolState {
            open: Vec::new(),
            dialing: 0,
            dial_after: Instant::now(),
            pause: first_pause,
            last_error: Arc::from("not connected yet"),
        };
        Self { lane, config, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Connections that are up, and calls on them.
    pub(super) fn load(&self) -> (usize, usize) {
        let state = self.state.lock();
        let calls = state.open.iter().map(|connection| connection.streams.load(Relaxed)).sum();
        (state.open.len(), calls)
    }

    /// A place on a connection, as soon as there is one.
    ///
    /// # Errors
    ///
    /// Why the member could not be connected to, when it could not.
    pub(super) async fn acquire(self: &Arc<Self>, member: &Arc<Member>) -> Result<Slot, Arc<str>> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before looking, so that no change between the look and the wait is missed.
            changed.as_mut().enable();
            match self.take(member) {
                Taken::Slot(slot) => return Ok(slot),
                Taken::Unreachable(reason) => return Err(reason),
                Taken::Wait(None) => changed.await,
                Taken::Wait(Some(dial_after)) => drop(timeout_at(dial_after, changed).await),
            }
        }
    }

    /// A place on a connection, if there is one.
    pub(super) fn take_now(self: &Arc<Self>, member: &Arc<Member>) -> Option<Slot> {
        match self.take(member) {
            Taken::Slot(slot) => Some(slot),
            Taken::Wait(_) | Taken::Unreachable(_) => None,
        }
    }

    fn take(self: &Arc<Self>, member: &Arc<Member>) -> Taken {
        let mut state = self.state.lock();
        let load = |connection: &Arc<Connection>| connection.streams.load(Relaxed);
        let best = state.open.iter().min_by_key(|connection| load(connection)).cloned();
        let crowded = best.as_ref().is_none_or(|best| load(best) >= self.config.streams_spread);
        let room = state.open.len() + state.dialing < self.config.connections_max;
        let early = Instant::now() < state.dial_after;
        // One dial at a time: the calls that wait for it find it roomy enough most of the time.
        if crowded && room && !early && state.dialing == 0 {
            state.dialing += 1;
            tokio::spawn(Arc::clone(self).dial(Arc::clone(member)));
        }
        match best {
            Some(best) if load(&best) < self.config.streams_max => {
                best.streams.fetch_add(1, Relaxed);
                Taken::Slot(Slot { connection: best, pool: Arc::clone(self) })
            }
            None if state.dialing == 0 => Taken::Unreachable(Arc::clone(&state.last_error)),
            _ => Taken::Wait((crowded && room && early).then_some(state.dial_after)),
        }
    }

    /// Connects once and keeps the connection up until it ends. The connection's task, and so this
    /// one, ends with the connection; [`Pool::close`] ends both.
    async fn dial(self: Arc<Self>, member: Arc<Member>) {
        let streams = Arc::new(AtomicUsize::new(0));
        let (abort, aborted) = oneshot::channel();
        let connected = connect::connect(&member, self.lane, Arc::clone(&streams), aborted).await;
        match connected {
            Ok(Connected { sender, driver }) => {
                let abort = Mutex::new(Some(abort));
                let connection = Arc::new(Connection { sender, streams, abort });
                self.opened(&member, Arc::clone(&connection));
                let reason = driver.await;
                self.closed(&member, &connection, &reason);
            }
            Err(error) => self.failed(&member, &error.to_string()),
        }
    }

    fn opened(&self, member: &Member, connection: Arc<Connection>) {
        let mut state = self.state.lock();
        state.dialing -= 1;
        state.pause = member.settings.backoff_min;
        state.open.push(connection);
        drop(state);
        member.metrics.connections.inc();
        self.changed.notify_waiters();
    }

    fn failed(&self, member: &Member, reason: &str) {
        let mut state = self.state.lock();
        state.dialing -= 1;
        // Full jitter: the proxies and threads that lost a member together do not come back so.
        let pause = state.pause.mul_f64(rand::rng().random_range(0.5..1.0));
        state.dial_after = Instant::now() + pause;
        state.pause = (state.pause * 2).min(member.settings.backoff_max);
        state.last_error = Arc::from(reason);
        drop(state);
        member.metrics.connection_failures.inc();
        member.failed(reason);
        self.changed.notify_waiters();
    }

    fn closed(&self, member: &Member, connection: &Arc<Connection>, reason: &str) {
        tracing::debug!(member = %member.endpoint, reason, "connection closed");
        self.retire(connection);
        member.metrics.connections.dec();
    }

    /// Offers `connection` to no further call.
    fn retire(&self, connection: &Arc<Connection>) {
        let mut state = self.state.lock();
        state.open.retain(|open| !Arc::ptr_eq(open, connection));
        if state.open.is_empty() && state.dialing == 0 {
            state.last_error = Arc::from("connection lost");
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Ends all connections, and with them the calls on them.
    pub(super) fn close(&self) {
        for connection in &self.state.lock().open {
            drop(connection.abort.lock().take());
        }
    }

    /// When it may be dialed again.
    pub(super) fn dial_after(&self) -> Instant {
        self.state.lock().dial_after
    }

    /// The member has come back: it may be dialed after `pause`, however often that has failed.
    pub(super) fn shorten_backoff(&self, pause: Duration) {
        let mut state = self.state.lock();
        state.dial_after = state.dial_after.min(Instant::now() + pause);
        drop(state);
        self.changed.notify_waiters();
    }
}

impl Slot {
    /// The connection's sender, when the connection still takes calls.
    pub(super) async fn ready(&self) -> Result<SendRequest<Bytes>, h2::Error> {
        let ready = self.connection.sender.clone().ready().await;
        if ready.is_err() {
            self.pool.retire(&self.connection);
        }
        ready
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let before = self.connection.streams.fetch_sub(1, Relaxed);
        if before >= self.pool.config.streams_max {
            self.pool.changed.notify_waiters();
        }
    }
}
