//! Open loops: operations begin when they are meant to, however long those before them take.

use super::{Loop, Operation, Outcome, Precision, Tally, alarm::Alarm};
use crate::client::Failure;
use anyhow::{Result, ensure};
use std::{collections::VecDeque, time::Duration};
use tokio::{task::JoinSet, time::Instant};

/// How many operations begin, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) per_second: f64,
    pub(crate) duration: Duration,
    /// Whether the latencies hold those of failures too. Where they do not, a target that fails
    /// what is slow looks fast; where they do, so does one that refuses at once.
    pub(crate) times_failures: bool,
    pub(crate) precision: Precision,
}

/// How operations that have their own times are counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Over which rates are.
    pub(crate) lasts: Duration,
    pub(crate) times_failures: bool,
    pub(crate) precision: Precision,
}

pub(crate) async fn run_paced<O: Operation>(
    loops: Vec<Loop<O>>,
    pace: Pace,
    epoch: Instant,
) -> Result<(Vec<Loop<O>>, Tally)> {
    let Pace { per_second, duration, times_failures, precision } = pace;
    let times = (0..pace.operations()).map(|n| Duration::from_secs_f64(n as f64 / per_second));
    run_at(loops, times, Schedule { lasts: duration, times_failures, precision }, epoch).await
}

/// One operation at each of these times from now on, which are in their order. Latencies count from
/// the intended time. If no loop is idle then, the operation begins when one is, and that wait is part
/// of what it took: nothing is left out because the target was slow.
pub(crate) async fn run_at<O: Operation>(
    loops: Vec<Loop<O>>,
    times: impl Iterator<Item = Duration>,
    schedule: Schedule,
    epoch: Instant,
) -> Result<(Vec<Loop<O>>, Tally)> {
    ensure!(!loops.is_empty(), "an open loop needs something that asks");
    let (mut alarm, start) = (Alarm::new(schedule.precision)?, Instant::now());
    let (mut idle, mut busy) = (VecDeque::from(loops), JoinSet::new());
    let mut count = Count { schedule, tally: Tally::new(epoch), operations: 0, bytes: 0 };
    for time in times {
        let intended = start + time;
        alarm.at(intended).await?;
        while let Some(ended) = busy.try_join_next() {
            idle.push_back(count.record(ended?));
        }
        if idle.is_empty()
            && let Some(ended) = busy.join_next().await
        {
            idle.push_back(count.record(ended?));
        }
        if let Some(each) = idle.pop_front() {
            busy.spawn(each.at(intended));
        }
    }
    while let Some(ended) = busy.join_next().await {
        idle.push_back(count.record(ended?));
    }
    let Count { mut tally, operations, bytes, .. } = count;
    tally.add_rate(operations, bytes, start.elapsed().max(schedule.lasts));
    Ok((idle.into(), tally))
}

/// What came of one operation, and the loop that made it.
struct Ended<O> {
    each: Loop<O>,
    intended: Instant,
    took: Duration,
    result: Result<u64, Failure>,
}

struct Count {
    schedule: Schedule,
    tally: Tally,
    operations: u64,
    bytes: u64,
}

impl Count {
    fn record<O>(&mut self, ended: Ended<O>) -> Loop<O> {
        let Ended { each, intended, took, result } = ended;
        if let Ok(size) = &result {
            self.operations += 1;
            self.bytes += size;
        }
        let is_timed = self.schedule.times_failures;
        self.tally.record(&Outcome { intended, took, result: &result, is_timed });
        each
    }
}

impl Pace {
    fn operations(&self) -> u64 {
        (self.per_second * self.duration.as_secs_f64()).round() as u64
    }
}

impl<O: Operation> Loop<O> {
    async fn at(mut self, intended: Instant) -> Ended<O> {
        let result = self.once().await;
        Ended { each: self, intended, took: intended.elapsed(), result }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::{
            Channel,
            scripted::{self, Outcome, Reply},
        },
        measure::Figures,
        operation::Put,
    };

    const TEN_A_SECOND: Pace = Pace {
        per_second: 10.0,
        duration: Duration::from_secs(10),
        times_failures: true,
        precision: Precision::Milliseconds,
    };

    /// 100 puts in ten seconds.
    async fn puts(loops: usize, pace: Pace, script: fn(u64) -> Reply) -> Figures {
        let mut idle = Vec::new();
        for _ in 0..loops {
            let channel = Channel::once(scripted::connect(script).await);
            idle.push(Loop { channel, operation: Put::scripted(0) });
        }
        let (idle, tally) =
            run_paced(idle, pace, Instant::now()).await.expect("loops do not panic");
        assert_eq!(idle.len(), loops);
        tally.figures()
    }

    fn assert_near(value: f64, expected: f64) {
        assert!((value / expected - 1.0).abs() < 0.05, "{value} is not near {expected}");
    }

    fn after(millis: u64, n: u64) -> Reply {
        let outcome = Outcome::Revision(n as i64 + 1);
        Reply { latency: Duration::from_millis(millis), outcome }
    }

    #[tokio::test(start_paused = true)]
    async fn operations_keep_their_pace() {
        let measured = puts(1, TEN_A_SECOND, |n| after(20, n)).await;
        assert_eq!(measured.operations, 100);
        assert_near(measured.per_second, 10.0);
        assert_near(measured.max_ms, 20.0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_behind_a_stall_is_late_from_its_intended_time() {
        // The first takes 2.02 s, during which 20 more were meant to begin.
        let measured = puts(1, TEN_A_SECOND, |n| after(if n == 0 { 2020 } else { 20 }, n)).await;
        assert_eq!(measured.operations, 100);
        assert_near(measured.max_ms, 2020.0);
        // From the second on each is 80 ms less late than the one before: 1,940, 1,860 and on.
        assert_near(measured.p99_ms, 1940.0);
        assert_near(measured.p50_ms, 20.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_of_one_loop_keeps_no_other_waiting() {
        let measured = puts(4, TEN_A_SECOND, |n| after(if n == 0 { 300 } else { 20 }, n)).await;
        assert_near(measured.max_ms, 300.0);
        assert_near(measured.p50_ms, 20.0);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_counted_and_timed_if_asked() {
        let script = |n| match n % 10 {
            3 => Reply { latency: Duration::from_millis(70), outcome: Outcome::Status(8) },
            _ => after(20, n),
        };
        let timed = puts(1, TEN_A_SECOND, script).await;
        assert_eq!((timed.operations, timed.errors["RESOURCE_EXHAUSTED"]), (90, 10));
        assert_near(timed.max_ms, 70.0);
        let untimed = puts(1, Pace { times_failures: false, ..TEN_A_SECOND }, script).await;
        assert_eq!((untimed.operations, untimed.errors["RESOURCE_EXHAUSTED"]), (90, 10));
        assert_near(untimed.max_ms, 20.0);
    }
}
