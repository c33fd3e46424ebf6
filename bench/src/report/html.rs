//! One page that needs no network and no other file.

use super::{
    chart::{Chart, Line, Mark},
    figures::{BYTES_PER_MIB, Spread},
    scale::{Scale, nines},
    spread,
    table::{self, Table},
};
use crate::{
    measure::{Figures, Group, QUANTILES, Second},
    result::{Results, Sample},
    scenario::{Figure, Headline, Scenario},
};
use std::fmt::{self, Write};

const STYLE: &str = include_str!("page.css");

pub(crate) fn page(results: &Results) -> String {
    let mut text = String::new();
    write_page(&mut text, results).expect("a string takes everything");
    text
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}

fn write_page(out: &mut String, results: &Results) -> fmt::Result {
    write!(
        out,
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>\
         <meta name='viewport' content='width=device-width, initial-scale=1'>\
         <title>seawall-bench</title><style>{STYLE}</style></head><body>\
         <header><h1>What stands in front of etcd, measured</h1>"
    )?;
    about(out, results)?;
    writeln!(out, "</header><main>")?;
    let measured =
        || results.scenarios.iter().filter(|s| results.of(&s.name, None).next().is_some());
    writeln!(out, "<section><h2 id='glance'>At a glance</h2>")?;
    for scenario in measured() {
        glance(out, results, scenario)?;
    }
    writeln!(out, "</section>")?;
    for scenario in measured() {
        write_scenario(out, results, scenario)?;
    }
    writeln!(out, "</main></body></html>")
}

/// Where it was measured, and what to beware of.
fn about(out: &mut String, results: &Results) -> fmt::Result {
    let environment = &results.environment;
    let (cores, cpu) = (environment.cores, escaped(&environment.cpu));
    writeln!(out, "<p>{}, {cores} cores of {cpu}</p>", escaped(&environment.date))?;
    let violations: u64 = results.samples.iter().map(Sample::violation_count).sum();
    let (class, verdict) = match violations {
        0 => ("good", "Every answer was checked, and all were right.".to_owned()),
        count => ("bad", format!("{count} answers were ones that etcd never gives.")),
    };
    writeln!(out, "<p class='{class}'>{verdict}</p>")?;
    for line in results.failures.iter().chain(&table::doubts(results)) {
        writeln!(out, "<p class='doubt'>{}</p>", escaped(line))?;
    }
    writeln!(out, "<details><summary>Environment and notes</summary><ul>")?;
    for line in environment.lines().iter().chain(&results.notes) {
        writeln!(out, "<li>{}</li>", escaped(line))?;
    }
    writeln!(out, "</ul></details>")
}

/// The headlines of a scenario as bars, the shorter the better unless it is a rate.
fn glance(out: &mut String, results: &Results, scenario: &Scenario) -> fmt::Result {
    let (name, title) = (&scenario.name, escaped(&scenario.title));
    writeln!(out, "<article class='glance'><h3><a href='#{name}'>{title}</a></h3>")?;
    for headline in &scenario.headlines {
        let figure = headline.figure;
        let better = if figure.more_is_better() { "more is better" } else { "less is better" };
        let says = escaped(&headline.says);
        write!(out, "<p class='says'>{says}, {} <small>{better}</small></p>", figure.unit())?;
        let targets = results.targets(name);
        let spreads: Vec<(&str, Option<Spread>)> = targets
            .into_iter()
            .map(|target| (target, spread(results, name, target, headline)))
            .collect();
        bars(out, &spreads)?;
    }
    writeln!(out, "</article>")
}

fn bars(out: &mut String, spreads: &[(&str, Option<Spread>)]) -> fmt::Result {
    let highest = spreads.iter().filter_map(|(_, spread)| spread.map(|s| s.median()));
    let highest = highest.fold(0.0, f64::max);
    write!(out, "<table class='bars'>")?;
    for (target, spread) in spreads {
        let name = escaped(target);
        let (width, text) = match spread {
            Some(spread) if highest > 0.0 => {
                (spread.median() / highest * 100.0, spread.to_string())
            }
            Some(spread) => (0.0, spread.to_string()),
            None => (0.0, "–".to_owned()),
        };
        write!(
            out,
            "<tr><th>{name}</th><td class='bar'><span class='{name}' style='width:{width:.1}%'>\
             </span></td><td>{text}</td></tr>"
        )?;
    }
    writeln!(out, "</table>")
}

