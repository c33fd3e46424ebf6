//! Answers at explicit revisions, which never change while their revision is there.

use arc_swap::ArcSwap;
use moka::sync::Cache;
use std::{fmt, hash::Hash, sync::Arc};

/// Answers at explicit revisions, in bounded memory: those that were asked for least go first.
///
/// Whoever takes one asks etcd, by a read of one key at the same revision, whether that is still
/// there and what the newest is. So nothing is answered that etcd would refuse.
pub struct Pinned<K, T> {
    room: ArcSwap<Room<K, T>>,
    size: fn(&T) -> u64,
}

/// The answers that are kept within one bound.
struct Room<K, T> {
    answers: Cache<K, Arc<T>>,
    bytes: u64,
}

impl<K, T> Pinned<K, T>
where
    K: Eq + Hash + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    /// Keeps up to `bytes`, each answer being as large as `size` says.
    pub fn new(bytes: u64, size: fn(&T) -> u64) -> Self {
        Self { room: ArcSwap::from_pointee(Room::new(bytes, size)), size }
    }

    /// Keeps up to `bytes` from now on. What was kept within another bound is given up.
    pub fn set_bytes(&self, bytes: u64) {
        if bytes != self.room.load().bytes {
            self.room.store(Arc::new(Room::new(bytes, self.size)));
        }
    }

    pub fn get(&self, key: &K) -> Option<Arc<T>> {
        self.room.load().answers.get(key)
    }

    /// Whether an answer of so many bytes is kept at all.
    pub fn takes(&self, bytes: u64) -> bool {
        bytes <= self.room.load().bytes / SHARE
    }

    pub fn put(&self, key: K, answer: Arc<T>) {
        self.room.load().answers.insert(key, answer);
    }

    /// Gives everything up.
    pub fn clear(&self) {
        let room = self.room.load();
        room.answers.invalidate_all();
        room.answers.run_pending_tasks();
    }
}

impl<K, T> Room<K, T>
where
    K: Eq + Hash + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    fn new(bytes: u64, size: fn(&T) -> u64) -> Self {
        let weigher = move |_: &K, answer: &Arc<T>| size(answer).try_into().unwrap_or(u32::MAX);
        Self { answers: Cache::builder().max_capacity(bytes).weigher(weigher).build(), bytes }
    }
}

/// One answer takes no more than this part of the room, lest it drive out all others.
const SHARE: u64 = 4;

impl<K, T> fmt::Debug for Pinned<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.room.load().bytes;
        f.debug_struct("Pinned").field("bytes", &bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(pinned: &Pinned<&'static str, Vec<u8>>) -> bool {
        pinned.get(&"a").is_some()
    }

    #[test]
    fn another_bound_holds_at_once() {
        let pinned = Pinned::new(400, |answer: &Vec<u8>| answer.len() as u64);
        let answer = Arc::new(vec![0; 80]);
        pinned.put("a", Arc::clone(&answer));
        pinned.set_bytes(400);
        assert!(kept(&pinned) && pinned.takes(80), "nothing has changed");
        pinned.set_bytes(200);
        assert!(!kept(&pinned) && !pinned.takes(80) && pinned.takes(50));
        assert_eq!(Arc::strong_count(&answer), 1, "it is held by nobody");
        pinned.put("a", answer);
        pinned.clear();
        assert!(!kept(&pinned));
    }
}
