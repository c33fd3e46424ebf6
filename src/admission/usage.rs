//! How much is stored below a prefix.

#[cfg(test)]
mod tests;

use crate::etcd::key_range::KeyRange;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, timeout},
};

/// Finds out what is stored.
pub trait Census: Sync {
    /// Counts the keys of a range: all that were stored before it was asked.
    fn count<'c>(&'c self, range: &'c KeyRange) -> BoxFuture<'c, Result<u64, Uncounted>>;

    /// Mean bytes of the key-values of a range, where that is known without asking.
    fn mean_size(&self, range: &KeyRange) -> Option<f64>;

    /// Whether it is asked in the name of a client that etcd knows.
    fn is_named(&self) -> bool {
        false
    }
}

/// Why something was not counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uncounted {
    /// etcd refuses the range or the client, and so it does whatever else is asked like this.
    Refused,
    /// A write of it may pass all the same.
    Failed(String),
}

/// Keys below a prefix: counted now and then, and by what has passed here since.
#[derive(Debug)]
pub(super) struct Usage {
    state: Mutex<State>,
    /// To count, which is done once at a time.
    turn: Semaphore,
    /// Nothing is being added any more.
    settled: Notify,
}

/// Keys that are about to be added below a prefix. They have their place there until this is dropped,
/// so that many at once do not pass for one, and keep it unless they are known not to be stored.
#[derive(Debug)]
pub struct Growth {
    usage: Arc<Usage>,
    added: Stored,
    /// Whether what is stored is more by all of them: a put by itself may well be an update.
    certain: bool,
    /// As [`State::counts`] when it began.
    counts: u64,
    /// As far as is known.
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Stored,
    NotStored,
    /// It was sent, and nobody heard what became of it.
    Unknown,
}

/// While keys are added and counted at once, nobody can tell which of them were counted:
///
/// ```text
///                  |<------- count ------->|
///     ---stored                                counted
///        ---------------stored                 doubtful: perhaps counted, taken to be more
///                            ---------stored   doubtful
///                                          --- not counted
/// ```
#[derive(Debug, Default, Clone, Copy)]
struct State {
    /// When the newest count that came to something was begun.
    counted: Option<Instant>,
    /// When the last one ended, if it came to nothing.
    failed: Option<Instant>,
    /// Counts that came to something, and those that ended in any way.
    counts: u64,
    ended: u64,
    keys: u64,
    /// Keys that are being added.
    growing: u64,
    /// Of both, those that may be there twice, or not at all.
    doubtful: u64,
    /// Keys that were added in all.
    added: u64,
    /// Writes since the count that may have added a key.
    perhaps: u64,
    /// Mean size of what is stored where that is known, else of the values that were written here.
    mean_size: f64,
    is_mean_known: bool,
}

/// Whether to count before a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    No,
    /// Unless somebody does already.
    Soon,
    /// What is known would refuse the write, and is not sure enough for that.
    Now,
}

/// A count this old is made anew, since others may write, too ...
const AGE_MAX: Duration = Duration::from_secs(10);
/// ... and one this old before anything is refused for it ...
const AGE_MAX_TO_REFUSE: Duration = Duration::from_secs(1);
/// ... and after this long nothing is, when it could not be counted again.
const AGE_MAX_UNCOUNTED: Duration = Duration::from_secs(60);

/// Where a count came to nothing the next one is not before this, or writes would wait for one each.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What is being added is waited for as long as this before it is counted.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// Counts that a write may wait for: one that was under way when it came, and one more.
const COUNTS_MAX: u64 = 2;

/// Share of the newest value in the mean size.
const NEWEST: f64 = 0.05;

/// What is stored, as far as is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) keys: u64,
    /// Keys times their mean size.
    pub(super) bytes: u64,
}

impl Default for Usage {
    fn default() -> Self {
        Self { state: Mutex::default(), turn: Semaphore::new(1), settled: Notify::new() }
    }
}

impl Usage {
    /// Counts what is stored in `range` again where that is due: sooner when `exceeds` is true of what
    /// may be there. One counts for all who need it; the others go by what was known before, and wait
    /// only if that would refuse them.
    pub(super) async fn count(
        &self,
        range: &KeyRange,
        census: &dyn Census,
        exceeds: impl Fn(Stored) -> bool,
    ) {
        let last = self.state.lock().ended + COUNTS_MAX;
        let due = || self.state.lock().due(last, &exceeds);
        loop {
            let turn = match due() {
                Due::No => return,
                Due::Soon => self.turn.try_acquire().ok(),
                // Fails when the semaphore is closed, which nobody does.
                Due::Now => self.turn.acquire().await.ok(),
            };
            let Some(_turn) = turn else { return };
            if self.state.lock().is_in_doubt(&exceeds) {
                self.settle().await;
            }
            // Another one may have counted before it was this one's turn.
            if due() != Due::No {
                self.count_now(range, census).await;
            }
        }
    }

    async fn count_now(&self, range: &KeyRange, census: &dyn Census) {
        // It may also be given up.
        let (began, before) = (Instant::now(), *self.state.lock());
        let mut attempt = Attempt { usage: self, began, ended: None };
        let counted = census.count(range).await;
        attempt.ended = Some(counted.is_ok());
        let Ok(counted) = counted else { return };
        let mean_size = census.mean_size(range);
        let mut state = self.state.lock();
        let meanwhile = state.added - before.added;
        state.counts += 1;
        state.counted = Some(began);
        state.keys = counted + meanwhile;
        state.doubtful = meanwhile + state.growing;
        state.perhaps -= before.perhaps;
        state.is_mean_known = mean_size.is_some();
        state.mean_size = mean_size.unwrap_or(state.mean_size);
    }

