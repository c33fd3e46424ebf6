//! Flights: each read that several wait for is a task of its own.

use super::{Given, book::Book};
use crate::sabotage::Sabotage;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::{
    fmt,
    hash::Hash,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// The flights of all keys.
pub struct Flights<K: Key, T: Outcome> {
    /// Never held across an await.
    book: Mutex<Book<K, Batch<K, T>>>,
    waiters_max: AtomicUsize,
}

/// Those who wait for one flight, and how it is flown.
struct Batch<K: Key, T: Outcome> {
    /// Tells its outcome; closed when nobody waits for it any more.
    outcome: watch::Sender<Option<T>>,
    /// Taken when its turn has come.
    fly: Option<Fly<K, T>>,
}

/// Flies on the data thread that it is given, and seals its batch before it sends anything.
pub type Fly<K, T> = Box<dyn FnOnce(usize, Seal<K, T>) -> BoxFuture<'static, T> + Send>;

/// What a read that arrives is to do.
#[derive(Debug)]
pub enum Joined<K: Key, T: Outcome> {
    /// Read for itself, now.
    Lead(Lead<K, T>),
    /// Wait for the answer that others get, too.
    Wait(Waiter<T>),
}

/// As many wait for one answer as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany {
    pub waiting: usize,
}

/// A key that is being read. Once this is dropped, what has gathered meanwhile is read next.
#[derive(Debug)]
pub struct Lead<K: Key, T: Outcome> {
    flights: Arc<Flights<K, T>>,
    key: K,
    worker: usize,
    /// Whether it ever ran. A task that did not was dropped by a scheduler that is ending, on which
    /// nothing can follow it.
    began: bool,
}

/// Waits for a flight. It is given up when its last waiter is dropped.
#[derive(Debug)]
pub struct Waiter<T>(watch::Receiver<Option<T>>);

/// Closes a batch to those who come later. A batch that was never sealed was not sent.
#[derive(Debug)]
pub struct Seal<K: Key, T: Outcome> {
    flights: Arc<Flights<K, T>>,
    key: K,
    /// When it was closed.
    departed: Arc<OnceLock<Instant>>,
}

/// What tells reads apart.
pub trait Key: Eq + Hash + Clone + Send + Sync + fmt::Debug + 'static {}
impl<K: Eq + Hash + Clone + Send + Sync + fmt::Debug + 'static> Key for K {}

/// What all waiters get.
pub trait Outcome: Clone + Send + Sync + 'static {
    /// Who has it; nothing if little is to be given.
    fn given(&self) -> Option<&Given>;
}

impl<K: Key, T: Outcome> Flights<K, T> {
    pub fn new(waiters_max: usize) -> Arc<Self> {
        Arc::new(Self { book: Mutex::default(), waiters_max: AtomicUsize::new(waiters_max) })
    }

    pub fn set_waiters_max(&self, waiters_max: usize) {
        self.waiters_max.store(waiters_max, Relaxed);
    }

    /// A read for `key` arrives on data thread `worker`. It leads if nothing is out; else `fly`
    /// makes the flight it shares, once the one that is out has returned.
    ///
    /// # Errors
    ///
    /// When too many wait for the same.
    pub fn join(
        self: &Arc<Self>,
        key: K,
        worker: usize,
        fly: impl FnOnce() -> Fly<K, T>,
    ) -> Result<Joined<K, T>, TooMany> {
        let mut book = self.book.lock();
        match book.join(key.clone(), || Batch::new(fly())) {
            None => Ok(Joined::Lead(self.lead(key, worker, true))),
            Some(batch) => self.wait(batch).map(Joined::Wait),
        }
    }

    /// The same for a read that has to wait for its turn in any case: until it has sealed its batch,
    /// others join it.
    ///
    /// # Errors
    ///
    /// When too many wait for the same.
    pub fn queue(
        self: &Arc<Self>,
        key: K,
        worker: usize,
        fly: impl FnOnce() -> Fly<K, T>,
    ) -> Result<Waiter<T>, TooMany> {
        let mut book = self.book.lock();
        let (batch, first) = book.queue(key.clone(), || Batch::new(fly()));
        let waiter = self.wait(batch);
        drop(book);
        if first {
            tokio::spawn(fly_next(self.lead(key, worker, false)));
        }
        waiter
    }

    /// Joins the batch that is open for `key`, if there is one with room.
    pub fn join_open(&self, key: &K) -> Option<Waiter<T>> {
        self.wait(self.book.lock().open(key)?).ok()
    }

