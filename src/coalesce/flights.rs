//! Flights: each read that several wait for is a task of its own.

use super::book::Book;
use crate::sabotage::Sabotage;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::{
    fmt,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::sync::watch;

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
}

/// What tells reads apart.
pub trait Key: Eq + Hash + Clone + Send + Sync + fmt::Debug + 'static {}
impl<K: Eq + Hash + Clone + Send + Sync + fmt::Debug + 'static> Key for K {}

/// What all waiters get.
pub trait Outcome: Clone + Send + Sync + 'static {}
impl<T: Clone + Send + Sync + 'static> Outcome for T {}

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
    let seal = Seal { flights: Arc::clone(flights), key: key.clone() };
    let flown = tokio::select! {
        biased;
        () = abandoned(flights, key, &outcome) => None,
        flown = fly(*worker, seal) => Some(flown),
    };
    // One that was refused was never sent, and takes its batch with it all the same.
    forget(&mut flights.book.lock(), key, &outcome);
    outcome.send_replace(flown);
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
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::sync::atomic::AtomicU32;
    use tokio::sync::Semaphore;

    /// Flights that count themselves and return the number they are, each when it is let.
    #[derive(Clone)]
    struct Airport {
        flights: Arc<Flights<&'static str, u32>>,
        flown: Arc<AtomicU32>,
        returns: Arc<Semaphore>,
        permits: Arc<Semaphore>,
    }

    impl Airport {
        fn new() -> Self {
            Self {
                flights: Flights::new(100),
                flown: Arc::default(),
                returns: Arc::new(Semaphore::new(0)),
                permits: Arc::new(Semaphore::new(0)),
            }
        }

        fn fly(&self) -> Fly<&'static str, u32> {
            let Self { flown, returns, .. } = self.clone();
            Box::new(move |_, seal| {
                async move {
                    seal.close();
                    let number = flown.fetch_add(1, Relaxed) + 1;
                    returns.acquire().await.expect("open").forget();
                    number
                }
                .boxed()
            })
        }

        /// A flight that needs a permit before it is sent.
        fn fly_with_permit(&self) -> Fly<&'static str, u32> {
            let (permits, fly) = (Arc::clone(&self.permits), self.fly());
            Box::new(move |worker, seal| {
                async move {
                    permits.acquire().await.expect("open").forget();
                    fly(worker, seal).await
                }
                .boxed()
            })
        }

        fn join(&self) -> Joined<&'static str, u32> {
            self.flights.join("k", 0, || self.fly()).expect("room")
        }

        fn queue(&self) -> Waiter<u32> {
            self.flights.queue("k", 0, || self.fly_with_permit()).expect("room")
        }

        fn wait(&self) -> Waiter<u32> {
            match self.join() {
                Joined::Wait(waiter) => waiter,
                Joined::Lead(_) => panic!("nothing is out"),
            }
        }

        async fn settle(&self) {
            while !self.flights.is_empty() {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn those_who_arrive_meanwhile_share_the_next() {
        let airport = Airport::new();
        let Joined::Lead(lead) = airport.join() else { panic!("nothing was out") };
        let (one, two) = (airport.wait(), airport.wait());
        tokio::task::yield_now().await;
        assert_eq!(airport.flown.load(Relaxed), 0, "the first has not returned");
        drop(lead);
        while airport.flown.load(Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let three = airport.wait();
        airport.returns.add_permits(1);
        assert_eq!((one.outcome().await, two.outcome().await), (Some(1), Some(1)));
        airport.returns.add_permits(1);
        assert_eq!(three.outcome().await, Some(2));
        airport.settle().await;
    }

    #[tokio::test]
    async fn a_batch_that_waits_for_its_turn_is_joined() {
        let airport = Airport::new();
        let one = airport.queue();
        tokio::task::yield_now().await;
        let two = airport.queue();
        assert!(airport.flights.is_open(&"k"));
        airport.permits.add_permits(1);
        airport.returns.add_permits(1);
        assert_eq!((one.outcome().await, two.outcome().await), (Some(1), Some(1)));
        airport.settle().await;
        assert!(!airport.flights.is_open(&"k"));
    }

    #[tokio::test]
    async fn a_waiter_that_leaves_takes_nobody_along_and_the_last_one_the_flight() {
        let airport = Airport::new();
        let (one, two) = (airport.queue(), airport.queue());
        airport.permits.add_permits(1);
        while airport.flown.load(Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        drop(one);
        tokio::task::yield_now().await;
        assert!(!airport.flights.is_empty());
        drop(two);
        airport.settle().await;
        // Neither has one that nobody waits for been flown after it.
        let Joined::Lead(lead) = airport.join() else { panic!("nothing was out") };
        drop(airport.wait());
        drop(lead);
        airport.settle().await;
        assert_eq!(airport.flown.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn waiters_are_bounded() {
        let airport = Airport::new();
        airport.flights.set_waiters_max(2);
        let _waiters = (airport.queue(), airport.queue());
        let refused = airport.flights.queue("k", 0, || airport.fly());
        assert_eq!(refused.expect_err("full"), TooMany { waiting: 2 });
    }

    #[tokio::test]
    async fn a_flight_that_panics_is_reported_and_holds_nobody_up() {
        let airport = Airport::new();
        let broken: Fly<&'static str, u32> =
            Box::new(|_, _| async { panic!("on purpose") }.boxed());
        let waiter = airport.flights.queue("k", 0, || broken).expect("room");
        assert_eq!(waiter.outcome().await, None);
        airport.settle().await;
    }
}
