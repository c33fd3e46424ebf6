//! One budget for all answers that are held here.

use parking_lot::RwLock;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::{Notify, watch};

/// The bytes of answers that are held, and how many may be. Over it, what is only kept for later is
/// given up first; then reads that would need more wait.
pub struct Memory {
    limit: AtomicU64,
    used: AtomicU64,
    /// Some were given back.
    freed: Notify,
    /// How many wait for room.
    waiting: watch::Sender<usize>,
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
            waiting: watch::Sender::new(0),
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
        let mut waiting = None;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Before looking, so that nothing given back between look and wait is missed.
            freed.as_mut().enable();
            if let Some(held) = self.try_hold(bytes) {
                return held;
            }
            waiting.get_or_insert_with(|| Waiting::new(self));
            freed.await;
        }
    }

    /// Resolves while somebody waits for room: those whose clients have stalled are to give theirs
    /// back.
    pub async fn wanted(&self) {
        // Fails only when the sender is gone, which is in here.
        _ = self.waiting.subscribe().wait_for(|waiting| *waiting > 0).await;
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

/// One that waits for room, until this is dropped.
struct Waiting<'m>(&'m Memory);

impl<'m> Waiting<'m> {
    fn new(memory: &'m Memory) -> Self {
        memory.waiting.send_modify(|waiting| *waiting += 1);
        Self(memory)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.used(), self.limit())
    }
}

impl Held {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes more, up to `bytes` in all; false if there is no room for it. Who holds a part already must
    /// not wait for others who do, too.
    #[must_use]
    pub fn grow_to(&mut self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        let Some(taken) = self.memory.try_hold(more) else { return false };
        self.merge(taken);
        true
    }

    /// Both as one.
    fn merge(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
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
        assert!(first.grow_to(70), "there is room");
        assert!(!first.grow_to(71), "there is none");
        drop(second);
        assert!((&mut waiting).now_or_never().is_none());
        first.shrink(20);
        let third = waiting.await;
        assert_eq!(memory.used(), 60);
        drop((first, third));
        assert_eq!(memory.used(), 0);
    }

    #[tokio::test]
    async fn room_is_wanted_while_somebody_waits_for_it() {
        let memory = Memory::new(100);
        let held = memory.try_hold(80).expect("room");
        assert!(memory.wanted().now_or_never().is_none());
        let mut first = Box::pin(memory.hold(30));
        assert!((&mut first).now_or_never().is_none());
        assert!(memory.wanted().now_or_never().is_some());
        drop(first);
        assert!(memory.wanted().now_or_never().is_none(), "it was given up");
        let mut second = Box::pin(memory.hold(30));
        assert!((&mut second).now_or_never().is_none());
        drop(held);
        drop(second.await);
        assert!(memory.wanted().now_or_never().is_none(), "it was found");
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
