//! When watchers of a stream try to come back to memory.

use crate::mirror::Turn;
use std::time::Duration;
use tokio::time::Instant;

/// Between looks whether they could. Longer than etcd has for its answer.
pub(super) const LOOK: Duration = Duration::from_secs(3);

/// Memory has to be able to serve them for so long.
const SETTLED: Duration = Duration::from_secs(5);

/// Before etcd is asked again how far they are, when it did not say so.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Between two times that they leave etcd: doubled each time, and forgotten after long quiet. What
/// sends them back there may come again and again.
const WAIT_MIN: Duration = Duration::from_secs(60);
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// The watchers that etcd serves on one stream in place of the memory of one cluster.
#[derive(Debug, Default)]
pub(super) struct Homecoming {
    ready_since: Option<Instant>,
    not_before: Option<Instant>,
    left: Option<(Instant, Duration)>,
    /// Held from the question how far they are until they have come, or the next look.
    turn: Option<Turn>,
}

impl Homecoming {
    /// A look: whether they are to try now, where memory is ready for them or not.
    pub(super) fn is_due(&mut self, ready: bool, now: Instant) -> bool {
        self.turn = None;
        if !ready {
            self.ready_since = None;
            return false;
        }
        let since = *self.ready_since.get_or_insert(now);
        now - since >= SETTLED && self.not_before.is_none_or(|at| now >= at)
    }

    /// etcd is asked how far they are.
    pub(super) fn ask(&mut self, turn: Turn, now: Instant) {
        self.turn = Some(turn);
        self.not_before = Some(now + ASK_AGAIN);
    }

    /// They have left etcd.
    pub(super) fn leave(&mut self, now: Instant) {
        let wait = match self.left {
            Some((at, wait)) if now - at < 2 * WAIT_MAX => (2 * wait).min(WAIT_MAX),
            _ => WAIT_MIN,
        };
        self.left = Some((now, wait));
        self.not_before = Some(now + wait);
    }

    /// They are where they are now.
    pub(super) fn end(&mut self) {
        self.turn = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::{sync::Semaphore, task::yield_now};

    /// When they leave within three hours where memory is always ready again soon, in seconds.
    fn leaves(mut homecoming: Homecoming, ready: impl Fn(u64) -> bool) -> Vec<u64> {
        let began = Instant::now();
        let mut leaves = Vec::new();
        for second in 0..3 * 3600 {
            let now = began + Duration::from_secs(second);
            if homecoming.is_due(ready(second), now) {
                homecoming.leave(now);
                leaves.push(second);
            }
        }
        leaves
    }

    #[test]
    fn memory_has_to_be_ready_for_a_while() {
        assert_eq!(leaves(Homecoming::default(), |second| second % 5 > 0), [] as [u64; 0]);
        assert_eq!(leaves(Homecoming::default(), |second| second > 20)[0], 26);
    }

    #[test]
    fn those_who_are_sent_back_wait_ever_longer() {
        let left = leaves(Homecoming::default(), |_| true);
        assert_eq!(left[..5], [5, 65, 185, 425, 905]);
        assert!(left.len() < 10, "{left:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_turn_of_those_who_do_not_come_is_given_back() {
        let turns = Arc::new(Semaphore::new(1));
        let take = async || {
            yield_now().await;
            Arc::clone(&turns).try_acquire_owned().map(Turn::new)
        };
        let (mut homecoming, now) = (Homecoming::default(), Instant::now());
        homecoming.ask(take().await.expect("a turn"), now);
        assert!(take().await.is_err());
        assert!(!homecoming.is_due(true, now));
        drop(take().await.expect("a turn"));
        homecoming.ask(take().await.expect("a turn"), now);
        homecoming.end();
        assert!(take().await.is_ok());
        assert!(!homecoming.is_due(true, now + SETTLED), "etcd was asked just now");
        assert!(homecoming.is_due(true, now + ASK_AGAIN));
    }
}
