//! Tables with a row for each experiment and target, whatever was measured.

use super::{
    Sample,
    figures::{BYTES_PER_MIB, Spread},
};
use crate::{
    measure::{Cost, Costs},
    target::Target,
};
use std::fmt::{self, Write};

/// The samples of one experiment of one target, which make a row.
pub(super) struct Row<'a, S> {
    pub(super) samples: Vec<&'a S>,
    /// Those of etcd itself in the same experiment.
    direct: Vec<&'a S>,
}

const ABSENT: &str = "–";

pub(super) fn table<S: Sample>(
    out: &mut impl Write,
    title: &str,
    columns: &[&str],
    samples: &[&S],
    cells: impl Fn(&Row<'_, S>) -> Vec<String>,
) -> fmt::Result {
    if samples.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n### {title}\n")?;
    writeln!(out, "| experiment | target | {} |", columns.join(" | "))?;
    writeln!(out, "|{}", "---|".repeat(columns.len() + 2))?;
    for row in rows(samples) {
        let (experiment, target) = (row.samples[0].experiment(), row.samples[0].target());
        writeln!(out, "| {experiment} | {target} | {} |", cells(&row).join(" | "))?;
    }
    Ok(())
}

/// In the order in which experiments were measured first, and targets are listed.
fn rows<'a, S: Sample>(samples: &[&'a S]) -> Vec<Row<'a, S>> {
    let mut rows: Vec<Row<'a, S>> = Vec::new();
    let mut experiments = Vec::new();
    for sample in samples {
        if !experiments.contains(&sample.experiment()) {
            experiments.push(sample.experiment());
        }
    }
    for experiment in experiments {
        let of_experiment = samples.iter().filter(|s| s.experiment() == experiment);
        let mut targets: Vec<_> = of_experiment.clone().map(|s| s.target()).collect();
        targets.sort_unstable();
        targets.dedup();
        let of_target = |target: Target| -> Vec<_> {
            of_experiment.clone().filter(|s| s.target() == target).copied().collect()
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

impl<S: Sample> Row<'_, S> {
    pub(super) fn spread(&self, figure: impl Fn(&S) -> f64) -> String {
        self.some(|sample| Some(figure(sample)))
    }

    /// Of the samples that have the figure.
    pub(super) fn some(&self, figure: impl Fn(&S) -> Option<f64>) -> String {
        let spread = Spread::of(self.samples.iter().filter_map(|sample| figure(sample)));
        spread.map_or_else(|| ABSENT.to_owned(), |spread| spread.to_string())
    }

    pub(super) fn sum(&self, count: impl Fn(&S) -> u64) -> String {
        self.samples.iter().map(|sample| count(sample)).sum::<u64>().to_string()
    }

    /// A rate, with its ratio to direct.
    pub(super) fn rate(&self, figure: impl Fn(&S) -> f64) -> String {
        let rate = self.spread(&figure);
        match self.ratio(&figure) {
            Some(ratio) => format!("{rate} ×{ratio:.2}"),
            None => rate,
        }
    }

    /// To direct in the same round; the median over the rounds that have both.
    fn ratio(&self, figure: impl Fn(&S) -> f64) -> Option<f64> {
        let ratios = self.samples.iter().filter_map(|sample| {
            let of_round = |direct: &&&S| direct.round() == sample.round();
            let direct = figure(self.direct.iter().find(of_round)?);
            let is_other = sample.target() != Target::Direct && direct > 0.0;
            is_other.then(|| figure(sample) / direct)
        });
        Spread::of(ratios).map(|spread| spread.median())
    }

    pub(super) fn cost(
        &self,
        of: impl Fn(&Costs) -> Option<Cost>,
        figure: impl Fn(Cost) -> f64,
    ) -> String {
        self.some(|sample| of(sample.costs()).map(&figure))
    }
}

pub(super) fn before_mib(cost: Cost) -> f64 {
    cost.rss_before_bytes as f64 / BYTES_PER_MIB
}

pub(super) fn peak_mib(cost: Cost) -> f64 {
    cost.rss_peak_bytes as f64 / BYTES_PER_MIB
}
