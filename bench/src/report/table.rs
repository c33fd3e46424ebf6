//! What the tables of a scenario say, whatever they are written as.

use super::{
    figures::{BYTES_PER_MIB, Spread, number},
    spread,
};
use crate::{
    measure::{Cost, Figures, Group},
    result::{PhaseSample, Results, Sample},
    scenario::{Headline, Scenario},
};

pub(super) struct Table {
    pub(super) title: String,
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

const ABSENT: &str = "–";

/// The headlines of a scenario: one row each, a column for each target.
pub(super) fn headlines(results: &Results, scenario: &Scenario) -> Table {
    let targets = results.targets(&scenario.name);
    let row = |headline: &Headline| {
        let mut row = vec![format!("{}, {}", headline.says, headline.figure.unit())];
        row.extend(
            targets.iter().map(|target| written(spread(results, &scenario.name, target, headline))),
        );
        row
    };
    let mut columns = vec![scenario.title.clone()];
    columns.extend(targets.iter().map(|target| (*target).to_owned()));
    let rows = scenario.headlines.iter().map(row).collect();
    Table { title: scenario.title.clone(), columns, rows }
}

/// Every workload in every phase, of every target.
fn workloads(results: &Results, scenario: &Scenario) -> Table {
    let columns =
        ["phase", "workload", "target", "/s", "p50 ms", "p99 ms", "max ms", "errors", "wrong"];
    let mut rows = Vec::new();
    for phase in &scenario.phases {
        for part in parts(results, scenario, &phase.name) {
            for target in results.targets(&scenario.name) {
                let samples: Vec<&Figures> = results
                    .of(&scenario.name, Some(target))
                    .filter_map(|sample| sample.phase(&phase.name)?.part(&part))
                    .collect();
                rows.push(workload_row([&phase.name, &part, target], &samples));
            }
        }
    }
    Table::new("Workloads", &columns, rows)
}

fn workload_row(names: [&str; 3], samples: &[&Figures]) -> Vec<String> {
    let of = |figure: fn(&Figures) -> f64| written(Spread::of(samples.iter().map(|f| figure(f))));
    // What was never answered has no latency.
    let timed = |figure: fn(&Figures) -> f64| {
        let timed = samples.iter().filter(|figures| figures.max_ms > 0.0);
        written(Spread::of(timed.map(|figures| figure(figures))))
    };
    let sum =
        |count: fn(&Figures) -> u64| samples.iter().map(|f| count(f)).sum::<u64>().to_string();
    let mut row = names.map(str::to_owned).to_vec();
    row.extend([
        of(|figures| figures.per_second),
        timed(|figures| figures.p50_ms),
        timed(|figures| figures.p99_ms),
        timed(|figures| figures.max_ms),
        sum(Figures::error_count),
        sum(|figures| figures.violations),
    ]);
    row
}

/// All there are of a scenario.
pub(super) fn details(results: &Results, scenario: &Scenario) -> [Table; 3] {
    [workloads, costs, traffic].map(|table| table(results, scenario))
}

/// The names of workloads and watchers in a phase.
pub(super) fn parts(results: &Results, scenario: &Scenario, phase: &str) -> Vec<String> {
    let phases = results.of(&scenario.name, None).filter_map(|sample| sample.phase(phase));
    let mut names = Vec::new();
    for part in phases.flat_map(|phase| &phase.parts) {
        if !names.contains(&part.name) {
            names.push(part.name.clone());
        }
    }
    let order = |name: &String| scenario.workloads.iter().position(|each| each.name == *name);
    names.sort_by_key(|name| order(name).unwrap_or(usize::MAX));
    names
}

/// What each phase cost.
fn costs(results: &Results, scenario: &Scenario) -> Table {
    let columns = [
        "phase",
        "target",
        "etcd CPU s",
        "peer CPU s",
        "client CPU s",
        "etcd peak MiB",
        "peer peak MiB",
        "ranges at etcd",
        "etcd wrote MiB",
        "client's busiest thread",
        "cores of others",
    ];
    Table::new("What it cost", &columns, rows(results, scenario, cost_cells))
}

/// What went over connections in each phase.
fn traffic(results: &Results, scenario: &Scenario) -> Table {
    let columns = [
        "phase",
        "target",
        "etcd sent MiB",
        "etcd received MiB",
        "peer sent MiB",
        "peer received MiB",
        "client sent MiB",
        "client received MiB",
        // Without headers, and what members tell each other.
        "messages from etcd MiB",
        "messages to etcd MiB",
    ];
    Table::new("Bytes on the wire", &columns, rows(results, scenario, traffic_cells))
}

/// One for each target in each phase.
fn rows(
    results: &Results,
    scenario: &Scenario,
    cells: impl Fn(&[&PhaseSample]) -> Vec<String>,
) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for phase in &scenario.phases {
        for target in results.targets(&scenario.name) {
            let samples: Vec<_> = results
                .of(&scenario.name, Some(target))
                .filter_map(|sample| sample.phase(&phase.name))
                .collect();
            let mut row = vec![phase.name.clone(), target.to_owned()];
            row.extend(cells(&samples));
            rows.push(row);
        }
    }
    rows
}

