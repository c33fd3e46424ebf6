//! Clients that stop taking an answer which lies in memory for them.

use crate::admission::{Held, Protection};
use h2::Reason;
use std::{future::Future, pin::pin, sync::Arc, time::Duration};
use tokio::time::timeout;

/// A client that takes nothing for so long has stalled. What lies here for everybody has changed
/// meanwhile, and is held for it alone.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// The client has stalled, and there is no room to wait for it. Its call is to be broken off by
/// [`Stalled::REASON`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalled;

impl Stalled {
    /// gRPC clients read it as `RESOURCE_EXHAUSTED`.
    pub const REASON: Reason = Reason::ENHANCE_YOUR_CALM;
}

/// Waits for the client of one answer.
#[derive(Debug)]
pub struct Patience {
    protection: Arc<Protection>,
    /// Whether what is sent counts in `protection.memory` already.
    counted: bool,
    /// Of `protection.memory`, once the client has stalled.
    held: Option<Held>,
}

impl Patience {
    pub fn new(protection: &Arc<Protection>) -> Self {
        Self { protection: Arc::clone(protection), counted: false, held: None }
    }

    /// For an answer that has its room in `protection.memory`.
    pub fn with_room(protection: &Arc<Protection>) -> Self {
        Self { counted: true, ..Self::new(protection) }
    }

    /// What comes of `sending`. Where that takes long, the `left` bytes that are still to be sent
    /// count as held here until the answer ends.
    ///
    /// # Errors
    ///
    /// When there is no room for them, or others wait for it; then a part may have been sent.
    pub async fn send<T>(
        &mut self,
        left: usize,
        sending: impl Future<Output = T>,
    ) -> Result<T, Stalled> {
        let mut sending = pin!(sending);
        if let Ok(sent) = timeout(STALLED_AFTER, sending.as_mut()).await {
            return Ok(sent);
        }
        if !self.counted {
            self.held = Some(self.protection.hold_stalled(left as u64).ok_or(Stalled)?);
            self.counted = true;
        }
        tokio::select! {
            sent = sending => Ok(sent),
            () = self.protection.room_wanted() => Err(Stalled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Config;
    use std::future::pending;
    use tokio::time::{Instant, sleep};

    #[tokio::test(start_paused = true)]
    async fn who_stalls_is_waited_for_while_there_is_room() {
        let config = Config { memory_bytes: 100, ..Config::fixture() };
        let protection = Protection::new(config, &mut Default::default());
        let slow = || sleep(STALLED_AFTER * 2);
        let mut quick = Patience::new(&protection);
        assert_eq!(quick.send(1000, sleep(STALLED_AFTER / 2)).await, Ok(()));
        assert_eq!(protection.memory.used(), 0);
        let mut first = Patience::new(&protection);
        assert_eq!(first.send(70, slow()).await, Ok(()));
        assert_eq!(first.send(60, slow()).await, Ok(()), "it has its room");
        assert_eq!(protection.memory.used(), 70);
        let mut second = Patience::new(&protection);
        assert_eq!(second.send(40, pending::<()>()).await, Err(Stalled));
        drop(first);
        assert_eq!(second.send(40, slow()).await, Ok(()));
    }

    /// A list that nobody read took its room for as long as its client stayed, and all other lists
    /// were refused.
    #[tokio::test(start_paused = true)]
    async fn who_stalls_gives_way_to_those_who_wait_for_room() {
        let config = Config { memory_bytes: 100, ..Config::fixture() };
        let protection = Protection::new(config, &mut Default::default());
        let unread = protection.memory.try_hold(90).expect("room");
        let stalling = async {
            let mut patience = Patience::with_room(&protection);
            assert_eq!(patience.send(90, sleep(STALLED_AFTER * 3)).await, Ok(()), "nobody waits");
            let stalled = patience.send(90, pending::<()>()).await;
            drop(unread);
            stalled
        };
        let waiting = async {
            sleep(STALLED_AFTER * 3).await;
            let began = Instant::now();
            let held = protection.memory.hold(50).await;
            assert_eq!(began.elapsed(), STALLED_AFTER, "it has not stalled before");
            drop(held);
        };
        let (stalled, ()) = tokio::join!(stalling, waiting);
        assert_eq!(stalled, Err(Stalled));
        assert_eq!(protection.memory.used(), 0);
    }
}
