//! How long a call keeps its turn at etcd.

use crate::admission::Permit;
use std::{pin::pin, time::Duration};
use tokio::time::{Instant, timeout};

/// A call's turn, for as long as it waits for etcd. Once its client has kept the answer waiting for
/// long, it is the next one's: clients that stop reading must not keep all lists from etcd.
#[derive(Debug)]
pub(super) struct Turn {
    /// `None` when it was given back.
    permit: Option<Permit>,
    /// What is left of the time that the client may keep it.
    left: Duration,
}

/// Time that a client may keep an answer waiting, in all.
const KEPT_MAX: Duration = Duration::from_secs(10);

impl Turn {
    pub(super) fn new(permit: Permit) -> Self {
        Self { permit: Some(permit), left: KEPT_MAX }
    }

    /// What comes of `sending`, during which the answer waits for the client.
    pub(super) async fn sending<T>(&mut self, sending: impl Future<Output = T>) -> T {
        if self.permit.is_none() {
            return sending.await;
        }
        let mut sending = pin!(sending);
        let began = Instant::now();
        if let Ok(sent) = timeout(self.left, sending.as_mut()).await {
            self.left = self.left.saturating_sub(began.elapsed());
            return sent;
        }
        self.permit = None;
        sending.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{Class, Config, Gate, Plan, Protection, Shape, Subject};
    use futures_util::FutureExt;
    use std::{
        future::{pending, ready},
        sync::Arc,
    };
    use tokio::time::sleep;

    async fn list() -> (Arc<Protection>, Arc<Gate>, Turn) {
        let protection = Protection::new(Config::fixture(), &mut Default::default());
        let gate = protection.gate(&"main".into());
        let list =
            Subject { class: Class::HeavyList, shape: Shape::List, ..Subject::fixture("/a/") };
        let entered = protection.enter(&gate, &list, &Plan::default(), None).await;
        (protection, gate, Turn::new(entered.expect("a turn")))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_reading_lets_the_next_one_have_its_turn() {
        let (_protection, gate, mut turn) = list().await;
        turn.sending(sleep(KEPT_MAX / 2)).await;
        assert_eq!(gate.lists().0, 1);
        let mut unread = Box::pin(turn.sending(pending::<()>()));
        assert!((&mut unread).now_or_never().is_none());
        sleep(KEPT_MAX / 2).await;
        assert!((&mut unread).now_or_never().is_none(), "it goes on");
        assert_eq!(gate.lists().0, 0);
    }

    /// After ten seconds another two lists went to an etcd that had answered none yet.
    #[tokio::test(start_paused = true)]
    async fn while_etcd_is_waited_for_the_turn_stays() {
        let (_protection, gate, mut turn) = list().await;
        sleep(10 * KEPT_MAX).await;
        turn.sending(ready(())).await;
        assert_eq!(gate.lists().0, 1);
        drop(turn);
        assert_eq!(gate.lists().0, 0);
    }
}
