//! Closed loops: each waits for its answer and asks again, and what that took is counted. Open
//! loops are in [`paced`].

mod alarm;
mod apart;
mod meter;
mod paced;
mod tally;
mod wire;

pub(crate) use alarm::Precision;
pub(crate) use apart::Apart;
pub(crate) use meter::{Cost, Group, Meter, Reading, ensure_memory, ensure_wire};
pub(crate) use paced::{Pace, Schedule, run_at, run_paced};
pub(crate) use tally::{Figures, Outcome, QUANTILES, Second, Tally};

use crate::client::{Channel, Connection, Failure};
use anyhow::Result;
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// What a loop does again and again.
pub(crate) trait Operation: Send + 'static {
    /// Asks once and checks the answer, whose size it returns.
    fn perform(
        &mut self,
        connection: &Connection,
    ) -> impl Future<Output = Result<u64, Failure>> + Send;
}

/// One request in flight, on a connection that others may share.
#[derive(Debug)]
pub(crate) struct Loop<O> {
    pub(crate) channel: Channel,
    pub(crate) operation: O,
}

/// When a loop stops to ask again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    Elapsed(Duration),
    /// Of each loop.
    Operations(u64),
}

/// Far above any list behind any peer, so that only what hangs is cut off.
const OPERATION_MAX: Duration = Duration::from_secs(60);

/// Whoever lost its connection does not ask for another at once, and then again.
const PAUSE_AFTER_LOSS: Duration = Duration::from_millis(100);

/// Runs all loops at once, as tasks of the scheduler it is called on. Seconds count from `epoch`.
pub(crate) async fn run<O: Operation>(
    loops: Vec<Loop<O>>,
    until: Until,
    epoch: Instant,
) -> Result<(Vec<Loop<O>>, Tally)> {
    let start = Instant::now();
    // Locked for each outcome, for moments; all loops are on one thread.
    let tally = Arc::new(Mutex::new(Tally::new(epoch)));
    let mut running = JoinSet::new();
    for each in loops {
        running.spawn(each.run(start, until, Arc::clone(&tally)));
    }
    let mut loops = Vec::new();
    while let Some(ended) = running.join_next().await {
        loops.push(ended?);
    }
    let tally = tally.lock().clone();
    Ok((loops, tally))
}

impl<O: Operation> Loop<O> {
    async fn run(mut self, start: Instant, until: Until, tally: Arc<Mutex<Tally>>) -> Self {
        let (mut attempts, mut operations, mut bytes) = (0, 0, 0);
        while until.goes_on(start, attempts) {
            let asked = Instant::now();
            let result = self.once().await;
            attempts += 1;
            if let Ok(size) = &result {
                operations += 1;
                bytes += size;
            }
            let took = asked.elapsed();
            tally.lock().record(&Outcome {
                intended: asked,
                took,
                result: &result,
                is_timed: false,
            });
            if result.is_err_and(|failure| failure.is_loss()) {
                if !self.channel.can_reopen() {
                    break;
                }
                sleep(PAUSE_AFTER_LOSS).await;
            }
        }
        tally.lock().add_rate(operations, bytes, until.elapsed(start));
        self
    }

    /// Asks once, on another connection if the last was lost.
    async fn once(&mut self) -> Result<u64, Failure> {
        let attempt = async {
            let connection = self.channel.connection().await;
            let connection = connection.map_err(|_| Failure::Lost("no connection".to_owned()))?;
            let result = self.operation.perform(&connection).await;
            if result.as_ref().is_err_and(Failure::is_loss) {
                self.channel.give_up(&connection).await;
            }
            result
        };
        timeout(OPERATION_MAX, attempt).await.unwrap_or(Err(Failure::Timeout))
    }
}

impl Until {
    fn goes_on(self, start: Instant, attempts: u64) -> bool {
        match self {
            Self::Elapsed(duration) => attempts == 0 || start.elapsed() < duration,
            Self::Operations(count) => attempts < count,
        }
    }

