//! How much is stored below a prefix.

use crate::etcd::key_range::KeyRange;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Finds out what is stored.
pub trait Census: Sync {
    /// Counts the keys of a range at etcd; `None` when it could not be done.
    fn count<'c>(&'c self, range: &'c KeyRange) -> BoxFuture<'c, Option<u64>>;

    /// Mean bytes of the key-values of a range, where that is known without asking.
    fn mean_size(&self, range: &KeyRange) -> Option<f64>;
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
    /// Keys that were added in all.
    added: u64,
    /// Writes since the count that may have added a key.
    perhaps: u64,
    /// Mean size of what is stored where that is known, else of the values that were written here.
    mean_size: f64,
    is_mean_known: bool,
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
    /// Keys times their mean size.
    pub(super) bytes: u64,
}

impl Usage {
    /// Counts what is stored in `range` again where that is due: sooner when `exceeds` is true of what
    /// may be there. `None` when it was due and could not be done.
    pub(super) async fn count(
        &self,
        range: &KeyRange,
        census: &dyn Census,
        exceeds: impl Fn(Stored) -> bool,
    ) -> Option<()> {
        let known = *self.state.lock();
        let age = known.counted.map(|counted| counted.elapsed());
        let limit = if exceeds(known.at_most()) { AGE_MAX_TO_REFUSE } else { AGE_MAX };
        if age.is_none_or(|age| age >= limit) {
            let began = Instant::now();
            let counted = census.count(range).await?;
            let mut state = self.state.lock();
            // What was stored meanwhile may not have been counted.
            let keys = counted + (state.added - known.added);
            (state.counted, state.keys, state.perhaps) = (Some(began), keys, 0);
            let known = census.mean_size(range);
            state.is_mean_known = known.is_some();
            state.mean_size = known.unwrap_or(state.mean_size);
        }
        Some(())
    }

    /// A key with a value of `size` is about to be added, or perhaps only changed: no further where
    /// `exceeds` is true of what is there for certain.
    pub(super) fn grow(
        self: &Arc<Self>,
        size: u64,
        certain: bool,
        exceeds: impl Fn(Stored) -> bool,
    ) -> Result<Growth, Stored> {
        let mut state = self.state.lock();
        let stored = state.stored();
        if exceeds(stored) {
            return Err(stored);
        }
        state.growing += u64::from(certain);
        Ok(Growth { usage: Arc::clone(self), size, certain })
    }
}

impl Growth {
    /// The key is stored. It counts twice for a while where it was counted at etcd meanwhile.
    pub(super) fn stored(self) {
        let mut state = self.usage.state.lock();
        if self.certain {
            state.keys += 1;
            state.added += 1;
        } else {
            state.perhaps += 1;
        }
        let share = match state.is_mean_known {
            true if self.certain => 1.0 / state.keys as f64,
            // It is not known what it replaces.
            true => 0.0,
            false if state.mean_size == 0.0 => 1.0,
            false => NEWEST,
        };
        state.mean_size += (self.size as f64 - state.mean_size) * share;
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
        Stored { keys, bytes: (keys as f64 * self.mean_size) as u64 }
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
        mean_size: Option<f64>,
    }

    impl Census for Counted {
        fn count<'c>(&'c self, _range: &'c KeyRange) -> BoxFuture<'c, Option<u64>> {
            self.times.fetch_add(1, Relaxed);
            Box::pin(async { Some(self.keys.load(Relaxed)) })
        }

        fn mean_size(&self, _range: &KeyRange) -> Option<f64> {
            self.mean_size
        }
    }

    const AMPLE: fn(Stored) -> bool = |_| false;

    /// What is stored for certain, counted where that is due.
    async fn keys(usage: &Usage, census: &Counted, exceeds: impl Fn(Stored) -> bool) -> u64 {
        let range = KeyRange::prefix("/registry/pods/".into());
        usage.count(&range, census, exceeds).await.expect("a count");
        usage.state.lock().stored().keys
    }

    fn grow(usage: &Arc<Usage>, certain: bool) -> Growth {
        usage.grow(100, certain, AMPLE).expect("room")
    }

    #[tokio::test(start_paused = true)]
    async fn it_counts_seldom_and_before_it_refuses() {
        let (usage, census) = (Arc::new(Usage::default()), Counted::default());
        let full = |stored: Stored| stored.keys >= 3;
        for expected in 0..3 {
            assert_eq!(keys(&usage, &census, full).await, expected);
            grow(&usage, true).stored();
        }
        assert_eq!(census.times.load(Relaxed), 1);
        // Somebody else deletes; that is seen before anything is refused.
        advance(Duration::from_secs(1)).await;
        assert_eq!(keys(&usage, &census, full).await, 0);
        assert_eq!(census.times.load(Relaxed), 2);
        census.keys.store(7, Relaxed);
        advance(Duration::from_secs(10)).await;
        assert_eq!(keys(&usage, &census, full).await, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_stored_leaves_no_trace() {
        let (usage, census) = (Arc::new(Usage::default()), Counted::default());
        assert_eq!(keys(&usage, &census, AMPLE).await, 0);
        let full = |stored: Stored| stored.keys >= 2;
        let (one, other) = (grow(&usage, true), grow(&usage, true));
        assert_eq!(usage.grow(100, true, full).expect_err("no room").keys, 2);
        drop(one);
        other.stored();
        assert_eq!(keys(&usage, &census, AMPLE).await, 1);
        drop(usage.grow(100, true, full).expect("room"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_may_be_an_update_fills_nothing_and_is_looked_into() {
        let (usage, census) = (Arc::new(Usage::default()), Counted::default());
        let full = |stored: Stored| stored.keys >= 1;
        assert_eq!(keys(&usage, &census, full).await, 0);
        grow(&usage, false).stored();
        assert_eq!(keys(&usage, &census, full).await, 0);
        census.keys.store(1, Relaxed);
        advance(Duration::from_secs(1)).await;
        assert_eq!(keys(&usage, &census, full).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_stored_has_its_size_and_not_that_of_what_is_written() {
        for (mean_size, expected) in [(None, 5 * 100), (Some(1000.0), 4 * 1000 + 100)] {
            let census = Counted { keys: 4.into(), mean_size, ..Counted::default() };
            let usage = Arc::new(Usage::default());
            keys(&usage, &census, AMPLE).await;
            grow(&usage, true).stored();
            grow(&usage, false).stored();
            assert_eq!(usage.state.lock().stored(), Stored { keys: 5, bytes: expected });
        }
    }

    /// A census that etcd takes before a key is stored, and answers after that.
    struct Overtaken(Mutex<Option<Growth>>);

    impl Census for Overtaken {
        fn count<'c>(&'c self, _range: &'c KeyRange) -> BoxFuture<'c, Option<u64>> {
            let stored = self.0.lock().take().map(Growth::stored);
            Box::pin(async move { stored.map(|()| 5) })
        }

        fn mean_size(&self, _range: &KeyRange) -> Option<f64> {
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_stored_during_a_count_is_not_lost() {
        let usage = Arc::new(Usage::default());
        let census = Overtaken(Mutex::new(Some(grow(&usage, true))));
        let range = KeyRange::prefix("/registry/pods/".into());
        usage.count(&range, &census, AMPLE).await.expect("a count");
        assert_eq!(usage.state.lock().stored().keys, 6);
    }
}
