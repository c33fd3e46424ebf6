//! Which revision a cluster had when.

use parking_lot::Mutex;
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// Samples kept: of one a second, those of days.
const SAMPLES_MAX: usize = 4096;

/// Where there are so many, two stay that lie apart by this part of their age: within a few minutes
/// all, of two hours ago one in a quarter of a minute.
const APART: u32 = 512;

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
            thin(&mut samples, answered);
        }
        samples.push_back(Sample { asked, answered, revision });
    }

    /// A time at which the store had not reached `revision` yet, the last that is known: after it the
    /// store may have stayed at `revision` for long.
    pub fn before(&self, revision: i64) -> Option<Instant> {
        let samples = self.samples.lock();
        let reached = samples.partition_point(|sample| sample.revision < revision);
        samples.get(reached.checked_sub(1)?).map(|sample| sample.asked)
    }

    /// A revision that the store had reached at `time`, as late as is known.
    pub fn revision_at(&self, time: Instant) -> Option<i64> {
        let samples = self.samples.lock();
        let later = samples.partition_point(|sample| sample.answered <= time);
        samples.get(later.checked_sub(1)?).map(|sample| sample.revision)
    }
}

/// Makes room for one sample at least. What is left says the same of fewer times.
fn thin(samples: &mut VecDeque<Sample>, now: Instant) {
    let mut last: Option<Instant> = None;
    samples.retain(|sample| {
        let apart = (now - sample.answered) / APART;
        let stays = last.is_none_or(|last| sample.answered - last >= apart);
        if stays {
            last = Some(sample.answered);
        }
        stays
    });
    if samples.len() == SAMPLES_MAX {
        samples.pop_front();
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
        let time = main.before(550).expect("seen");
        assert_eq!(time, at(start, 300));
        assert_eq!(events.revision_at(time), Some(4_007));
        assert_eq!(main.before(0), None);
        assert_eq!(events.revision_at(start), None);
    }

    /// Other clusters were compacted at what they had a moment ago, where nothing was written to the
    /// default cluster for an interval.
    #[test]
    fn a_revision_was_reached_when_it_was_seen_first() {
        let start = Instant::now();
        let main = Timeline::default();
        main.record(at(start, 0), at(start, 0), 6);
        for second in 1..=300 {
            main.record(at(start, second), at(start, second), 7);
        }
        assert_eq!(main.before(7), Some(start));
        assert_eq!(main.before(8), Some(at(start, 300)), "it is not reached yet");
    }

    /// What was longer ago than an hour was forgotten, and with a longer interval of compactions other
    /// clusters were never compacted.
    #[test]
    fn long_ago_is_known_roughly_and_never_too_late() {
        let start = Instant::now();
        let timeline = Timeline::default();
        let days = 3 * 24 * 60 * 60;
        for second in 0..=days {
            timeline.record(at(start, second), at(start, second), second as i64);
        }
        assert!(timeline.samples.lock().len() <= SAMPLES_MAX);
        for ago in [60, 300, 3600, 2 * 3600, 24 * 3600] {
            let then = days - ago;
            let time = timeline.before(then as i64).expect("known");
            assert!(time < at(start, then), "{ago} s ago: too late");
            assert!(time >= at(start, then - 1 - ago / 100), "{ago} s ago: much too early");
            let revision = timeline.revision_at(at(start, then)).expect("known");
            assert!((then - ago / 100..=then).contains(&(revision as u64)), "{revision}");
        }
    }

    #[test]
    fn forgets_another_store() {
        let start = Instant::now();
        let timeline = Timeline::default();
        timeline.record(at(start, 0), at(start, 0), 7);
        timeline.record(at(start, 1), at(start, 1), 3);
        assert_eq!(timeline.before(7), Some(at(start, 1)));
    }
}
