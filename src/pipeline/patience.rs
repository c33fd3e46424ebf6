//! Clients that stop taking an answer which lies in memory for them.

use crate::admission::{Held, Protection};
use h2::Reason;
use std::{future::Future, pin::pin, sync::Arc, time::Duration};
use tokio::time::timeout;

/// What a client does not take for so long is held for it alone: what lies in memory for everybody
/// has changed meanwhile.
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
    /// Of `protection.memory`, once the client has stalled.
    held: Option<Held>,
}

impl Patience {
    pub fn new(protection: &Arc<Protection>) -> Self {
        Self { protection: Arc::clone(protection), held: None }
    }

    /// What comes of `sending`. Where that takes long, the `left` bytes that are still to be sent
    /// count as held here until the answer ends.
    ///
    /// # Errors
    ///
    /// When there is no room for them; then a part may have been sent.
    pub async fn send<T>(
        &mut self,
        left: usize,
        sending: impl Future<Output = T>,
    ) -> Result<T, Stalled> {
        let mut sending = pin!(sending);
        if self.held.is_none() {
            if let Ok(sent) = timeout(STALLED_AFTER, sending.as_mut()).await {
                return Ok(sent);
            }
            self.held = Some(self.protection.hold_stalled(left as u64).ok_or(Stalled)?);
        }
        Ok(sending.await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Config;
    use std::future::pending;
    use tokio::time::sleep;

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
}
