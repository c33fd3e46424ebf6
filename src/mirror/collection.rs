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
    /// Locked before `state` where both are.
    values: Mutex<Values>,
    /// When it was read last, in milliseconds after `began`.
    used: AtomicU64,
    began: Instant,
    /// Reads it could answer, and those it was too poor for.
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    /// When it was compared with etcd last.
    verified: Mutex<Instant>,
    /// For those who follow.
    changed: watch::Sender<()>,
}

/// What readers find.
///
/// ```text
///           a read worth it                loaded
///   Cold -------------------> Loading ----------------> Ready
///    ^  ^                        |                      |
///    |  `--- failed: rests ------'                      |
///    |                                                  |
///    `--- memory is short, differs from etcd: rests; ---'
///         feed cannot go on: dropped
/// ```
///
/// Values that are wanted of a collection which has its keys come while these are read from.
#[derive(Debug, Clone, Default)]
pub enum State {
    /// Not held.
    #[default]
    Cold,
    /// Not held, and not loaded before `until`.
    Resting {
        until: Instant,
        why: &'static str,
    },
    Loading,
    Ready(Arc<Store>),
}

/// What becomes of the values of a collection that has none.
#[derive(Debug, Default)]
enum Values {
    #[default]
    Unasked,
    /// Its keys are read from meanwhile.
    Loading,
    /// There was no room for them.
    Resting { until: Instant },
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
            values: Mutex::default(),
            used: AtomicU64::new(0),
            began: Instant::now(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            verified: Mutex::new(Instant::now()),
            changed: watch::Sender::new(()),
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
        let mut values = self.values.lock();
        let mut state = self.state.write();
        match (&*state, &*values) {
            (_, Values::Resting { until }) if tier == Tier::Value && now < *until => return false,
            (State::Resting { until, .. }, _) if now < *until => return false,
            (State::Loading, _) | (State::Ready(_), Values::Loading) => return false,
            (State::Ready(store), _) if store.snapshot().tier >= tier => return false,
            (State::Ready(_), _) => *values = Values::Loading,
            (State::Cold | State::Resting { .. }, _) => *state = State::Loading,
        }
        drop((values, state));
        self.changed();
        true
    }

    /// Whether values are on their way to keys that are there.
    pub(super) fn is_filling(&self) -> bool {
        matches!(*self.values.lock(), Values::Loading)
    }

    /// The values it was to have are there, or are not to be had before.
    pub(super) fn end_filling(&self, rests_until: Option<Instant>) {
        *self.values.lock() = match rests_until {
            Some(until) => Values::Resting { until },
            None => Values::Unasked,
        };
        self.changed();
    }

    pub(super) fn set(&self, state: State) {
        let mut values = self.values.lock();
        if let Values::Loading = *values {
            *values = Values::Unasked;
        }
        *self.state.write() = state;
        drop(values);
        self.changed();
    }

    /// Tells those who follow that there is something new, or that what was there is not any more.
    pub(super) fn changed(&self) {
        self.changed.send_replace(());
    }

    /// Wakes after each change, and when it is no longer what it was.
    pub fn follow(&self) -> watch::Receiver<()> {
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
    pub(super) fn touch(&self) {
        self.used.store(self.began.elapsed().as_millis() as u64, Relaxed);
    }

    /// How long ago it was read.
    pub fn idle(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.used.load(Relaxed)))
    }
}

#[cfg(test)]
impl Collection {
    pub(crate) fn fixture(name: &'static str, store: &Arc<Store>) -> Arc<Self> {
        let collection = Self::new(Bytes::from_static(name.as_bytes()));
        collection.take(store);
        Arc::new(collection)
    }

    pub(crate) fn take(&self, store: &Arc<Store>) {
        self.set(State::Ready(Arc::clone(store)));
    }

    pub(crate) fn give_up(&self) {
        self.set(State::Cold);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::{Limits, Writer};

    #[tokio::test(start_paused = true)]
    async fn one_caller_sees_to_the_load() {
        let pods = Collection::new(Bytes::from_static(b"/registry/pods"));
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        assert!(pods.begin_loading(Tier::Index, now));
        assert!(!pods.begin_loading(Tier::Value, now), "it is being loaded");
        pods.set(State::Resting { until: later, why: "of this test" });
        assert!(!pods.begin_loading(Tier::Index, now));
        assert!(pods.begin_loading(Tier::Index, later));

        let writer = Writer::load([], 3, Tier::Index, Limits { events: 1, bytes: 1 << 10 });
        pods.set(State::Ready(Arc::clone(writer.store())));
        assert!(!pods.begin_loading(Tier::Index, later), "it has as much");
        pods.end_filling(Some(later));
        assert!(!pods.begin_loading(Tier::Value, now), "its values are too large");
        assert!(pods.begin_loading(Tier::Value, later));
        assert!(pods.is_filling() && pods.snapshot().is_some(), "its keys are there meanwhile");
        assert!(!pods.begin_loading(Tier::Value, later), "they are being loaded");
        pods.set(State::Cold);
        assert!(!pods.is_filling());
        assert!(pods.begin_loading(Tier::Value, later));
    }

    #[tokio::test(start_paused = true)]
    async fn followers_hear_of_changes_and_of_its_end() {
        let pods = Collection::new(Bytes::from_static(b"/registry/pods"));
        let mut following = pods.follow();
        pods.changed();
        assert!(following.has_changed().expect("it lives"));
        following.borrow_and_update();
        pods.set(State::Cold);
        assert!(following.has_changed().expect("it lives"));
    }
}