    /// The time a loop had. One that lost its connection could have gone on to the end.
    fn elapsed(self, start: Instant) -> Duration {
        match self {
            Self::Elapsed(duration) => start.elapsed().max(duration),
            Self::Operations(_) => start.elapsed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::scripted::{self, Outcome, Reply},
        operation::Put,
    };

    fn after(millis: u64, outcome: Outcome) -> Reply {
        Reply { latency: Duration::from_millis(millis), outcome }
    }

    fn right(millis: u64, n: u64) -> Reply {
        after(millis, Outcome::Revision(n as i64 + 1))
    }

    /// Puts in one loop, each answered as the script says.
    async fn puts(until: Until, script: impl Fn(u64) -> Reply + Send + Sync + 'static) -> Figures {
        let connection = scripted::connect(script).await;
        let channel = Channel::once(connection);
        let loops = vec![Loop { channel, operation: Put::scripted(0) }];
        figures(loops, until).await
    }

    async fn figures(loops: Vec<Loop<Put>>, until: Until) -> Figures {
        let (_, tally) = run(loops, until, Instant::now()).await.expect("loops do not panic");
        tally.figures()
    }

    fn assert_near(value: f64, expected: f64) {
        assert!((value / expected - 1.0).abs() < 0.05, "{value} is not near {expected}");
    }

    #[tokio::test(start_paused = true)]
    async fn latencies_and_rates_are_those_of_the_server() {
        // Of 200 calls 4 are slow, so that the slowest hundredth is among them.
        let script = |n| right(if n % 50 == 7 { 500 } else { 20 }, n);
        let measured = puts(Until::Operations(200), script).await;
        assert_eq!((measured.operations, measured.errors.len()), (200, 0));
        assert_near(measured.p50_ms, 20.0);
        assert_near(measured.p99_ms, 500.0);
        assert_near(measured.max_ms, 500.0);
        assert_near(measured.per_second, 200.0 / (196.0 * 0.020 + 4.0 * 0.500));
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_asks_until_the_time_is_over() {
        let measured = puts(Until::Elapsed(Duration::from_secs(10)), |n| right(100, n)).await;
        assert_near(measured.per_second, 10.0);
        assert_near(measured.operations as f64, 100.0);
    }

    #[tokio::test(start_paused = true)]
    async fn loops_in_flight_together_add_up() {
        let connection = scripted::connect(|n| right(100, n)).await;
        let channel = Channel::once(connection);
        let new = |n| Loop { channel: channel.clone(), operation: Put::scripted(n) };
        let until = Until::Elapsed(Duration::from_secs(10));
        assert_near(figures((0..16).map(new).collect(), until).await.per_second, 160.0);
    }

    #[tokio::test(start_paused = true)]
    async fn losses_are_counted_by_reason_and_have_no_latency() {
        let measured = puts(Until::Operations(100), |n| match n % 10 {
            3 => after(900, Outcome::Status(14)),
            5 => after(900, Outcome::Reset),
            7 if n == 7 => after(900, Outcome::Silence),
            9 if n == 9 => after(900, Outcome::Body("\0\0\0\0\x02\x0a".into())),
            _ => right(20, n),
        })
        .await;
        let errors: Vec<_> = measured.errors.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        assert_eq!(
            errors,
            [
                ("UNAVAILABLE", 10),
                ("no answer in time", 1),
                ("stream reset: stream no longer needed", 10),
                ("wrong answer: a message that is cut short", 1),
            ]
        );
        assert_eq!((measured.operations, measured.violations), (78, 1));
        assert_near(measured.max_ms, 20.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_revision_that_does_not_grow_is_an_error() {
        let script = |n| after(20, Outcome::Revision(if n == 5 { 5 } else { n as i64 + 1 }));
        let measured = puts(Until::Operations(10), script).await;
        let expected = ("wrong answer: a revision that does not grow".to_owned(), 1);
        assert_eq!(measured.errors.into_iter().collect::<Vec<_>>(), [expected]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_ends_its_loop_and_counts_once() {
        let until = Until::Elapsed(Duration::from_secs(10));
        let measured = puts(until, |n| match n {
            50 => after(0, Outcome::HangUp),
            _ => right(100, n),
        })
        .await;
        assert_eq!(measured.operations, 50);
        assert_eq!(measured.errors.values().sum::<u64>(), 1, "{:?}", measured.errors);
        // The rate is over the whole time, of which the connection lasted half.
        assert_near(measured.per_second, 5.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_line_shows_in_which_second_the_server_stalled() {
        // Ten a second; the eleventh takes two seconds and a half.
        let script = |n| right(if n == 10 { 2500 } else { 100 }, n);
        let measured = puts(Until::Elapsed(Duration::from_secs(6)), script).await;
        let line: Vec<_> = measured.seconds.iter().map(|s| (s.second, s.operations)).collect();
        assert_eq!(line, [(0, 10), (1, 1), (3, 5), (4, 10), (5, 10)]);
        assert_near(measured.seconds[1].max_ms, 2500.0);
        assert_near(measured.seconds[0].p99_ms, 100.0);
    }
}
