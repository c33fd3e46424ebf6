//! What the pass-through run measured.

use super::{
    figures::{self, BYTES_PER_MIB},
    rows::{Row, before_mib, peak_mib, table},
};
use crate::{
    measure::{Cost, Costs, Figures, Measurement},
    target::Target,
    workload::{Experiment, Workload},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

/// One experiment of one target in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    #[serde(flatten)]
    pub(crate) experiment: Experiment,
    pub(crate) target: Target,
    pub(crate) round: usize,
    #[serde(flatten)]
    pub(crate) measurement: Measurement,
}

impl super::Sample for Sample {
    type Experiment = Experiment;

    fn experiment(&self) -> Experiment {
        self.experiment
    }

    fn target(&self) -> Target {
        self.target
    }

    fn round(&self) -> usize {
        self.round
    }

    fn costs(&self) -> &Costs {
        &self.measurement.costs
    }

    fn errors(&self) -> Vec<(&'static str, &BTreeMap<String, u64>)> {
        vec![("", &self.figures().errors)]
    }

    fn is_right(&self) -> bool {
        self.figures().errors.is_empty()
    }

    fn tables(out: &mut impl Write, samples: &[Self]) -> fmt::Result {
        let of = |workloads: &[Workload]| -> Vec<_> {
            samples.iter().filter(|s| workloads.contains(&s.experiment.workload)).collect()
        };
        small_operations(out, &of(&[Workload::Get, Workload::Put, Workload::Txn]))?;
        lists(out, &of(&[Workload::List100]))?;
        memory(out, &of(&[Workload::Mem100]))
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = figures::number(self.figures().per_second);
        let errors: u64 = self.figures().errors.values().sum();
        write!(f, "{} {}: {per_second}/s, {errors} errors", self.experiment, self.target)
    }
}

fn small_operations(out: &mut impl Write, samples: &[&Sample]) -> fmt::Result {
    let columns = [
        "ops/s",
        "p50 ms",
        "p99 ms",
        "etcd CPU s/1000",
        "peer CPU s/1000",
        "client CPU s/1000",
        "peer peak MiB",
        "errors",
    ];
    table(out, "Small operations", &columns, samples, |row| {
        vec![
            row.rate(|s| s.figures().per_second),
            row.latency(|m| m.p50_ms),
            row.latency(|m| m.p99_ms),
            row.cpu_per(1000.0, |c| c.etcd),
            row.cpu_per(1000.0, |c| c.peer),
            row.cpu_per(1000.0, |c| Some(c.client)),
            row.cost(|c| c.peer, peak_mib),
            row.errors(),
        ]
    })
}

fn lists(out: &mut impl Write, samples: &[&Sample]) -> fmt::Result {
    let columns = [
        "lists/s",
        "MiB/s",
        "p50 ms",
        "max ms",
        "etcd CPU s/list",
        "peer CPU s/list",
        "client CPU s/list",
        "etcd peak MiB",
        "peer peak MiB",
        "errors",
    ];
    table(out, "Lists", &columns, samples, |row| {
        vec![
            row.rate(|s| s.figures().per_second),
            row.spread(|s| s.figures().bytes_per_second / BYTES_PER_MIB),
            row.latency(|m| m.p50_ms),
            row.latency(|m| m.max_ms),
            row.cpu_per(1.0, |c| c.etcd),
            row.cpu_per(1.0, |c| c.peer),
            row.cpu_per(1.0, |c| Some(c.client)),
            row.cost(|c| c.etcd, peak_mib),
            row.cost(|c| c.peer, peak_mib),
            row.errors(),
        ]
    })
}

fn memory(out: &mut impl Write, samples: &[&Sample]) -> fmt::Result {
    let columns = [
        "etcd before MiB",
        "etcd peak MiB",
        "etcd growth / list in flight MiB",
        "peer before MiB",
        "peer peak MiB",
        "peer growth / list in flight MiB",
        "lists/s",
        "MiB/s",
        "p50 ms",
        "errors",
    ];
    table(out, "Memory", &columns, samples, |row| {
        let growth = |cost: Cost| (peak_mib(cost) - before_mib(cost)) / row.in_flight();
        vec![
            row.cost(|c| c.etcd, before_mib),
            row.cost(|c| c.etcd, peak_mib),
            row.cost(|c| c.etcd, growth),
            row.cost(|c| c.peer, before_mib),
            row.cost(|c| c.peer, peak_mib),
            row.cost(|c| c.peer, growth),
            row.rate(|s| s.figures().per_second),
            row.spread(|s| s.figures().bytes_per_second / BYTES_PER_MIB),
            row.latency(|m| m.p50_ms),
            row.errors(),
        ]
    })
}

