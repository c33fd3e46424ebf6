//! Says in the log when a protection begins to refuse calls, and not of each call.

use super::View;
use std::{collections::HashMap, time::Duration};
use tokio::time::{Instant, MissedTickBehavior, interval};

const INTERVAL: Duration = Duration::from_secs(1);

/// What goes on is not said again before this long.
const QUIET: Duration = Duration::from_secs(60);

/// Looks until dropped.
pub(super) async fn watch(view: &View) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said = Said::default();
    loop {
        let now = ticks.tick().await;
        for standing in view.protection.standings() {
            if let Some(refused) = said.look(&standing.protection, standing.refused, now) {
                let protection = standing.protection;
                tracing::warn!(protection, refused, "calls are refused");
            }
        }
    }
}

/// What was counted when something was said last, by protection. Rules that are gone from the
/// configuration stay, which are few.
#[derive(Debug, Default)]
struct Said(HashMap<String, (u64, Option<Instant>)>);

impl Said {
    /// How many were refused since it was said last, if it is to be said now.
    fn look(&mut self, protection: &str, refused: u64, now: Instant) -> Option<u64> {
        let Some((before, when)) = self.0.get_mut(protection) else {
            let when = (refused > 0).then_some(now);
            self.0.insert(protection.to_owned(), (refused, when));
            return when.map(|_| refused);
        };
        let silent = when.is_none_or(|when| now - when >= QUIET);
        if refused <= *before || !silent {
            return None;
        }
        let more = refused - *before;
        (*before, *when) = (refused, Some(now));
        Some(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_said_at_once_and_then_once_a_minute() {
        let (mut said, start) = (Said::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(said.look("queues", 0, start), None);
        assert_eq!(said.look("queues", 3, after(1)), Some(3));
        assert_eq!(said.look("queues", 9, after(2)), None);
        assert_eq!(said.look("queues", 10, after(61)), Some(7));
        assert_eq!(said.look("queues", 10, after(200)), None);
        assert_eq!(said.look("rules.new", 1, after(200)), Some(1));
    }
}
