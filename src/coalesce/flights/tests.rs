use super::*;
use futures_util::{FutureExt, future::join};
use std::sync::atomic::AtomicU32;
use tokio::{
    sync::Semaphore,
    task::yield_now,
    time::{Instant, sleep},
};

impl Outcome for u32 {
    fn given(&self) -> Option<&Given> {
        None
    }
}

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
            yield_now().await;
        }
    }
}

#[tokio::test]
async fn those_who_arrive_meanwhile_share_the_next() {
    let airport = Airport::new();
    let Joined::Lead(lead) = airport.join() else { panic!("nothing was out") };
    let (one, two) = (airport.wait(), airport.wait());
    yield_now().await;
    assert_eq!(airport.flown.load(Relaxed), 0, "the first has not returned");
    drop(lead);
    while airport.flown.load(Relaxed) == 0 {
        yield_now().await;
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
    yield_now().await;
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
        yield_now().await;
    }
    drop(one);
    yield_now().await;
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
    let broken: Fly<&'static str, u32> = Box::new(|_, _| async { panic!("on purpose") }.boxed());
    let waiter = airport.flights.queue("k", 0, || broken).expect("room");
    assert_eq!(waiter.outcome().await, None);
    airport.settle().await;
}

/// An answer that is given for as long as somebody has it.
type Answer = Arc<Given>;

impl Outcome for Answer {
    fn given(&self) -> Option<&Given> {
        Some(self)
    }
}

/// Two waiters, the second of whom arrives when the first one's flight, of a second, was sent; the
/// first one's answer, and the second's outcome.
async fn one_after_the_other() -> (Answer, impl Future<Output = Option<Answer>>) {
    let flights: Arc<Flights<&str, Answer>> = Flights::new(100);
    let fly = || -> Fly<&'static str, Answer> {
        Box::new(|_, seal| {
            async move {
                seal.close();
                sleep(FLIGHT).await;
                Answer::default()
            }
            .boxed()
        })
    };
    let one = flights.queue("k", 0, fly).expect("room");
    while flights.is_open(&"k") {
        yield_now().await;
    }
    let two = flights.queue("k", 0, fly).expect("room");
    (one.outcome().await.expect("an answer"), two.outcome())
}

const FLIGHT: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn the_next_flight_leaves_when_the_answer_has_been_given() {
    let (answer, two) = one_after_the_other().await;
    let began = Instant::now();
    let giving = FLIGHT / 4;
    let (_, two) = join(async move { (sleep(giving).await, drop(answer)) }, two).await;
    assert!(two.is_some());
    assert_eq!(began.elapsed(), giving + FLIGHT);
}

#[tokio::test(start_paused = true)]
async fn who_reads_slowly_holds_the_next_flight_up_for_no_longer_than_one() {
    let (_answer, two) = one_after_the_other().await;
    let began = Instant::now();
    assert!(two.await.is_some());
    assert_eq!(began.elapsed(), 2 * FLIGHT);
}
