//! Which revision a cluster had when.

use parking_lot::Mutex;
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// Samples kept: over an hour of one a second.
const SAMPLES_MAX: usize = 4096;

/// Pause between two samples, however many members are probed.
const PAUSE: Duration = Duration::from_millis(500);

/// Revisions that were seen, oldest first.
#[derive(Debug, Default)]
pub struct Timeline {
    samples: Mutex<VecDeque<Sample>>,
}

/// The store had `revision` at some time between `asked` and `answered`.
#[derive(Debug, Clone, Copy)]
struct Sample {
    asked: Instant,
    answered: Instant,
    revision: i64,
}

impl Timeline {
    pub(super) fn record(&self, asked: Instant, answered: Instant, revision: i64) {
        let mut samples = self.samples.lock();
        match samples.back() {
            Some(newest) if revision < newest.revision => samples.clear(),
            Some(newest) if answered < newest.answered + PAUSE => return,
            _ => {}
        }
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(Sample { asked, answered, revision });
    }

    /// A time at which the store had no later revision than `revision`, as late as is known.
    pub fn time_of(&self, revision: i64) -> Option<Instant> {
        let samples = self.samples.lock();
        let later = samples.partition_point(|sample| sample.revision <= revision);
        samples.get(later.checked_sub(1)?).map(|sample| sample.asked)
    }

    /// A revision that the store had reached at `time`, as late as is known.
    pub fn revision_at(&self, time: Instant) -> Option<i64> {
        let samples = self.samples.lock();
        let later = samples.partition_point(|sample| sample.answered <= time);
        samples.get(later.checked_sub(1)?).map(|sample| sample.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn aligns_two_clusters_without_ever_going_beyond() {
        let start = Instant::now();
        let (main, events) = (Timeline::default(), Timeline::default());
        for minute in 0..10 {
            let (asked, answered) = (at(start, 60 * minute), at(start, 60 * minute + 1));
            main.record(asked, answered, 100 * minute as i64);
            let (asked, answered) = (at(start, 60 * minute + 30), at(start, 60 * minute + 31));
            events.record(asked, answered, 1_000 * minute as i64 + 7);
        }
        let time = main.time_of(550).expect("seen");
        assert_eq!(time, at(start, 300));
        assert_eq!(events.revision_at(time), Some(4_007));
        assert_eq!(main.time_of(-1), None);
        assert_eq!(events.revision_at(start), None);
    }

    #[test]
    fn forgets_what_is_older_than_its_bound_and_another_store() {
        let start = Instant::now();
        let timeline = Timeline::default();
        for sample in 0..10_000 {
            timeline.record(at(start, sample), at(start, sample), sample as i64);
        }
        assert_eq!(timeline.revision_at(at(start, 100)), None);
        assert_eq!(timeline.revision_at(at(start, 9_999)), Some(9_999));
        timeline.record(at(start, 10_000), at(start, 10_000), 3);
        assert_eq!(timeline.time_of(9_999), Some(at(start, 10_000)));
    }
}
