use crate::{
    client::{Channel, Dial},
    measure::{Apart, Loop, Pace, Precision, Tally, Until, run, run_paced},
    operation::{Asked, Ground},
    scenario::{Load, Workload},
};
use anyhow::Result;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// The loops of one workload, between its phases.
pub(super) struct Hands {
    pub(super) workload: Workload,
    apart: Arc<Apart>,
    loops: Vec<Loop<Asked>>,
}

impl Hands {
    /// Opens the connections, on the thread that is going to use them.
    pub(super) async fn ready(
        workload: &Workload,
        apart: &Arc<Apart>,
        dial: &Dial,
        ground: &Arc<Ground>,
        offset: usize,
    ) -> Result<Self> {
        let of = in_flight(workload, ground);
        let (ask, dial, ground) = (workload.ask, dial.clone(), Arc::clone(ground));
        let connections = workload.connections.min(of);
        let loops = apart.run(async move {
            let mut channels = Vec::new();
            for n in 0..connections {
                channels.push(Channel::open(&dial, offset + n).await?);
            }
            let new = |(index, channel): (usize, &Channel)| Loop {
                channel: channel.clone(),
                operation: Asked::new(ask, &ground, index, of),
            };
            Ok((0..of).zip(channels.iter().cycle()).map(new).collect())
        });
        let (workload, apart) = (workload.clone(), Arc::clone(apart));
        Ok(Self { workload, loops: loops.await?, apart })
    }

    /// Asks for so long, or as often as the load says.
    pub(super) async fn work(self, lasts: Duration, epoch: Instant) -> Result<(Self, Tally)> {
        let Self { workload, apart, loops } = self;
        // Failures of what is to be quick count with the time they took; a list that is refused at
        // once must not look like one that was answered at once.
        let times_failures = !workload.ask.is_heavy();
        let precision =
            if times_failures { Precision::Microseconds } else { Precision::Milliseconds };
        let pace =
            move |per_second, duration| Pace { per_second, duration, times_failures, precision };
        let load = workload.load;
        let (loops, tally) = apart
            .run(async move {
                match load {
                    Load::Closed { operations: None, .. } => {
                        run(loops, Until::Elapsed(lasts), epoch).await
                    }
                    Load::Closed { operations: Some(operations), .. } => {
                        run(loops, Until::Operations(operations), epoch).await
                    }
                    Load::Open { per_second, .. } => {
                        run_paced(loops, pace(per_second, lasts), epoch).await
                    }
                    Load::Burst { requests, within, .. } => {
                        let per_second = requests as f64 / within.0.as_secs_f64();
                        run_paced(loops, pace(per_second, within.0), epoch).await
                    }
                }
            })
            .await?;
        Ok((Self { workload, apart, loops }, tally))
    }

    /// Whether what it does may be done before it counts: a burst is one because nothing came before.
    pub(super) fn warms_up(&self) -> bool {
        matches!(self.workload.load, Load::Open { .. } | Load::Closed { operations: None, .. })
    }
}

/// Those that write objects of their own are no more than there are objects; and one alone counts.
fn in_flight(workload: &Workload, ground: &Ground) -> usize {
    use crate::scenario::Ask;
    let in_flight = workload.load.in_flight();
    match workload.ask {
        Ask::Counter { .. } => 1,
        Ask::Update { of } | Ask::Put { of } => in_flight.min(ground.data.count(of)),
        _ => in_flight,
    }
}
