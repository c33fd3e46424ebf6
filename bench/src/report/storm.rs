//! What the storm measured.

use super::{
    figures::{BYTES_PER_MIB, number},
    rows::{Row, before_mib, peak_mib, table},
};
use crate::{
    measure::{Costs, Figures},
    storm::{Experiment, ForegroundFigures, Served},
    target::Target,
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

/// One experiment of one target in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) experiment: Experiment,
    pub(crate) target: Target,
    pub(crate) round: usize,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Outcome {
    Storm(Box<StormFigures>),
    HotKey(Box<HotKeyFigures>),
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct StormFigures {
    /// The foreground alone.
    pub(crate) quiet: ForegroundFigures,
    /// The foreground beside the lists.
    pub(crate) during: ForegroundFigures,
    pub(crate) lists: Figures,
    /// Of one list's answer.
    pub(crate) list_bytes: u64,
    #[serde(flatten)]
    pub(crate) costs: Costs,
    pub(crate) served: Served,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct HotKeyFigures {
    pub(crate) reads: Figures,
    pub(crate) counter: Figures,
    #[serde(flatten)]
    pub(crate) costs: Costs,
    pub(crate) served: Served,
}

impl StormFigures {
    /// How much worse the storm makes the slowest hundredth of the foreground.
    fn p99_ratio(&self) -> f64 {
        self.during.all.p99_ms / self.quiet.all.p99_ms
    }

    /// How many whole lists make up what etcd sent. A list that is put together from pages, or
    /// answered without etcd, shows here and not in the number of ranges.
    fn etcd_lists(&self) -> f64 {
        self.served.sent_bytes as f64 / self.list_bytes as f64
    }
}

impl HotKeyFigures {
    fn reads_per_range(&self) -> f64 {
        self.reads.operations as f64 / self.served.ranges.max(1) as f64
    }
}

impl Sample {
    fn parts(&self) -> Vec<(&'static str, &Figures)> {
        match &self.outcome {
            Outcome::Storm(storm) => vec![
                ("updates alone", &storm.quiet.updates),
                ("critical alone", &storm.quiet.critical),
                ("counter alone", &storm.quiet.counter),
                ("updates", &storm.during.updates),
                ("critical", &storm.during.critical),
                ("counter", &storm.during.counter),
                ("lists", &storm.lists),
            ],
            Outcome::HotKey(hot_key) => {
                vec![("reads", &hot_key.reads), ("counter", &hot_key.counter)]
            }
        }
    }

    fn violations(&self) -> u64 {
        self.parts().iter().map(|(_, figures)| figures.violations).sum()
    }

    fn storm(&self) -> Option<&StormFigures> {
        match &self.outcome {
            Outcome::Storm(figures) => Some(figures),
            Outcome::HotKey(_) => None,
        }
    }

    fn hot_key(&self) -> Option<&HotKeyFigures> {
        match &self.outcome {
            Outcome::HotKey(figures) => Some(figures),
            Outcome::Storm(_) => None,
        }
    }
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
        match &self.outcome {
            Outcome::Storm(figures) => &figures.costs,
            Outcome::HotKey(figures) => &figures.costs,
        }
    }

    fn errors(&self) -> Vec<(&'static str, &BTreeMap<String, u64>)> {
        self.parts().into_iter().map(|(part, figures)| (part, &figures.errors)).collect()
    }

    /// A refusal is an outcome like any other; an answer that etcd never gives is not.
    fn is_right(&self) -> bool {
        self.violations() == 0
    }

    fn tables(out: &mut impl Write, samples: &[Self]) -> fmt::Result {
        let storms: Vec<_> = samples.iter().filter(|sample| sample.storm().is_some()).collect();
        let hot_keys: Vec<_> = samples.iter().filter(|sample| sample.hot_key().is_some()).collect();
        foreground(out, &storms)?;
        lists(out, &storms)?;
        costs(out, &storms)?;
        hot_key(out, &hot_keys)
    }
}

fn foreground(out: &mut impl Write, samples: &[&Sample]) -> fmt::Result {
    let columns = [
        "alone p50 ms",
        "alone p99 ms",
        "p50 ms",
        "p99 ms",
        "max ms",
        "p99 × alone",
        "critical alone p99 ms",
        "critical p99 ms",
        "critical max ms",
        "errors",
        "critical errors",
    ];
    table(out, "The foreground beside the storm", &columns, samples, |row| {
        vec![
            row.storm(|s| s.quiet.all.p50_ms),
            row.storm(|s| s.quiet.all.p99_ms),
            row.storm(|s| s.during.all.p50_ms),
            row.storm(|s| s.during.all.p99_ms),
            row.storm(|s| s.during.all.max_ms),
            row.storm(StormFigures::p99_ratio),
            row.storm(|s| s.quiet.critical.p99_ms),
            row.storm(|s| s.during.critical.p99_ms),
            row.storm(|s| s.during.critical.max_ms),
            row.storm_sum(|s| errors(&s.during.all)),
            row.storm_sum(|s| errors(&s.during.critical)),
        ]
    })
}

fn lists(out: &mut impl Write, samples: &[&Sample]) -> fmt::Result {
    let columns = [
        "lists/s",
        "MiB/s",
        "p50 ms",
        "p99 ms",
        "lists",
        "etcd sent, in lists",
        "ranges at etcd",
        "errors",
        "violations",
    ];
    table(out, "The lists of the storm", &columns, samples, |row| {
        vec![
            row.rate(|s| s.storm().map_or(0.0, |s| s.lists.per_second)),
            row.storm(|s| s.lists.bytes_per_second / BYTES_PER_MIB),
            row.answered(|s| s.lists.p50_ms),
            row.answered(|s| s.lists.p99_ms),
            row.storm(|s| s.lists.operations as f64),
            row.storm(StormFigures::etcd_lists),
            row.storm(|s| s.served.ranges as f64),
            row.storm_sum(|s| errors(&s.lists)),
            row.sum(Sample::violations),
        ]
    })
}

fn costs(out: &mut impl Write, samples: &[&Sample]) -> fmt::Result {
    let columns = [
        "etcd CPU s",
        "peer CPU s",
        "client CPU s",
        "etcd idle MiB",
        "etcd peak MiB",
        "peer idle MiB",
        "peer peak MiB",
    ];
    table(out, "What the storm cost", &columns, samples, |row| {
        vec![
            row.cost(|c| c.etcd, |cost| cost.cpu_seconds),
            row.cost(|c| c.peer, |cost| cost.cpu_seconds),
            row.cost(|c| Some(c.client), |cost| cost.cpu_seconds),
            row.cost(|c| c.etcd, before_mib),
            row.cost(|c| c.etcd, peak_mib),
            row.cost(|c| c.peer, before_mib),
            row.cost(|c| c.peer, peak_mib),
        ]
    })
}

fn hot_key(out: &mut impl Write, samples: &[&Sample]) -> fmt::Result {
    let columns = [
        "reads/s",
        "p50 ms",
        "p99 ms",
        "reads",
        "ranges at etcd",
        "reads / range",
        "etcd CPU s",
        "peer CPU s",
        "client CPU s",
        "errors",
        "violations",
    ];
    table(out, "1,000 reads of one key in flight", &columns, samples, |row| {
        let of = |figure: fn(&HotKeyFigures) -> f64| row.some(|s| s.hot_key().map(figure));
        vec![
            row.rate(|s| s.hot_key().map_or(0.0, |s| s.reads.per_second)),
            of(|s| s.reads.p50_ms),
            of(|s| s.reads.p99_ms),
            of(|s| s.reads.operations as f64),
            of(|s| s.served.ranges as f64),
            of(HotKeyFigures::reads_per_range),
            row.cost(|c| c.etcd, |cost| cost.cpu_seconds),
            row.cost(|c| c.peer, |cost| cost.cpu_seconds),
            row.cost(|c| Some(c.client), |cost| cost.cpu_seconds),
            row.sum(|s| s.hot_key().map_or(0, |s| errors(&s.reads))),
            row.sum(Sample::violations),
        ]
    })
}

impl Row<'_, Sample> {
    fn storm(&self, figure: impl Fn(&StormFigures) -> f64) -> String {
        self.some(|sample| sample.storm().map(&figure))
    }

    /// Of the samples in which a list was answered.
    fn answered(&self, figure: impl Fn(&StormFigures) -> f64) -> String {
        self.some(|sample| sample.storm().filter(|s| s.lists.operations > 0).map(&figure))
    }

    fn storm_sum(&self, count: impl Fn(&StormFigures) -> u64) -> String {
        self.sum(|sample| sample.storm().map_or(0, &count))
    }
}

fn errors(figures: &Figures) -> u64 {
    figures.errors.values().sum()
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.experiment, self.target)?;
        match &self.outcome {
            Outcome::Storm(storm) => {
                let [alone, during] =
                    [&storm.quiet, &storm.during].map(|phase| number(phase.all.p99_ms));
                let (lists, refused) = (number(storm.lists.per_second), errors(&storm.lists));
                write!(f, "foreground p99 {alone} ms alone, {during} ms beside ")?;
                write!(f, "{lists} lists/s, {refused} lists failed")?;
            }
            Outcome::HotKey(hot_key) => {
                let reads = number(hot_key.reads.per_second);
                let per_range = number(hot_key.reads_per_range());
                write!(f, "{reads} reads/s, {per_range} for each range at etcd")?;
            }
        }
        write!(f, ", {} violations", self.violations())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        measure::Cost,
        report::{Sample as _, errors as all_errors},
        storm::{Keys, Load, Storm},
        workload::Objects,
    };

    fn figures(operations: u64, p99_ms: f64) -> Figures {
        Figures {
            operations,
            per_second: operations as f64 / 5.0,
            bytes_per_second: 0.0,
            p50_ms: 1.0,
            p99_ms,
            max_ms: 2.0 * p99_ms,
            errors: BTreeMap::new(),
            violations: 0,
        }
    }

    fn phase(p99_ms: f64) -> ForegroundFigures {
        let figures = figures(1000, p99_ms);
        ForegroundFigures {
            all: figures.clone(),
            updates: figures.clone(),
            critical: figures.clone(),
            counter: figures,
        }
    }

    fn sample(lists: Figures) -> Sample {
        let storm = Storm {
            objects: Objects::Of2KiB,
            load: Load::Closed { listers: 16 },
            keys: Keys::Common,
        };
        let cost = Cost { cpu_seconds: 2.0, rss_before_bytes: 1 << 20, rss_peak_bytes: 4 << 20 };
        let costs = Costs { etcd: Some(cost), peer: None, client: cost, others_cores: 0.0 };
        Sample {
            experiment: Experiment::Storm(storm),
            target: Target::Seawall,
            round: 0,
            outcome: Outcome::Storm(Box::new(StormFigures {
                quiet: phase(1.5),
                during: phase(6.0),
                lists,
                list_bytes: 20_000_000,
                costs,
                served: Served { ranges: 412, sent_bytes: 50_000_000 },
            })),
        }
    }

    fn written(samples: &[Sample]) -> String {
        let mut text = String::new();
        Sample::tables(&mut text, samples).expect("a string takes everything");
        all_errors(&mut text, samples).expect("a string takes everything");
        text
    }

    #[test]
    fn the_harm_is_the_ratio_of_both_phases_of_a_sample() {
        let text = written(&[sample(figures(100, 300.0))]);
        assert!(text.contains("| 1.00 | 1.50 | 1.00 | 6.00 | 12.0 | 4.00 |"), "{text}");
        // Fifty million bytes are two lists and a half.
        assert!(text.contains("| 1.00 | 300 | 100 | 2.50 | 412 | 0 | 0 |"), "{text}");
    }

    #[test]
    fn a_refusal_is_reported_and_a_violation_spoils_the_run() {
        let mut lists = figures(100, 300.0);
        lists.errors.insert("gRPC status 8".to_owned(), 7);
        let refused = sample(lists.clone());
        assert!(refused.is_right());
        let text = written(&[refused]);
        assert!(text.contains("| 412 | 7 | 0 |"), "{text}");
        assert!(text.contains("storm20-16-common of seawall, round 1, lists: 7 × gRPC status 8"));

        lists.violations = 1;
        let wrong = sample(lists);
        assert!(!wrong.is_right());
        assert!(written(&[wrong]).contains("| 412 | 7 | 1 |"));
    }
}
