use super::{Sample, figures::Spread};
use crate::{
    measure::{Cost, Measurement},
    target::Target,
};
use std::fmt::{self, Write};

/// The samples of one experiment of one target, which make a row.
struct Row<'a> {
    samples: Vec<&'a Sample>,
    /// Those of etcd itself in the same experiment.
    direct: Vec<&'a Sample>,
}

const BYTES_PER_MIB: f64 = (1 << 20) as f64;
const ABSENT: &str = "–";

pub(super) fn small_operations(out: &mut impl Write, samples: &[&Sample]) -> fmt::Result {
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
            row.rate(),
            row.latency(|m| m.p50_ms),
            row.latency(|m| m.p99_ms),
            row.cpu_per(1000.0, |m| m.costs.etcd),
            row.cpu_per(1000.0, |m| m.costs.peer),
            row.cpu_per(1000.0, |m| Some(m.costs.client)),
            row.cost(|m| m.costs.peer, peak_mib),
            row.errors(),
        ]
    })
}

pub(super) fn lists(out: &mut impl Write, samples: &[&Sample]) -> fmt::Result {
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
            row.rate(),
            row.spread(|m| m.bytes_per_second / BYTES_PER_MIB),
            row.latency(|m| m.p50_ms),
            row.latency(|m| m.max_ms),
            row.cpu_per(1.0, |m| m.costs.etcd),
            row.cpu_per(1.0, |m| m.costs.peer),
            row.cpu_per(1.0, |m| Some(m.costs.client)),
            row.cost(|m| m.costs.etcd, peak_mib),
            row.cost(|m| m.costs.peer, peak_mib),
            row.errors(),
        ]
    })
}

pub(super) fn memory(out: &mut impl Write, samples: &[&Sample]) -> fmt::Result {
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
            row.cost(|m| m.costs.etcd, before_mib),
            row.cost(|m| m.costs.etcd, peak_mib),
            row.cost(|m| m.costs.etcd, growth),
            row.cost(|m| m.costs.peer, before_mib),
            row.cost(|m| m.costs.peer, peak_mib),
            row.cost(|m| m.costs.peer, growth),
            row.rate(),
            row.spread(|m| m.bytes_per_second / BYTES_PER_MIB),
            row.latency(|m| m.p50_ms),
            row.errors(),
        ]
    })
}

/// Every operation that was not answered rightly, by reason.
pub(super) fn errors(out: &mut impl Write, samples: &[Sample]) -> fmt::Result {
    let failed: Vec<_> = samples.iter().filter(|s| !s.measurement.errors.is_empty()).collect();
    if failed.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n### Errors\n")?;
    for sample in failed {
        let Sample { experiment, target, round, measurement } = sample;
        for (reason, count) in &measurement.errors {
            writeln!(out, "- {experiment} of {target}, round {}: {count} × {reason}", round + 1)?;
        }
    }
    Ok(())
}

fn table(
    out: &mut impl Write,
    title: &str,
    columns: &[&str],
    samples: &[&Sample],
    cells: impl Fn(&Row<'_>) -> Vec<String>,
) -> fmt::Result {
    if samples.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n### {title}\n")?;
    writeln!(out, "| experiment | target | {} |", columns.join(" | "))?;
    writeln!(out, "|{}", "---|".repeat(columns.len() + 2))?;
    for row in rows(samples) {
        let Sample { experiment, target, .. } = row.samples[0];
        writeln!(out, "| {experiment} | {target} | {} |", cells(&row).join(" | "))?;
    }
    Ok(())
}

/// In the order in which experiments were measured first, and targets are listed.
fn rows<'a>(samples: &[&'a Sample]) -> Vec<Row<'a>> {
    let mut rows: Vec<Row<'a>> = Vec::new();
    let mut experiments = Vec::new();
    for sample in samples {
        if !experiments.contains(&sample.experiment) {
            experiments.push(sample.experiment);
        }
    }
    for experiment in experiments {
        let of_experiment = samples.iter().filter(|s| s.experiment == experiment);
        let mut targets: Vec<_> = of_experiment.clone().map(|s| s.target).collect();
        targets.sort_unstable();
        targets.dedup();
        let of_target = |target: Target| -> Vec<_> {
            of_experiment.clone().filter(|s| s.target == target).copied().collect()
        };
        rows.extend(
            targets.into_iter().map(|target| Row {
                samples: of_target(target),
                direct: of_target(Target::Direct),
            }),
        );
    }
    rows
}

