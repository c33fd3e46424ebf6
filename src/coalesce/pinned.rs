//! Answers at explicit revisions, which never change while their revision is there.

use moka::sync::Cache;
use std::{fmt, hash::Hash, sync::Arc};

/// Answers at explicit revisions, in bounded memory: those that were asked for least go first.
///
/// Whoever takes one asks etcd, by a read of one key at the same revision, whether that is still
/// there and what the newest is. So nothing is answered that etcd would refuse.
pub struct Pinned<K, T> {
    answers: Cache<K, Arc<T>>,
    /// What one answer may take at most.
    size_max: u64,
}

impl<K, T> Pinned<K, T>
where
    K: Eq + Hash + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    /// Keeps up to `bytes`, each answer being as large as `size` says.
    pub fn new(bytes: u64, size: impl Fn(&T) -> u64 + Send + Sync + 'static) -> Self {
        let weigher = move |_: &K, answer: &Arc<T>| size(answer).try_into().unwrap_or(u32::MAX);
        let answers = Cache::builder().max_capacity(bytes).weigher(weigher).build();
        Self { answers, size_max: bytes / SHARE }
    }

    pub fn get(&self, key: &K) -> Option<Arc<T>> {
        self.answers.get(key)
    }

    /// Whether an answer of so many bytes is kept at all.
    pub fn takes(&self, bytes: u64) -> bool {
        bytes <= self.size_max
    }

    pub fn put(&self, key: K, answer: Arc<T>) {
        self.answers.insert(key, answer);
    }

    /// Gives everything up.
    pub fn clear(&self) {
        self.answers.invalidate_all();
        self.answers.run_pending_tasks();
    }

    /// Bytes of the answers that are kept.
    pub fn bytes(&self) -> u64 {
        self.answers.weighted_size()
    }
}

/// One answer takes no more than this part of the room, lest it drive out all others.
const SHARE: u64 = 4;

impl<K, T> fmt::Debug for Pinned<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("size_max", &self.size_max).finish_non_exhaustive()
    }
}
