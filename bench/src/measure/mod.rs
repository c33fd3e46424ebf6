//! Closed loops: each waits for its answer and asks again, and what that took is counted. Open
//! loops are in [`paced`].

mod alarm;
mod apart;
mod paced;
mod processes;

pub(crate) use alarm::Precision;
pub(crate) use apart::Apart;
pub(crate) use paced::{Pace, run_paced};
pub(crate) use processes::{Cost, Costs, Processes, Readings, ensure_memory, forget_peak};

use crate::client::{Connection, Failure};
use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
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
    pub(crate) connection: Connection,
    pub(crate) operation: O,
}

/// When a loop stops to ask again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    Elapsed(Duration),
    Operations(u64),
}

/// What came of a measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measurement {
    #[serde(flatten)]
    pub(crate) figures: Figures,
    #[serde(flatten)]
    pub(crate) costs: Costs,
}

/// What came of some loops. Latencies are of the operations that were answered rightly, and of all
/// where a [`Pace`] says so.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    /// Those that were answered rightly.
    pub(crate) operations: u64,
    pub(crate) per_second: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// Those that were not, by reason.
    pub(crate) errors: BTreeMap<String, u64>,
    /// How many of them are answers that etcd never gives.
    pub(crate) violations: u64,
}

/// Far above any list behind any peer, so that only what hangs is cut off.
const OPERATION_MAX: Duration = Duration::from_secs(60);

/// Runs all loops at once, first for `warm_up` without counting.
pub(crate) async fn measure<O: Operation>(
    loops: Vec<Loop<O>>,
    warm_up: Option<Duration>,
    until: Until,
    processes: &Processes,
) -> Result<Measurement> {
    let mut loops = loops;
    if let Some(duration) = warm_up {
        loops = run(loops, Until::Elapsed(duration)).await?.0;
    }
    let before = processes.read()?;
    let (_, tally) = run(loops, until).await?;
    let costs = processes.read()?.since(&before);
    Ok(Measurement { figures: tally.figures(), costs })
}

pub(crate) async fn run<O: Operation>(
    loops: Vec<Loop<O>>,
    until: Until,
) -> Result<(Vec<Loop<O>>, Tally)> {
    let start = Instant::now();
    let mut running = JoinSet::new();
    for each in loops {
        running.spawn(each.run(start, until));
    }
    let (mut loops, mut tally) = (Vec::new(), Tally::new());
    while let Some(ended) = running.join_next().await {
        let (each, part) = ended?;
        loops.push(each);
        tally.add(&part);
    }
    Ok((loops, tally))
}

impl<O: Operation> Loop<O> {
    /// Ends early when the connection is gone: asking on would count one failure a thousand times.
    async fn run(mut self, start: Instant, until: Until) -> (Self, Tally) {
        let mut tally = Tally::new();
        while until.goes_on(start, tally.attempts) {
            let asked = Instant::now();
            let attempt = timeout(OPERATION_MAX, self.operation.perform(&self.connection)).await;
            let result = attempt.unwrap_or(Err(Failure::Timeout));
            tally.record(asked.elapsed(), &result);
            if let Err(Failure::Lost(_)) = result {
                break;
            }
        }
        tally.end(until.elapsed(start));
        (self, tally)
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

/// What one loop counted, or several.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    attempts: u64,
    operations: u64,
    bytes: u64,
    per_second: f64,
    bytes_per_second: f64,
    latency_us: Histogram<u64>,
    errors: BTreeMap<String, u64>,
    violations: u64,
}

impl Tally {
    fn new() -> Self {
        let highest_us = OPERATION_MAX.as_micros() as u64;
        Self {
            attempts: 0,
            operations: 0,
            bytes: 0,
            per_second: 0.0,
            bytes_per_second: 0.0,
            latency_us: Histogram::new_with_max(highest_us, 3).expect("the bounds are valid"),
            errors: BTreeMap::new(),
            violations: 0,
        }
    }

    fn record(&mut self, latency: Duration, result: &Result<u64, Failure>) {
        self.attempts += 1;
        match result {
            Ok(bytes) => {
                self.operations += 1;
                self.bytes += bytes;
                self.time(latency);
            }
            Err(failure) => {
                *self.errors.entry(failure.to_string()).or_default() += 1;
                self.violations += u64::from(failure.is_violation());
            }
        }
    }

    fn time(&mut self, latency: Duration) {
        self.latency_us.saturating_record(latency.as_micros() as u64);
    }

    /// Rates are of each loop over its own time, and then summed: a loop whose last list ends early
    /// does not idle in the figures until the slowest has ended.
    fn end(&mut self, elapsed: Duration) {
        self.per_second = self.operations as f64 / elapsed.as_secs_f64();
        self.bytes_per_second = self.bytes as f64 / elapsed.as_secs_f64();
    }

    pub(crate) fn add(&mut self, part: &Self) {
        self.attempts += part.attempts;
        self.operations += part.operations;
        self.bytes += part.bytes;
        self.per_second += part.per_second;
        self.bytes_per_second += part.bytes_per_second;
        self.latency_us.add(&part.latency_us).expect("all have the same bounds");
        for (reason, count) in &part.errors {
            *self.errors.entry(reason.clone()).or_default() += count;
        }
        self.violations += part.violations;
    }

    pub(crate) fn figures(self) -> Figures {
        let quantile_ms = |q| self.latency_us.value_at_quantile(q) as f64 / 1000.0;
        Figures {
            operations: self.operations,
            per_second: self.per_second,
            bytes_per_second: self.bytes_per_second,
            p50_ms: quantile_ms(0.5),
            p99_ms: quantile_ms(0.99),
            max_ms: self.latency_us.max() as f64 / 1000.0,
            errors: self.errors,
            violations: self.violations,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::scripted::{self, Outcome, Reply},
        workload::Put,
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
        let loops = vec![Loop { connection, operation: Put::new(0) }];
        let measured = measure(loops, None, until, &Processes::only_client()).await;
        measured.expect("loops do not panic").figures
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
        let new = |n| Loop { connection: connection.clone(), operation: Put::new(n) };
        let until = Until::Elapsed(Duration::from_secs(10));
        let loops = (0..16).map(new).collect();
        let measured = measure(loops, None, until, &Processes::only_client()).await;
        assert_near(measured.expect("loops do not panic").figures.per_second, 160.0);
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
                ("gRPC status 14", 10),
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
    async fn what_warms_up_is_not_counted() {
        let connection = scripted::connect(|n| right(if n < 5 { 900 } else { 20 }, n)).await;
        let loops = vec![Loop { connection, operation: Put::new(0) }];
        let (warm_up, until) = (Some(Duration::from_millis(4000)), Until::Operations(10));
        let measured = measure(loops, warm_up, until, &Processes::only_client()).await;
        assert_near(measured.expect("loops do not panic").figures.max_ms, 20.0);
    }
}