fn cost_cells(samples: &[&PhaseSample]) -> Vec<String> {
    let of = |figure: &dyn Fn(&PhaseSample) -> Option<f64>| cell(samples, figure);
    let cost = |group: Group, figure: fn(&Cost) -> f64| of(&|s| s.costs.get(&group).map(figure));
    let cpu = |cost: &Cost| cost.cpu_seconds;
    let peak = |cost: &Cost| mib(cost.rss_peak_bytes);
    vec![
        cost(Group::Etcd, cpu),
        cost(Group::Peer, cpu),
        cost(Group::Client, cpu),
        cost(Group::Etcd, peak),
        cost(Group::Peer, peak),
        of(&|s| s.served.map(|served| served.ranges as f64)),
        cost(Group::Etcd, |cost| mib(cost.disk_bytes)),
        of(&|s| Some(s.client_busy)),
        of(&|s| Some(s.others_cores)),
    ]
}

fn traffic_cells(samples: &[&PhaseSample]) -> Vec<String> {
    let of = |figure: &dyn Fn(&PhaseSample) -> Option<f64>| cell(samples, figure);
    let wire = |sample: &PhaseSample, group: Group| sample.costs.get(&group)?.wire;
    let mut cells = Vec::new();
    for group in [Group::Etcd, Group::Peer, Group::Client] {
        cells.push(of(&|s| wire(s, group).map(|wire| mib(wire.sent_bytes))));
        cells.push(of(&|s| wire(s, group).map(|wire| mib(wire.received_bytes))));
    }
    cells.push(of(&|s| s.served.map(|served| mib(served.sent_bytes))));
    cells.push(of(&|s| s.served.map(|served| mib(served.received_bytes))));
    cells
}

fn cell(samples: &[&PhaseSample], figure: &dyn Fn(&PhaseSample) -> Option<f64>) -> String {
    written(Spread::of(samples.iter().filter_map(|sample| figure(sample))))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / BYTES_PER_MIB
}

/// Every operation that was not answered rightly, by reason, and every violation.
pub(super) fn wrongs(results: &Results, scenario: &Scenario) -> Vec<String> {
    results.of(&scenario.name, None).flat_map(wrongs_of).collect()
}

fn wrongs_of(sample: &Sample) -> Vec<String> {
    let of = format!("{}, round {}", sample.target, sample.round + 1);
    let violations = sample.violations.iter();
    let mut lines: Vec<_> =
        violations.map(|(what, count)| format!("VIOLATION of {of}: {count} × {what}")).collect();
    for phase in &sample.phases {
        for part in &phase.parts {
            let errors = part.figures.errors.iter();
            lines.extend(errors.map(|(reason, count)| {
                format!("{of}, {}, {}: {count} × {reason}", phase.name, part.name)
            }));
        }
    }
    lines.extend(sample.happened.iter().filter_map(|happened| {
        let error = happened.error.as_ref()?;
        Some(format!("{of}, {} failed: {error}", happened.what))
    }));
    lines
}

impl Table {
    fn new(title: &str, columns: &[&str], rows: Vec<Vec<String>>) -> Self {
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        Self { title: title.to_owned(), columns, rows }
    }
}

fn written(spread: Option<Spread>) -> String {
    spread.map_or_else(|| ABSENT.to_owned(), |spread| spread.to_string())
}

/// What to say of samples that are not what they seem.
pub(super) fn doubts(results: &Results) -> Vec<String> {
    const BUSY: f64 = 0.9;
    const NOISY: f64 = 0.2;
    let phases = || {
        results
            .samples
            .iter()
            .flat_map(|sample| sample.phases.iter().map(move |phase| (sample, phase)))
    };
    let mut doubts = Vec::new();
    let mut busy: Vec<_> = phases()
        .filter(|(_, phase)| phase.client_busy > BUSY)
        .map(|(sample, phase)| format!("{} of {} ({})", sample.scenario, sample.target, phase.name))
        .collect();
    busy.dedup();
    if !busy.is_empty() {
        doubts.push(format!(
            "A thread of the client was busy for more than nine tenths of the time, so that latencies \
             and rates are its own as much as the target's: {}",
            busy.join(", ")
        ));
    }
    let noisy = phases().filter(|(_, phase)| phase.others_cores > NOISY).count();
    if noisy > 0 {
        let others = Spread::of(phases().map(|(_, phase)| phase.others_cores));
        doubts.push(format!(
            "Other work took more than {} cores in {noisy} of {} phases ({}): rates and latencies are \
             of that noise too",
            number(NOISY),
            phases().count(),
            written(others)
        ));
    }
    doubts
}
