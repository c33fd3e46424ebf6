//! Who gets how much of a queue in which somebody always waits.

use super::{millis, still};
use crate::admission::{Flow, Priority, Queue, QueueConfig, Ticket};
use parking_lot::Mutex;
use seawall_testkit::{Choices, each_seed};
use std::{sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// Callers of one flow, each of which comes again as soon as it has gone.
#[derive(Debug, Clone)]
struct Crowd {
    flow: usize,
    callers: usize,
    cost: f64,
    /// How long each of them waits before it leaves.
    patience: Option<Duration>,
}

/// The time in which service is counted, once everybody is there.
const TIME: Duration = Duration::from_millis(1_500);

/// What a unit of cost takes.
const UNIT: Duration = Duration::from_millis(2);

impl Crowd {
    fn new(flow: usize, choices: &mut Choices) -> Self {
        Self {
            flow,
            callers: 3 + choices.pick(20),
            cost: 1.0 + choices.pick(4) as f64,
            // Longer than a turn takes to come to the only caller of a flow.
            patience: (choices.pick(2) == 0)
                .then(|| Duration::from_millis(60) + millis(choices, 40)),
        }
    }

    async fn call(self, queue: Arc<Queue>, flow: Flow, served: Arc<Mutex<Vec<f64>>>, end: Instant) {
        let patience = self.patience.unwrap_or(Duration::from_secs(60));
        while Instant::now() < end {
            let (priority, cost) = (Priority::Normal, self.cost);
            let ticket = Ticket { flow, priority, weight: 1, cost, deadline: None };
            let Ok(entered) = timeout(patience, queue.enter(ticket)).await else { continue };
            let slot = entered.expect("there is no bound");
            served.lock()[self.flow] += cost;
            sleep(UNIT.mul_f64(cost)).await;
            drop(slot);
        }
    }
}

/// Has crowds wait for one turn after the other and tells what each was served.
async fn serve(crowds: &[Crowd], in_order_of_arrival: bool) -> Vec<f64> {
    let config =
        QueueConfig { concurrency: 1, length_max: usize::MAX, wait_max: Duration::from_secs(60) };
    let queue = Arc::new(Queue::new(config));
    let served = Arc::new(Mutex::new(vec![0.0; crowds.len()]));
    let end = Instant::now() + TIME;
    let mut calls = JoinSet::new();
    for crowd in crowds {
        for _ in 0..crowd.callers {
            let flow = if in_order_of_arrival { Flow::of("all") } else { Flow::of(crowd.flow) };
            calls.spawn(crowd.clone().call(Arc::clone(&queue), flow, Arc::clone(&served), end));
        }
    }
    calls.join_all().await;
    let served = served.lock();
    served.clone()
}

fn simulate(in_order_of_arrival: bool) -> Result<(), String> {
    each_seed(0..300, |choices| {
        let crowds: Vec<_> = (0..3).map(|flow| Crowd::new(flow, choices)).collect();
        let served = still().block_on(serve(&crowds, in_order_of_arrival));
        let fair = served.iter().sum::<f64>() / served.len() as f64;
        match served.iter().all(|served| *served > fair / 2.0) {
            true => Ok(()),
            false => Err(format!("{served:?} to {crowds:?}")),
        }
    })
}

#[test]
fn no_flow_starves() {
    simulate(false).unwrap_or_else(|wrong| panic!("{wrong}"));
}

#[test]
fn a_queue_in_the_order_of_arrival_is_found_out() {
    simulate(true).expect_err("the larger crowd gets more");
}