    fn lead(self: &Arc<Self>, key: K, worker: usize, began: bool) -> Lead<K, T> {
        Lead { flights: Arc::clone(self), key, worker, began }
    }

    fn wait(&self, batch: &Batch<K, T>) -> Result<Waiter<T>, TooMany> {
        let waiting = batch.outcome.receiver_count();
        if waiting >= self.waiters_max.load(Relaxed) {
            return Err(TooMany { waiting });
        }
        Ok(Waiter(batch.outcome.subscribe()))
    }

    /// Whether a read for `key` that arrived now would join others before they are sent.
    pub fn is_open(&self, key: &K) -> bool {
        self.book.lock().open(key).is_some()
    }

    /// Whether no key is being read.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.book.lock().is_empty()
    }
}

/// Flies the open batch; what gathers meanwhile flies when the lead is dropped.
async fn fly_next<K: Key, T: Outcome>(mut lead: Lead<K, T>) {
    lead.began = true;
    let Lead { flights, key, worker, .. } = &lead;
    let (fly, outcome) = match flights.book.lock().open(key) {
        Some(Batch { outcome, fly }) => (fly.take(), outcome.clone()),
        None => return,
    };
    // Its flight has panicked, and told nobody; those who wait learn it from the lost sender.
    let Some(fly) = fly else { return forget(&mut flights.book.lock(), key, &outcome) };
    let departed = Arc::default();
    let seal =
        Seal { flights: Arc::clone(flights), key: key.clone(), departed: Arc::clone(&departed) };
    let flown = tokio::select! {
        biased;
        () = abandoned(flights, key, &outcome) => None,
        flown = fly(*worker, seal) => Some(flown),
    };
    // One that was refused was never sent, and takes its batch with it all the same.
    forget(&mut flights.book.lock(), key, &outcome);
    let given = flown.as_ref().and_then(Outcome::given).map(Given::to_all);
    outcome.send_replace(flown);
    // Only those who wait have it now.
    drop(outcome);
    rest(given, departed.get().map_or(Duration::ZERO, Instant::elapsed)).await;
}

/// Puts the next flight off while the outcome of the last is being given. It would bring nobody an
/// answer sooner, since reading and giving want the same processors, and those who ask meanwhile share
/// it. Whoever takes long holds the others up no longer than the flight `took`.
async fn rest(given: Option<impl Future<Output = ()>>, took: Duration) {
    if let Some(given) = given {
        // Either way the next may follow.
        let _ = timeout(took, given).await;
    }
}

/// Resolves when nobody waits any more; nobody can begin to after that.
async fn abandoned<K: Key, T: Outcome>(
    flights: &Flights<K, T>,
    key: &K,
    outcome: &watch::Sender<Option<T>>,
) {
    loop {
        outcome.closed().await;
        let mut book = flights.book.lock();
        // Somebody may have joined between the last one's leaving and this look.
        if outcome.receiver_count() == 0 {
            return forget(&mut book, key, outcome);
        }
    }
}

/// Seals the batch of `outcome`, if it is still open.
fn forget<K: Key, T: Outcome>(
    book: &mut Book<K, Batch<K, T>>,
    key: &K,
    outcome: &watch::Sender<Option<T>>,
) {
    if book.open(key).is_some_and(|batch| batch.outcome.same_channel(outcome)) {
        book.seal(key);
    }
}

impl<K: Key, T: Outcome> Batch<K, T> {
    fn new(fly: Fly<K, T>) -> Self {
        Self { outcome: watch::Sender::new(None), fly: Some(fly) }
    }
}

impl<K: Key, T: Outcome> Drop for Lead<K, T> {
    fn drop(&mut self) {
        let mut book = self.flights.book.lock();
        if !self.began {
            book.seal(&self.key);
        }
        if book.returned(&self.key) {
            drop(book);
            let next = self.flights.lead(self.key.clone(), self.worker, false);
            tokio::spawn(fly_next(next));
        }
    }
}

impl<K: Key, T: Outcome> Seal<K, T> {
    /// From now on whoever arrives waits for the next flight. Call it before anything is sent.
    pub fn close(self) {
        self.departed.get_or_init(Instant::now);
        if Sabotage::JoinSent.is_on() {
            return;
        }
        self.flights.book.lock().seal(&self.key);
    }
}

impl<T: Clone> Waiter<T> {
    /// The outcome; `None` when the flight has failed to have one.
    pub async fn outcome(mut self) -> Option<T> {
        let outcome = self.0.wait_for(Option::is_some).await;
        outcome.ok()?.clone()
    }
}

impl<K: Key, T: Outcome> fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("waiters_max", &self.waiters_max).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
