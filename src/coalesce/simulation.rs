//! Flights under a clock that stands still until everybody waits, by thousands of seeds.
//!
//! The store is a number that a writer raises and is then told of. Reads arrive, wait for their turn
//! or lead, and some leave early. Nobody may get less than was acknowledged when it arrived, and
//! nothing may be left when all have gone.

use super::{
    flights::{Flights, Fly, Joined, Outcome},
    given::Given,
};
use futures_util::{FutureExt, future::join_all};
use seawall_testkit::{Choices, each_seed};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// What a read does, and when: all in milliseconds.
#[derive(Clone, Copy)]
struct Plan {
    arrives: Duration,
    /// Whether it waits for its turn even if nothing is out.
    queues: bool,
    /// How long it takes until its turn comes, to etcd, and back.
    legs: [Duration; 3],
    leaves: Option<Duration>,
    /// How long it is given what it gets.
    gives: Duration,
}

/// The number that was read.
type Read = Arc<(u32, Given)>;

impl Outcome for Read {
    fn given(&self) -> Option<&Given> {
        Some(&self.1)
    }
}

fn millis(choices: &mut Choices, of: usize) -> Duration {
    Duration::from_millis(choices.pick(of) as u64)
}

impl Plan {
    fn new(choices: &mut Choices) -> Self {
        Self {
            arrives: millis(choices, 60),
            queues: choices.pick(2) == 0,
            legs: [(); 3].map(|()| millis(choices, 10)),
            leaves: (choices.pick(4) == 0).then(|| millis(choices, 20)),
            gives: millis(choices, 20),
        }
    }
}

#[derive(Clone)]
struct World {
    flights: Arc<Flights<&'static str, Read>>,
    stored: Arc<AtomicU32>,
    acknowledged: Arc<AtomicU32>,
    /// Whether batches are closed before they are sent.
    seals: bool,
}

impl World {
    fn fly(&self, plan: Plan) -> Fly<&'static str, Read> {
        let Self { stored, seals, .. } = self.clone();
        Box::new(move |_, seal| {
            async move {
                let [turn, there, back] = plan.legs;
                sleep(turn).await;
                if seals {
                    seal.close();
                }
                sleep(there).await;
                let read = stored.load(SeqCst);
                sleep(back).await;
                Arc::new((read, Given::default()))
            }
            .boxed()
        })
    }

    async fn read(self, plan: Plan) -> Result<(), String> {
        sleep(plan.arrives).await;
        let floor = self.acknowledged.load(SeqCst);
        let reading = async {
            if plan.queues {
                let waiter = self.flights.queue("k", 0, || self.fly(plan)).expect("room");
                return waiter.outcome().await;
            }
            match self.flights.join("k", 0, || self.fly(plan)).expect("room") {
                Joined::Wait(waiter) => waiter.outcome().await,
                Joined::Lead(lead) => {
                    let [_, there, back] = plan.legs;
                    sleep(there).await;
                    let read = self.stored.load(SeqCst);
                    sleep(back).await;
                    drop(lead);
                    Some(Arc::new((read, Given::default())))
                }
            }
        };
        let patience = plan.leaves.unwrap_or(Duration::from_secs(60));
        match timeout(patience, reading).await {
            Ok(Some(read)) if read.0 >= floor => {
                sleep(plan.gives).await;
                Ok(())
            }
            Err(_) if plan.leaves.is_some() => Ok(()),
            outcome => Err(format!("{outcome:?} after {floor} was acknowledged")),
        }
    }

    async fn write(self, pauses: Vec<[Duration; 2]>) {
        for [before, until_told] in pauses {
            sleep(before).await;
            let stored = self.stored.fetch_add(1, SeqCst) + 1;
            sleep(until_told).await;
            self.acknowledged.store(stored, SeqCst);
        }
    }

    async fn run(self, choices: &mut Choices) -> Result<(), String> {
        let pauses = (0..10).map(|_| [(); 2].map(|()| millis(choices, 8))).collect();
        let reads: Vec<_> = (0..12).map(|_| self.clone().read(Plan::new(choices))).collect();
        let writing = self.clone().write(pauses);
        let (_, read) = tokio::join!(writing, join_all(reads));
        read.into_iter().collect::<Result<(), _>>()?;
        // Those that were left alone end by themselves.
        sleep(Duration::from_secs(1)).await;
        match self.flights.is_empty() {
            true => Ok(()),
            false => Err("a flight is left".to_owned()),
        }
    }
}

fn simulate(seals: bool) -> Result<(), String> {
    each_seed(0..2_000, |choices| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
        let world = World {
            flights: Flights::new(100),
            stored: Arc::default(),
            acknowledged: Arc::default(),
            seals,
        };
        runtime.block_on(world.run(choices))
    })
}

#[test]
fn nobody_sees_the_past_and_nothing_is_left() {
    simulate(true).unwrap_or_else(|wrong| panic!("{wrong}"));
}

#[test]
fn a_batch_that_is_joined_after_it_was_sent_is_found_out() {
    let wrong = simulate(false).expect_err("a mistake");
    assert!(wrong.contains("was acknowledged"), "{wrong}");
}
