//! Rates in units of anything: requests, cost, creates.
//!
//! The generic cell rate algorithm, with two additions that plain rate limiters lack: a caller
//! reserves its turn and waits for it, so that turns come in the order of arrival; and what a call
//! was charged is settled once it is known what it cost.

use super::Rate;
use std::{
    sync::atomic::{AtomicI64, Ordering::Relaxed},
    time::Duration,
};
use tokio::time::Instant;

/// A rate, and what of it is used up.
#[derive(Debug)]
pub struct Bucket {
    origin: Instant,
    /// What one unit takes.
    nanos_per_unit: f64,
    /// How far ahead of time the units may be used up.
    tolerance: i64,
    /// When all units that were taken will have been due, in nanoseconds after `origin`.
    due: AtomicI64,
}

impl Bucket {
    /// Full: `burst`'s worth of the rate may be taken at once, and one unit in any case.
    pub fn new(rate: Rate, burst: Duration) -> Self {
        let nanos_per_unit = rate.period.as_nanos() as f64 / f64::from(rate.count);
        let tolerance = (burst.as_nanos() as f64 - nanos_per_unit).max(0.0) as i64;
        Self { origin: Instant::now(), nanos_per_unit, tolerance, due: AtomicI64::new(0) }
    }

    /// Takes `units` and tells how long to wait before using them. One call may take more than the
    /// burst; those after it wait for it.
    ///
    /// # Errors
    ///
    /// The wait, where it is longer than `wait_max`; then nothing was taken.
    pub fn take(&self, units: f64, wait_max: Duration) -> Result<Duration, Duration> {
        self.take_at(self.origin.elapsed(), units, wait_max)
    }

    /// The same at another time after it was made than now.
    ///
    /// # Errors
    ///
    /// As [`Bucket::take`].
    pub fn take_at(
        &self,
        age: Duration,
        units: f64,
        wait_max: Duration,
    ) -> Result<Duration, Duration> {
        let now = age.as_nanos() as i64;
        let spent = (units * self.nanos_per_unit) as i64;
        let wait = |due: i64| Duration::from_nanos((due - self.tolerance - now).max(0) as u64);
        let taken = self.due.fetch_update(Relaxed, Relaxed, |due| {
            (wait(due) <= wait_max).then(|| due.max(now).saturating_add(spent))
        });
        match taken {
            Ok(due) => Ok(wait(due)),
            Err(due) => Err(wait(due)),
        }
    }

    /// What was taken turned out to cost `units` more, or less where negative.
    pub fn settle(&self, units: f64) {
        self.due.fetch_add((units * self.nanos_per_unit) as i64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const WAIT: Duration = Duration::from_secs(3);

    fn ten_a_second() -> Bucket {
        Bucket::new(Rate { count: 10, period: Duration::from_secs(1) }, Duration::from_secs(1))
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_the_rest_take_turns() {
        let bucket = ten_a_second();
        for _ in 0..10 {
            assert_eq!(bucket.take(1.0, WAIT), Ok(Duration::ZERO));
        }
        assert_eq!(bucket.take(1.0, WAIT), Ok(millis(100)));
        assert_eq!(bucket.take(1.0, WAIT), Ok(millis(200)));
        advance(millis(200)).await;
        assert_eq!(bucket.take(1.0, WAIT), Ok(millis(100)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_takes_nothing() {
        let bucket = ten_a_second();
        assert_eq!(bucket.take(60.0, WAIT), Ok(Duration::ZERO));
        assert_eq!(bucket.take(1.0, WAIT), Err(millis(5_100)));
        assert_eq!(bucket.take(1.0, WAIT), Err(millis(5_100)));
        advance(millis(2_100)).await;
        assert_eq!(bucket.take(1.0, WAIT), Ok(millis(3_000)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_estimate_is_paid_by_those_who_come_after() {
        let bucket = ten_a_second();
        assert_eq!(bucket.take(1.0, WAIT), Ok(Duration::ZERO));
        bucket.settle(19.0);
        assert_eq!(bucket.take(1.0, WAIT), Ok(millis(1_100)));
        bucket.settle(-20.0);
        assert_eq!(bucket.take(1.0, WAIT), Ok(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn idleness_saves_up_no_more_than_the_burst() {
        let bucket = ten_a_second();
        advance(Duration::from_secs(60)).await;
        for _ in 0..10 {
            assert_eq!(bucket.take(1.0, WAIT), Ok(Duration::ZERO));
        }
        assert_eq!(bucket.take(1.0, WAIT), Ok(millis(100)));
    }
}
