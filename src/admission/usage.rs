//! How much is stored below a prefix.

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

use crate::etcd::key_range::KeyRange;

/// Counts the keys of a range at etcd; `None` when it could not be done.
pub trait Census: Sync {
    fn count<'c>(&'c self, range: &'c KeyRange) -> BoxFuture<'c, Option<u64>>;
}

/// Keys below a prefix: counted now and then, and by what has passed here since.
#[derive(Debug, Default)]
pub(super) struct Usage {
    state: Mutex<State>,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    counted: Option<Instant>,
    keys: u64,
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
    /// What is stored in `range`, counted again where that is due: sooner when `exceeds` is true of
    /// what was known.
    pub(super) async fn stored(
        &self,
        range: &KeyRange,
        census: &dyn Census,
        exceeds: impl Fn(Stored) -> bool,
    ) -> Option<Stored> {
        let known = *self.state.lock();
        let age = known.counted.map(|counted| counted.elapsed());
        let limit = if exceeds(known.stored()) { AGE_MAX_TO_REFUSE } else { AGE_MAX };
        if age.is_none_or(|age| age >= limit) {
            let began = Instant::now();
            let keys = census.count(range).await?;
            let mut state = self.state.lock();
            (state.counted, state.keys) = (Some(began), keys);
        }
        Some(self.state.lock().stored())
    }

    /// A key with a value of `size` may have been added.
    pub(super) fn created(&self, size: u64) {
        let mut state = self.state.lock();
        state.keys += 1;
        let share = if state.value_size == 0.0 { 1.0 } else { NEWEST };
        state.value_size += (size as f64 - state.value_size) * share;
    }
}

impl State {
    fn stored(self) -> Stored {
        Stored { keys: self.keys, bytes: (self.keys as f64 * self.value_size) as u64 }
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
        let (usage, census) = (Usage::default(), Counted::default());
        let range = KeyRange::prefix("/registry/pods/".into());
        let full = |stored: Stored| stored.keys >= 3;
        let stored = async || usage.stored(&range, &census, full).await.expect("a count").keys;
        for expected in 0..3 {
            assert_eq!(stored().await, expected);
            usage.created(100);
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
}