fn write_scenario(out: &mut String, results: &Results, scenario: &Scenario) -> fmt::Result {
    let (name, title) = (&scenario.name, escaped(&scenario.title));
    writeln!(out, "<section id='{name}'><h2>{title}</h2><p>{}</p>", escaped(&scenario.story))?;
    setting(out, scenario)?;
    legend(out, &results.targets(name))?;
    writeln!(out, "<div class='charts'>")?;
    for chart in charts(results, scenario) {
        chart.write(out)?;
    }
    writeln!(out, "</div>")?;
    for table in table::details(results, scenario) {
        write_table(out, &table)?;
    }
    let wrongs = table::wrongs(results, scenario);
    if !wrongs.is_empty() {
        writeln!(out, "<details><summary>Errors, by reason ({})</summary><ul>", wrongs.len())?;
        for line in wrongs {
            writeln!(out, "<li>{}</li>", escaped(&line))?;
        }
        writeln!(out, "</ul></details>")?;
    }
    writeln!(out, "</section>")
}

/// Who asks for what, in a line each.
fn setting(out: &mut String, scenario: &Scenario) -> fmt::Result {
    let amounts = scenario.data.iter().map(|(resource, amount)| match amount.bytes {
        Some(bytes) => format!("{} {} of {bytes} bytes", amount.count, resource.path()),
        None => format!("{} {}", amount.count, resource.path()),
    });
    let amounts: Vec<_> = amounts.collect();
    writeln!(out, "<details><summary>Setting</summary><ul><li>{}</li>", amounts.join(", "))?;
    for workload in &scenario.workloads {
        let phases = if workload.phases.is_empty() {
            "always".to_owned()
        } else {
            workload.phases.join(", ")
        };
        writeln!(out, "<li>{}: {} ({phases})</li>", escaped(&workload.name), workload.load)?;
    }
    for watchers in &scenario.watchers {
        let (name, count, streams) = (escaped(&watchers.name), watchers.count, watchers.streams);
        writeln!(out, "<li>{name}: {count} watchers on {streams} streams</li>")?;
    }
    writeln!(out, "</ul></details>")
}

fn legend(out: &mut String, targets: &[&str]) -> fmt::Result {
    write!(out, "<p class='legend'>")?;
    for target in targets {
        let name = escaped(target);
        write!(out, "<span><i class='{name}'></i>{name}</span>")?;
    }
    writeln!(out, "</p>")
}

fn write_table(out: &mut String, table: &Table) -> fmt::Result {
    write!(
        out,
        "<details><summary>{}</summary><div class='scroll'><table>",
        escaped(&table.title)
    )?;
    for column in &table.columns {
        write!(out, "<th>{}</th>", escaped(column))?;
    }
    for row in &table.rows {
        write!(out, "<tr>")?;
        for cell in row {
            write!(out, "<td>{}</td>", escaped(cell))?;
        }
        write!(out, "</tr>")?;
    }
    writeln!(out, "</table></div></details>")
}

/// Of what the headlines speak of: how latencies are spread, and how they went; and what etcd took.
fn charts(results: &Results, scenario: &Scenario) -> Vec<Chart> {
    let mut charts = Vec::new();
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for Headline { of, phase, figure, .. } in &scenario.headlines {
        let is_new = !seen.contains(&(of, phase));
        if is_new && matches!(figure, Figure::P50Ms | Figure::P99Ms | Figure::MaxMs) {
            charts.push(curve(results, scenario, of, phase));
        }
        if is_new && !seen.iter().any(|(known, _)| known == of) {
            charts.push(time_line(results, scenario, of, *figure));
        }
        seen.push((of, phase));
    }
    charts.push(memory(results, scenario));
    charts
}