impl Row<'_> {
    fn in_flight(&self) -> f64 {
        self.samples[0].experiment.in_flight as f64
    }

    fn spread(&self, figure: impl Fn(&Measurement) -> f64) -> String {
        written(self.samples.iter().map(|sample| figure(&sample.measurement)))
    }

    /// Of the samples that have any.
    fn latency(&self, figure: impl Fn(&Measurement) -> f64) -> String {
        let answered = self.samples.iter().map(|s| &s.measurement).filter(|m| m.operations > 0);
        written(answered.map(figure))
    }

    fn rate(&self) -> String {
        let rate = self.spread(|m| m.per_second);
        match self.ratio() {
            Some(ratio) => format!("{rate} ×{ratio:.2}"),
            None => rate,
        }
    }

    /// To direct in the same round; the median over the rounds that have both.
    fn ratio(&self) -> Option<f64> {
        let ratios = self.samples.iter().filter_map(|sample| {
            let of_round = |direct: &&&Sample| direct.round == sample.round;
            let direct = self.direct.iter().find(of_round)?.measurement.per_second;
            let is_other = sample.target != Target::Direct && direct > 0.0;
            is_other.then(|| sample.measurement.per_second / direct)
        });
        Spread::of(ratios).map(|spread| spread.median())
    }

    /// Processor time for so many operations.
    fn cpu_per(&self, operations: f64, of: impl Fn(&Measurement) -> Option<Cost>) -> String {
        let per_operation = |m: &Measurement| {
            let counted = m.operations > 0;
            counted.then_some(of(m)?.cpu_seconds / m.operations as f64)
        };
        let seconds = self.samples.iter().filter_map(|sample| per_operation(&sample.measurement));
        written(seconds.map(|seconds| seconds * operations))
    }

    fn cost(
        &self,
        of: impl Fn(&Measurement) -> Option<Cost>,
        figure: impl Fn(Cost) -> f64,
    ) -> String {
        written(self.samples.iter().filter_map(|sample| of(&sample.measurement).map(&figure)))
    }

    fn errors(&self) -> String {
        let all = self.samples.iter().flat_map(|sample| sample.measurement.errors.values());
        all.sum::<u64>().to_string()
    }
}

fn written(values: impl Iterator<Item = f64>) -> String {
    Spread::of(values).map_or_else(|| ABSENT.to_owned(), |spread| spread.to_string())
}

fn before_mib(cost: Cost) -> f64 {
    cost.rss_before_bytes as f64 / BYTES_PER_MIB
}

fn peak_mib(cost: Cost) -> f64 {
    cost.rss_peak_bytes as f64 / BYTES_PER_MIB
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        measure::Costs,
        workload::{Experiment, Workload},
    };
    use std::collections::BTreeMap;

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
                operations: 10_000,
                per_second,
                bytes_per_second: per_second * BYTES_PER_MIB,
                p50_ms: 1.0,
                p99_ms: 2.0,
                max_ms: 3.0,
                errors: BTreeMap::new(),
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
        silent.measurement.operations = 0;
        silent.measurement.errors.insert("no answer in time".to_owned(), 16);
        let rows = written(small_operations, std::slice::from_ref(&silent));
        assert!(rows[0].contains("| 0 | – | – | – | – | – | 48.0 | 16 |"), "{}", rows[0]);
        let mut text = String::new();
        errors(&mut text, &[silent]).expect("a string takes everything");
        assert!(text.ends_with("- get-16 of seawall, round 2: 16 × no answer in time\n"), "{text}");
    }
}
