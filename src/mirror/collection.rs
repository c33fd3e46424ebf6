//! One collection, as far as readers decide by it.

use super::{Snapshot, Store, Tier};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// The keys of one resource: `/registry/pods` and all below `/registry/pods/`.
#[derive(Debug)]
pub struct Collection {
    pub name: Bytes,
    /// Changed by the feed alone, but for `Cold` to `Loading`.
    state: RwLock<State>,
    /// Switched off by hand.
    off: AtomicBool,
    /// When it was read last, in milliseconds after `began`.
    used: AtomicU64,
    began: Instant,
    /// Reads it could answer, and those it was too poor for.
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    /// When it was compared with etcd last.
    verified: Mutex<Instant>,
    /// The revision of the newest change; for those who follow.
    changed: watch::Sender<i64>,
}

/// What readers find.
///
/// ```text
///           a read worth it                loaded
///   Cold -------------------> Loading ----------------> Ready
///    ^  ^                        |                      |   |
///    |  `--- failed: rests ------'                      |   |
///    |                                                  |   |
///    `--- memory is short: evicted; -------------------'   |
///         differs from etcd, feed lost: dropped             |
///                                 ^                         |
///                                 `--- values are wanted ---'
/// ```
#[derive(Debug, Clone, Default)]
pub enum State {
    /// Not held, and not loaded before `rests_until`.
    #[default]
    Cold,
    Resting {
        until: Instant,
        why: &'static str,
    },
    Loading,
    Ready(Arc<Store>),
}

impl State {
    /// As in the status page and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Resting { .. } => "resting",
            Self::Loading => "loading",
            Self::Ready(_) => "ready",
        }
    }
}

impl Collection {
    pub(super) fn new(name: Bytes) -> Self {
        Self {
            name,
            state: RwLock::default(),
            off: AtomicBool::new(false),
            used: AtomicU64::new(0),
            began: Instant::now(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            verified: Mutex::new(Instant::now()),
            changed: watch::Sender::new(0),
        }
    }

    pub fn state(&self) -> State {
        self.state.read().clone()
    }

    /// Whether it was switched off by hand.
    pub fn is_off(&self) -> bool {
        self.off.load(Relaxed)
    }

    pub(super) fn set_off(&self, off: bool) {
        self.off.store(off, Relaxed);
    }

    /// What it holds, if it is ready.
    pub fn store(&self) -> Option<Arc<Store>> {
        match &*self.state.read() {
            State::Ready(store) => Some(Arc::clone(store)),
            _ => None,
        }
    }

    /// The newest state, if it is ready.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.store().map(|store| store.snapshot())
    }

    /// Becomes `Loading` unless it is already, is ready with as much, or rests. True for the one
    /// caller who is to see to it.
    pub(super) fn begin_loading(&self, tier: Tier, now: Instant) -> bool {
        let mut state = self.state.write();
        let begins = match &*state {
            State::Cold => true,
            State::Resting { until, .. } => *until <= now,
            State::Loading => false,
            State::Ready(store) => store.snapshot().tier < tier,
        };
        if begins {
            *state = State::Loading;
            drop(state);
            self.retired();
        }
        begins
    }

    pub(super) fn set(&self, state: State) {
        *self.state.write() = state;
        self.retired();
    }

    /// Whoever follows what was there finds out.
    fn retired(&self) {
        self.changed.send_modify(|_| {});
    }

    pub(super) fn published(&self, revision: i64) {
        self.changed.send_replace(revision);
    }

    /// Wakes after each change, and when it is no longer what it was.
    pub fn follow(&self) -> watch::Receiver<i64> {
        self.changed.subscribe()
    }

    /// When it was compared with etcd last, or came into being.
    pub fn verified(&self) -> Instant {
        *self.verified.lock()
    }

    pub(super) fn set_verified(&self, now: Instant) {
        *self.verified.lock() = now;
    }

    /// Notes that it is of use.
    pub fn touch(&self) {
        self.used.store(self.began.elapsed().as_millis() as u64, Relaxed);
    }

    /// How long ago it was read.
    pub fn idle(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.used.load(Relaxed)))
    }
}
