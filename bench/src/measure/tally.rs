use super::OPERATION_MAX;
use crate::client::Failure;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// What came of some loops. Latencies are of the operations that were answered rightly, and of all
/// where a [`super::Pace`] says so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Those that were answered rightly.
    pub(crate) operations: u64,
    pub(crate) per_second: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
    /// Milliseconds at each of [`QUANTILES`].
    pub(crate) curve_ms: Vec<f64>,
    /// Those that were not, by reason.
    pub(crate) errors: BTreeMap<String, u64>,
    /// How many of them are answers that etcd never gives.
    pub(crate) violations: u64,
    /// By the second in which they were meant to begin.
    pub(crate) seconds: Vec<Second>,
}

/// Where the latency curve is drawn through.
pub(crate) const QUANTILES: [f64; 12] =
    [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 1.0];

/// One second of a time line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Second {
    /// Since the counted part of the sample began.
    pub(crate) second: u64,
    pub(crate) operations: u64,
    pub(crate) errors: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

impl Figures {
    pub(crate) fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// What some loops have counted so far.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// From which seconds are counted.
    epoch: Instant,
    operations: u64,
    per_second: f64,
    bytes_per_second: f64,
    latency_us: Histogram<u64>,
    errors: BTreeMap<String, u64>,
    violations: u64,
    seconds: BTreeMap<u64, Bucket>,
}

#[derive(Clone, Debug)]
struct Bucket {
    operations: u64,
    errors: u64,
    latency_us: Histogram<u64>,
}

/// An operation that has ended.
#[derive(Debug)]
pub(crate) struct Outcome<'a> {
    /// When it was meant to begin.
    pub(crate) intended: Instant,
    pub(crate) took: Duration,
    pub(crate) result: &'a Result<u64, Failure>,
    /// Whether its latency counts even if it failed.
    pub(crate) is_timed: bool,
}

impl Tally {
    pub(crate) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            operations: 0,
            per_second: 0.0,
            bytes_per_second: 0.0,
            latency_us: histogram(3),
            errors: BTreeMap::new(),
            violations: 0,
            seconds: BTreeMap::new(),
        }
    }

    pub(crate) fn record(&mut self, outcome: &Outcome<'_>) {
        let second = outcome.intended.saturating_duration_since(self.epoch).as_secs();
        let bucket = self.seconds.entry(second).or_insert_with(Bucket::new);
        match outcome.result {
            Ok(_) => {
                self.operations += 1;
                bucket.operations += 1;
            }
            Err(failure) => {
                bucket.errors += 1;
                *self.errors.entry(failure.to_string()).or_default() += 1;
                self.violations += u64::from(failure.is_violation());
            }
        }
        if outcome.result.is_ok() || outcome.is_timed {
            let micros = outcome.took.as_micros() as u64;
            self.latency_us.saturating_record(micros);
            bucket.latency_us.saturating_record(micros);
        }
    }

    /// Adds what one loop did in the time it had. Rates of loops are summed: one whose last list ends
    /// early does not idle in the figures until the slowest has ended.
    pub(crate) fn add_rate(&mut self, operations: u64, bytes: u64, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        if seconds > 0.0 {
            self.per_second += operations as f64 / seconds;
            self.bytes_per_second += bytes as f64 / seconds;
        }
    }

    pub(crate) fn figures(&self) -> Figures {
        let quantile = |q| quantile_ms(&self.latency_us, q);
        let second = |(&second, bucket): (&u64, &Bucket)| Second {
            second,
            operations: bucket.operations,
            errors: bucket.errors,
            p50_ms: quantile_ms(&bucket.latency_us, 0.5),
            p99_ms: quantile_ms(&bucket.latency_us, 0.99),
            max_ms: bucket.latency_us.max() as f64 / 1000.0,
        };
        Figures {
            operations: self.operations,
            per_second: self.per_second,
            bytes_per_second: self.bytes_per_second,
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            p999_ms: quantile(0.999),
            max_ms: self.latency_us.max() as f64 / 1000.0,
            curve_ms: QUANTILES.map(quantile).to_vec(),
            errors: self.errors.clone(),
            violations: self.violations,
            seconds: self.seconds.iter().map(second).collect(),
        }
    }
}

impl Bucket {
    fn new() -> Self {
        Self { operations: 0, errors: 0, latency_us: histogram(2) }
    }
}

fn histogram(digits: u8) -> Histogram<u64> {
    let highest_us = OPERATION_MAX.as_micros() as u64;
    Histogram::new_with_max(highest_us, digits).expect("the bounds are valid")
}

fn quantile_ms(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}
