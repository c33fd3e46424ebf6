//! How many lists etcd bears at once.

use std::time::Duration;

/// Finds it out by the latency of small reads, which is the same whatever lists return, and of what
/// watches deliver: additive growth while it stays near what it is at rest, multiplicative decrease
/// beyond.
#[derive(Debug)]
pub struct Limiter {
    min: f64,
    max: f64,
    /// What latency may grow by, in seconds.
    margin: f64,
    limit: f64,
    /// Latency without lists, in seconds; `None` until it was seen.
    rest: Option<f64>,
}

/// One look at the cluster.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub latency: Duration,
    /// Lists under way while it was taken.
    pub running: u32,
    /// Whether others waited for their turn: only then does a higher limit mean anything.
    pub waiting: bool,
}

/// A decrease that etcd's queues can follow within a few samples.
const DECREASE: f64 = 0.7;
const INCREASE: f64 = 0.25;
/// Share of the newest sample in the latency at rest.
const NEWEST: f64 = 0.1;

impl Limiter {
    pub fn new(min: u32, max: u32, margin: Duration) -> Self {
        let (min, max) = (f64::from(min.max(1)), f64::from(max.max(1)));
        Self { min, max, margin: margin.as_secs_f64(), limit: max, rest: None }
    }

    pub fn reconfigure(&mut self, min: u32, max: u32, margin: Duration) {
        let Self { limit, rest, .. } = *self;
        *self = Self { rest, ..Self::new(min, max, margin) };
        self.limit = limit.clamp(self.min, self.max);
    }

    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    pub fn sample(&mut self, sample: Sample) {
        let latency = sample.latency.as_secs_f64();
        if sample.running == 0 {
            let rest = self.rest.unwrap_or(latency);
            self.rest = Some(rest + (latency - rest) * NEWEST);
            return;
        }
        let bearable = self.rest.unwrap_or(0.0) + self.margin;
        if latency > bearable {
            self.limit = (self.limit * DECREASE).max(self.min);
        } else if sample.waiting {
            self.limit = (self.limit + INCREASE).min(self.max);
        }
    }

    /// etcd says itself that it has too much to do, or does not answer at all.
    pub fn overloaded(&mut self) {
        self.limit = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter() -> Limiter {
        Limiter::new(1, 8, Duration::from_millis(5))
    }

    fn sample(millis: u64, running: u32) -> Sample {
        Sample { latency: Duration::from_millis(millis), running, waiting: true }
    }

    #[test]
    fn lists_that_slow_small_reads_down_become_fewer() {
        let mut limiter = limiter();
        limiter.sample(sample(1, 0));
        for _ in 0..10 {
            limiter.sample(sample(20, limiter.limit()));
        }
        assert_eq!(limiter.limit(), 1);
        for _ in 0..40 {
            limiter.sample(sample(2, limiter.limit()));
        }
        assert_eq!(limiter.limit(), 8);
    }

    #[test]
    fn a_cluster_that_is_slow_at_rest_is_not_blamed_on_lists() {
        let mut limiter = limiter();
        for _ in 0..100 {
            limiter.sample(sample(50, 0));
        }
        limiter.sample(sample(52, 8));
        assert_eq!(limiter.limit(), 8);
        limiter.sample(sample(60, 8));
        assert_eq!(limiter.limit(), 5);
    }

    #[test]
    fn it_does_not_grow_without_need() {
        let mut limiter = limiter();
        limiter.overloaded();
        limiter.sample(Sample { waiting: false, ..sample(1, 1) });
        assert_eq!(limiter.limit(), 1);
    }
}