impl Sample {
    fn figures(&self) -> &Figures {
        &self.measurement.figures
    }
}

impl Row<'_, Sample> {
    fn in_flight(&self) -> f64 {
        self.samples[0].experiment.in_flight as f64
    }

    /// Of the samples that have any.
    fn latency(&self, figure: impl Fn(&Figures) -> f64) -> String {
        self.some(|sample| (sample.figures().operations > 0).then(|| figure(sample.figures())))
    }

    /// Processor time for so many operations.
    fn cpu_per(&self, operations: f64, of: impl Fn(&Costs) -> Option<Cost>) -> String {
        self.some(|sample| {
            let counted = sample.figures().operations;
            let cost = of(&sample.measurement.costs).filter(|_| counted > 0)?;
            Some(cost.cpu_seconds / counted as f64 * operations)
        })
    }

    fn errors(&self) -> String {
        self.sum(|sample| sample.figures().errors.values().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::errors;

    fn cost(cpu_seconds: f64) -> Cost {
        Cost { cpu_seconds, rss_before_bytes: 16 << 20, rss_peak_bytes: 48 << 20 }
    }

    fn sample(target: Target, round: usize, per_second: f64) -> Sample {
        let peer = (target != Target::Direct).then_some(cost(0.5));
        Sample {
            experiment: Experiment { workload: Workload::Get, in_flight: 16 },
            target,
            round,
            measurement: Measurement {
                figures: Figures {
                    operations: 10_000,
                    per_second,
                    bytes_per_second: per_second * BYTES_PER_MIB,
                    p50_ms: 1.0,
                    p99_ms: 2.0,
                    max_ms: 3.0,
                    errors: BTreeMap::new(),
                    violations: 0,
                },
                costs: Costs { etcd: Some(cost(2.0)), peer, client: cost(0.25), others_cores: 0.0 },
            },
        }
    }

    fn written(
        table: impl Fn(&mut String, &[&Sample]) -> fmt::Result,
        samples: &[Sample],
    ) -> Vec<String> {
        let mut text = String::new();
        table(&mut text, &samples.iter().collect::<Vec<_>>()).expect("a string takes everything");
        text.lines().filter(|line| line.starts_with("| get")).map(str::to_owned).collect()
    }

    #[test]
    fn ratios_are_to_direct_in_the_same_round() {
        let samples = [
            sample(Target::Direct, 0, 1000.0),
            sample(Target::Seawall, 0, 500.0),
            sample(Target::Seawall, 1, 1600.0),
            sample(Target::Direct, 1, 2000.0),
            sample(Target::Direct, 2, 3000.0),
        ];
        let rows = written(small_operations, &samples);
        assert!(rows[0].contains("| direct | 2,000 (1,000–3,000) | 1.00"), "{}", rows[0]);
        // Medians of 0.5 and 0.8, not 1,050 of 2,000.
        assert!(rows[1].contains("| seawall | 1,050 (500–1,600) ×0.65 |"), "{}", rows[1]);
    }

    #[test]
    fn costs_are_for_a_thousand_operations_and_direct_has_no_peer() {
        let samples = [sample(Target::Direct, 0, 1000.0), sample(Target::Seawall, 0, 500.0)];
        let rows = written(small_operations, &samples);
        assert!(rows[0].ends_with("| 0.20 | – | 0.025 | – | 0 |"), "{}", rows[0]);
        assert!(rows[1].ends_with("| 0.20 | 0.050 | 0.025 | 48.0 | 0 |"), "{}", rows[1]);
    }

    #[test]
    fn memory_growth_is_for_each_list_in_flight() {
        let rows = written(memory, &[sample(Target::Seawall, 0, 8.0)]);
        assert!(rows[0].contains("| 16.0 | 48.0 | 2.00 | 16.0 | 48.0 | 2.00 |"), "{}", rows[0]);
    }

    #[test]
    fn a_target_that_answered_nothing_has_a_row_with_its_errors() {
        let mut silent = sample(Target::Seawall, 1, 0.0);
        silent.measurement.figures.operations = 0;
        silent.measurement.figures.errors.insert("no answer in time".to_owned(), 16);
        let rows = written(small_operations, std::slice::from_ref(&silent));
        assert!(rows[0].contains("| 0 | – | – | – | – | – | 48.0 | 16 |"), "{}", rows[0]);
        let mut text = String::new();
        errors(&mut text, &[silent]).expect("a string takes everything");
        assert!(text.ends_with("- get-16 of seawall, round 2: 16 × no answer in time\n"), "{text}");
    }
}