/// Latency by quantile, the median of all rounds.
fn curve(results: &Results, scenario: &Scenario, of: &str, phase: &str) -> Chart {
    let line = |target: &str| {
        let figures: Vec<&Figures> = results
            .of(&scenario.name, Some(target))
            .filter_map(|sample| sample.phase(phase)?.part(of))
            .filter(|figures| figures.max_ms > 0.0)
            .collect();
        let point = |(n, quantile): (usize, &f64)| {
            let values = figures.iter().filter_map(|figures| figures.curve_ms.get(n).copied());
            Some((nines(*quantile), Spread::of(values)?.median()))
        };
        let points = QUANTILES.iter().enumerate().filter_map(point).collect();
        Line { target: target.to_owned(), points }
    };
    let lines: Vec<_> = results.targets(&scenario.name).into_iter().map(line).collect();
    Chart {
        title: format!("{of} while “{phase}”: latency from the intended time, by quantile"),
        x: Scale::quantiles(),
        y: Scale::logarithmic(lines.iter().flat_map(|line| &line.points).map(|point| point.1)),
        x_unit: "",
        y_unit: "ms",
        lines,
        marks: Vec::new(),
    }
}

/// How a workload went, second by second, in the first round.
fn time_line(results: &Results, scenario: &Scenario, of: &str, figure: Figure) -> Chart {
    let is_rate = figure.more_is_better();
    let value = |second: &Second| if is_rate { second.operations as f64 } else { second.p99_ms };
    let line = |target: &str| {
        let sample = results.of(&scenario.name, Some(target)).next();
        let phases = sample.iter().flat_map(|sample| &sample.phases);
        let figures = phases.filter_map(|phase| phase.part(of));
        // A second in which one phase ended and another began is as bad as either.
        let mut points: Vec<(f64, f64)> = Vec::new();
        for second in figures.flat_map(|figures| &figures.seconds) {
            let (at, value) = (second.second as f64, value(second));
            match points.last_mut() {
                Some(last) if last.0 >= at => last.1 = last.1.max(value),
                _ => points.push((at, value)),
            }
        }
        Line { target: target.to_owned(), points }
    };
    let lines: Vec<_> = results.targets(&scenario.name).into_iter().map(line).collect();
    let values = || lines.iter().flat_map(|line| &line.points).map(|point| point.1);
    let (what, y_unit) = if is_rate { ("answers", "/s") } else { ("slowest hundredth", "ms") };
    Chart {
        title: format!("{of}: {what} of each second, first round"),
        x: Scale::linear([end(results, scenario)].into_iter()),
        y: if is_rate { Scale::linear(values()) } else { Scale::logarithmic(values()) },
        x_unit: "seconds",
        y_unit,
        marks: marks(results, scenario),
        lines,
    }
}

/// Resident memory of etcd, in the first round.
fn memory(results: &Results, scenario: &Scenario) -> Chart {
    let line = |target: &str| {
        let sample = results.of(&scenario.name, Some(target)).next();
        let usage = sample.iter().flat_map(|sample| &sample.usage);
        let points = usage.filter_map(|usage| {
            let (_, bytes) = usage.groups.get(&Group::Etcd)?;
            Some((usage.at, *bytes as f64 / BYTES_PER_MIB))
        });
        Line { target: target.to_owned(), points: points.collect() }
    };
    let lines: Vec<_> = results.targets(&scenario.name).into_iter().map(line).collect();
    Chart {
        title: "Memory of etcd, first round".to_owned(),
        x: Scale::linear([end(results, scenario)].into_iter()),
        y: Scale::linear(lines.iter().flat_map(|line| &line.points).map(|point| point.1)),
        x_unit: "seconds",
        y_unit: "MiB",
        marks: marks(results, scenario),
        lines,
    }
}

/// When the last phase of the first round ended.
fn end(results: &Results, scenario: &Scenario) -> f64 {
    let phases = results.of(&scenario.name, None).filter_map(|sample| sample.phases.last());
    phases.map(|phase| phase.at + phase.lasted).fold(1.0, f64::max)
}

/// Phases and steps, as they were for the first target.
fn marks(results: &Results, scenario: &Scenario) -> Vec<Mark> {
    let Some(sample) = results.of(&scenario.name, None).next() else { return Vec::new() };
    let phases = sample.phases.iter().map(|phase| (phase.at, &phase.name));
    let steps = sample.happened.iter().map(|happened| (happened.at, &happened.what));
    let mut marks: Vec<_> =
        phases.chain(steps).map(|(at, text)| Mark { at, text: text.clone() }).collect();
    marks.sort_by(|one, other| one.at.total_cmp(&other.at));
    marks
}
