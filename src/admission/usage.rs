//! How much is stored below a prefix.

use crate::etcd::key_range::KeyRange;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Counts the keys of a range at etcd; `None` when it could not be done.
pub trait Census: Sync {
    fn count<'c>(&'c self, range: &'c KeyRange) -> BoxFuture<'c, Option<u64>>;
}

/// Keys below a prefix: counted now and then, and by what has passed here since.
#[derive(Debug, Default)]
pub(super) struct Usage {
    state: Mutex<State>,
}

/// A key that is about to be added below a prefix. It has its place there until this is dropped, so
/// that many at once do not pass for one, and keeps it only if it was stored.
#[derive(Debug)]
pub struct Growth {
    usage: Arc<Usage>,
    size: u64,
    /// Whether what is stored is a key more: a put by itself may well be an update.
    certain: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    counted: Option<Instant>,
    keys: u64,
    /// Keys that are being added.
    growing: u64,
    /// Writes since the count that may have added a key.
    perhaps: u64,
    /// Mean size of the values that were written here.
    value_size: f64,
}

/// A count this old is made anew, since others may write, too ...
const AGE_MAX: Duration = Duration::from_secs(10);
/// ... and one this old before anything is refused for it.
const AGE_MAX_TO_REFUSE: Duration = Duration::from_secs(1);

/// Share of the newest value in the mean size.
const NEWEST: f64 = 0.05;

/// What is stored, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) keys: u64,
    /// Keys times the mean size of values written.
    pub(super) bytes: u64,
}

impl Usage {
    /// What is certainly stored in `range`, counted again where that is due: sooner when `exceeds` is
    /// true of what may be.
    pub(super) async fn stored(
        &self,
        range: &KeyRange,
        census: &dyn Census,
        exceeds: impl Fn(Stored) -> bool,
    ) -> Option<Stored> {
        let known = *self.state.lock();
        let age = known.counted.map(|counted| counted.elapsed());
        let limit = if exceeds(known.at_most()) { AGE_MAX_TO_REFUSE } else { AGE_MAX };
        if age.is_none_or(|age| age >= limit) {
            let began = Instant::now();
            let keys = census.count(range).await?;
            let mut state = self.state.lock();
            (state.counted, state.keys, state.perhaps) = (Some(began), keys, 0);
        }
        Some(self.state.lock().stored())
    }

    /// A key with a value of `size` is about to be added, or perhaps only changed.
    pub(super) fn grow(self: &Arc<Self>, size: u64, certain: bool) -> Growth {
        self.state.lock().growing += u64::from(certain);
        Growth { usage: Arc::clone(self), size, certain }
    }
}

impl Growth {
    /// The key is stored. It counts twice for a while where it was counted at etcd meanwhile.
    pub(super) fn stored(self) {
        let mut state = self.usage.state.lock();
        let grown = if self.certain { &mut state.keys } else { &mut state.perhaps };
        *grown += 1;
        let share = if state.value_size == 0.0 { 1.0 } else { NEWEST };
        state.value_size += (self.size as f64 - state.value_size) * share;
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.usage.state.lock().growing -= u64::from(self.certain);
    }
}

impl State {
    fn stored(self) -> Stored {
        let keys = self.keys + self.growing;
        Stored { keys, bytes: (keys as f64 * self.value_size) as u64 }
    }

    fn at_most(self) -> Stored {
        Self { keys: self.keys + self.perhaps, ..self }.stored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use tokio::time::advance;

    #[derive(Default)]
    struct Counted {
        keys: AtomicU64,
        times: AtomicU64,
    }

    impl Census for Counted {
        fn count<'c>(&'c self, _range: &'c KeyRange) -> BoxFuture<'c, Option<u64>> {
            self.times.fetch_add(1, Relaxed);
            Box::pin(async { Some(self.keys.load(Relaxed)) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_counts_seldom_and_before_it_refuses() {
        let (usage, census) = (Arc::new(Usage::default()), Counted::default());
        let range = KeyRange::prefix("/registry/pods/".into());
        let full = |stored: Stored| stored.keys >= 3;
        let stored = async || usage.stored(&range, &census, full).await.expect("a count").keys;
        for expected in 0..3 {
            assert_eq!(stored().await, expected);
            usage.grow(100, true).stored();
        }
        assert_eq!(census.times.load(Relaxed), 1);
        // Somebody else deletes; that is seen before anything is refused.
        advance(Duration::from_secs(1)).await;
        assert_eq!(stored().await, 0);
        assert_eq!(census.times.load(Relaxed), 2);
        census.keys.store(7, Relaxed);
        advance(Duration::from_secs(10)).await;
        assert_eq!(stored().await, 7);
    }
    #[tokio::test(start_paused = true)]
    async fn what_is_not_stored_leaves_no_trace() {
        let (usage, census) = (Arc::new(Usage::default()), Counted::default());
        let range = KeyRange::prefix("/registry/pods/".into());
        let stored = async || usage.stored(&range, &census, |_| false).await.expect("a count").keys;
        assert_eq!(stored().await, 0);
        let (one, other) = (usage.grow(100, true), usage.grow(100, true));
        assert_eq!(stored().await, 2);
        drop(one);
        other.stored();
        assert_eq!(stored().await, 1);
    }
    #[tokio::test(start_paused = true)]
    async fn a_write_that_may_be_an_update_fills_nothing_and_is_looked_into() {
        let (usage, census) = (Arc::new(Usage::default()), Counted::default());
        let range = KeyRange::prefix("/registry/pods/".into());
        let full = |stored: Stored| stored.keys >= 1;
        let stored = async || usage.stored(&range, &census, full).await.expect("a count").keys;
        assert_eq!(stored().await, 0);
        usage.grow(100, false).stored();
        assert_eq!(stored().await, 0);
        census.keys.store(1, Relaxed);
        advance(Duration::from_secs(1)).await;
        assert_eq!(stored().await, 1);
    }
}