    /// Waits until nothing is being added, if that is soon.
    async fn settle(&self) {
        let settled = async {
            loop {
                let mut settled = pin!(self.settled.notified());
                // Before looking, so that nothing is missed between the look and the wait.
                settled.as_mut().enable();
                if self.state.lock().growing == 0 {
                    return;
                }
                settled.await;
            }
        };
        // Else it is counted with what is being added, and all of that is taken to be more.
        let _ = timeout(SETTLE_MAX, settled).await;
    }

    /// This much is about to be added, or perhaps only changed: no further where `exceeds` is true of
    /// what is there for certain.
    pub(super) fn grow(
        self: &Arc<Self>,
        added: Stored,
        certain: bool,
        exceeds: impl Fn(Stored) -> bool,
    ) -> Result<Growth, Stored> {
        let mut state = self.state.lock();
        let stored = state.stored();
        if state.is_known() && exceeds(stored) {
            return Err(stored);
        }
        state.growing += if certain { added.keys } else { 0 };
        let (usage, counts) = (Arc::clone(self), state.counts);
        Ok(Growth { usage, added, certain, counts, outcome: Outcome::NotStored })
    }
}

/// A count, until it ends in any way.
struct Attempt<'u> {
    usage: &'u Usage,
    began: Instant,
    /// Whether it has come to something; `None` while it goes on, or when it was given up.
    ended: Option<bool>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut state = self.usage.state.lock();
        state.ended += u64::from(self.ended.is_some());
        // Whoever left at once says nothing of etcd, and whoever waited in vain does.
        let failed = !self.ended.unwrap_or_else(|| self.began.elapsed() < RETRY_AFTER);
        state.failed = failed.then(Instant::now);
    }
}

impl Growth {
    /// It is on its way to etcd: whoever does not hear of it again cannot tell what became of it.
    pub(super) fn send(&mut self) {
        self.outcome = Outcome::Unknown;
    }

    /// etcd has said whether it is stored.
    pub(super) fn end(mut self, stored: bool) {
        self.outcome = if stored { Outcome::Stored } else { Outcome::NotStored };
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        let mut state = self.usage.state.lock();
        if self.certain {
            state.settle(self.added.keys, self.counts, self.outcome);
        } else if self.outcome != Outcome::NotStored {
            state.perhaps += self.added.keys;
        }
        if self.outcome == Outcome::Stored {
            state.learn_size(self.added, self.certain);
        }
        if state.growing == 0 {
            self.usage.settled.notify_waiters();
        }
    }
}

impl State {
    /// `last` is the number of the count that decides, whatever comes of it.
    fn due(&self, last: u64, exceeds: impl Fn(Stored) -> bool) -> Due {
        let has_failed = self.failed.is_some_and(|failed| failed.elapsed() < RETRY_AFTER);
        if self.ended >= last || has_failed {
            return Due::No;
        }
        let Some(counted) = self.counted else { return Due::Now };
        let age = counted.elapsed();
        match exceeds(self.at_most()) {
            true if age >= AGE_MAX_TO_REFUSE || self.is_in_doubt(&exceeds) => Due::Now,
            false if age >= AGE_MAX => Due::Soon,
            _ => Due::No,
        }
    }

    /// Whether there is room or not as those went that nobody can tell of.
    fn is_in_doubt(&self, exceeds: impl Fn(Stored) -> bool) -> bool {
        let keys = (self.keys + self.growing).saturating_sub(self.doubtful);
        let at_least = Self { keys, growing: 0, ..*self };
        exceeds(self.stored()) && !exceeds(at_least.stored())
    }

    /// Keys that were being added since so many counts are no longer.
    fn settle(&mut self, keys: u64, counts: u64, outcome: Outcome) {
        self.growing -= keys;
        let was_doubtful = self.counts != counts;
        match outcome {
            Outcome::NotStored if was_doubtful => self.doubtful -= keys,
            Outcome::NotStored => {}
            Outcome::Stored | Outcome::Unknown => {
                self.keys += keys;
                self.added += keys;
                let is_doubtful = outcome == Outcome::Unknown && !was_doubtful;
                self.doubtful += if is_doubtful { keys } else { 0 };
            }
        }
    }

    fn learn_size(&mut self, added: Stored, certain: bool) {
        let share = match self.is_mean_known {
            true if certain => added.keys as f64 / self.keys as f64,
            // It is not known what it replaces.
            true => 0.0,
            false if self.mean_size == 0.0 => 1.0,
            false => NEWEST,
        };
        let size = added.bytes as f64 / added.keys as f64;
        self.mean_size += (size - self.mean_size) * share;
    }

    /// Whether what was counted last is no fable yet.
    fn is_known(&self) -> bool {
        self.counted.is_some_and(|counted| counted.elapsed() < AGE_MAX_UNCOUNTED)
    }

    /// What is there or on its way, and no less than that.
    fn stored(&self) -> Stored {
        let keys = self.keys + self.growing;
        Stored { keys, bytes: (keys as f64 * self.mean_size) as u64 }
    }

    fn at_most(&self) -> Stored {
        Self { keys: self.keys + self.perhaps, ..*self }.stored()
    }
}
