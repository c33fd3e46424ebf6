//! One budget for all answers that are held here.

use parking_lot::RwLock;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::Notify;

/// The bytes of answers that are held, and how many may be. Over it, what is only kept for later is
/// given up first; then reads that would need more wait.
pub struct Memory {
    limit: AtomicU64,
    used: AtomicU64,
    /// Some were given back.
    freed: Notify,
    /// Gives up what is only kept for later.
    reclaim: RwLock<Option<Box<dyn Fn() + Send + Sync>>>,
}

/// Bytes that are held until this is dropped.
#[derive(Debug)]
pub struct Held {
    bytes: u64,
    memory: Arc<Memory>,
}

impl Memory {
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicU64::new(limit),
            used: AtomicU64::new(0),
            freed: Notify::new(),
            reclaim: RwLock::new(None),
        })
    }

    /// What to give up first, and how. Called whenever the budget is short.
    pub fn reclaim_by(&self, reclaim: impl Fn() + Send + Sync + 'static) {
        *self.reclaim.write() = Some(Box::new(reclaim));
    }

    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Relaxed);
        self.freed.notify_waiters();
    }

    pub fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Takes `bytes` if there is room for them.
    pub fn try_hold(self: &Arc<Self>, bytes: u64) -> Option<Held> {
        if self.take(bytes) {
            return Some(Held { bytes, memory: Arc::clone(self) });
        }
        if let Some(reclaim) = &*self.reclaim.read() {
            reclaim();
        }
        self.take(bytes).then(|| Held { bytes, memory: Arc::clone(self) })
    }

    /// Takes `bytes` as soon as there is room for them: never if they are more than the limit.
    pub async fn hold(self: &Arc<Self>, bytes: u64) -> Held {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Before looking, so that nothing given back between look and wait is missed.
            freed.as_mut().enable();
            if let Some(held) = self.try_hold(bytes) {
                return held;
            }
            freed.await;
        }
    }

    fn take(&self, bytes: u64) -> bool {
        let limit = self.limit();
        let more = |used: u64| used.checked_add(bytes).filter(|used| *used <= limit);
        self.used.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
        self.freed.notify_waiters();
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.used(), self.limit())
    }
}

impl Held {
    /// Takes more even where there is no room for it: who holds a part already must not wait for
    /// others who do, too. What was held first is an estimate, and lists are few at once.
    pub fn grow_to(&mut self, bytes: u64) {
        let more = bytes.saturating_sub(self.bytes);
        self.bytes += more;
        self.memory.used.fetch_add(more, Relaxed);
    }

    /// Gives back what is above `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.memory.give_back(surplus);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn who_finds_no_room_waits_for_it() {
        let memory = Memory::new(100);
        let mut first = memory.try_hold(70).expect("room");
        let second = memory.try_hold(30).expect("room");
        assert!(memory.try_hold(1).is_none());
        let mut waiting = Box::pin(memory.hold(40));
        assert!((&mut waiting).now_or_never().is_none());
        first.shrink(60);
        assert!((&mut waiting).now_or_never().is_none());
        first.grow_to(70);
        drop(second);
        assert!((&mut waiting).now_or_never().is_none());
        first.shrink(20);
        let third = waiting.await;
        assert_eq!(memory.used(), 60);
        drop((first, third));
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn what_is_only_kept_goes_first() {
        let memory = Memory::new(100);
        let kept = Arc::new(parking_lot::Mutex::new(memory.try_hold(90)));
        let given_up = Arc::clone(&kept);
        memory.reclaim_by(move || drop(given_up.lock().take()));
        let held = memory.try_hold(50).expect("room is made");
        assert!(kept.lock().is_none());
        assert_eq!(memory.used(), 50);
        drop(held);
    }

    #[tokio::test]
    async fn a_raised_limit_is_noticed() {
        let memory = Memory::new(10);
        let mut waiting = Box::pin(memory.hold(20));
        assert!((&mut waiting).now_or_never().is_none());
        memory.set_limit(20);
        drop(waiting.await);
    }
}
