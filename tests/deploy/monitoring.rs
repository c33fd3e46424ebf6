//! Alert rules and the dashboard.

use crate::{read, run, scratch, tool};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{collections::BTreeSet, fs};

const RULES: &str = "deploy/prometheus/alerts.yaml";

/// The names of series that docs/metrics.md documents, those of histograms included.
fn documented() -> Result<BTreeSet<String>> {
    let text = read("docs/metrics.md")?;
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    Ok(rows
        .flat_map(|(name, rest)| match rest.starts_with("histogram") {
            true => vec![format!("{name}_bucket"), format!("{name}_sum"), format!("{name}_count")],
            false => vec![name.to_owned()],
        })
        .collect())
}

/// Words of an expression that are called like our metrics.
fn metrics(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| ["seawall_", "process_"].iter().any(|prefix| word.starts_with(prefix)))
}

fn dashboard() -> Result<Value> {
    Ok(serde_json::from_str(&read("deploy/grafana/seawall.json")?)?)
}

/// Each expression of the dashboard, with the title of its panel.
fn expressions(dashboard: &Value) -> Result<Vec<(&str, &str)>> {
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().context("panels")? {
        let title = panel["title"].as_str().context("a title")?;
        for target in panel["targets"].as_array().into_iter().flatten() {
            found.push((title, target["expr"].as_str().context("an expression")?));
        }
    }
    Ok(found)
}

#[test]
fn each_alert_is_raised_by_what_it_is_about() -> Result<()> {
    let Some(promtool) = tool("promtool", "the alert rules were NOT tried") else { return Ok(()) };
    run(&promtool, &["check", "rules", "--lint-fatal", RULES])?;
    run(&promtool, &["test", "rules", "deploy/prometheus/alerts_test.yaml"])?;
    Ok(())
}

/// Names behind `key: ` in a file.
fn named(text: &str, key: &str) -> BTreeSet<String> {
    let lines = text.lines().map(|line| line.trim().trim_start_matches("- "));
    lines.filter_map(|line| Some(line.strip_prefix(key)?.strip_prefix(": ")?.to_owned())).collect()
}

#[test]
fn each_alert_is_tried_and_explained() -> Result<()> {
    let rules = read(RULES)?;
    let alerts = named(&rules, "alert");
    assert_eq!(alerts, named(&read("deploy/prometheus/alerts_test.yaml")?, "alertname"));
    let page = read("docs/deploy/alerts.md")?;
    let explained = page.lines().filter_map(|line| Some(line.strip_prefix("## ")?.to_owned()));
    assert_eq!(alerts, explained.collect());
    let runbook = |alert: &String| format!("docs/deploy/alerts.md#{}", alert.to_ascii_lowercase());
    assert_eq!(named(&rules, "runbook"), alerts.iter().map(runbook).collect());
    Ok(())
}

#[test]
fn alerts_and_dashboard_use_metrics_that_there_are() -> Result<()> {
    let documented = documented()?;
    let rules = read(RULES)?;
    let dashboard = dashboard()?;
    let mut shown = BTreeSet::new();
    for (title, expression) in expressions(&dashboard)? {
        for metric in metrics(expression) {
            ensure!(documented.contains(metric), "{title}: there is no {metric}");
            shown.insert(metric);
        }
    }
    ensure!(shown.len() > 30, "{shown:?}");
    for metric in metrics(&rules) {
        ensure!(documented.contains(metric), "there is no {metric} to alert on");
    }
    Ok(())
}

/// Panels do not overlap, and each has an expression that Prometheus understands.
#[test]
fn the_dashboard_is_sound() -> Result<()> {
    let dashboard = dashboard()?;
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().context("panels")? {
        let place =
            |key: &str| panel["gridPos"][key].as_u64().with_context(|| format!("{panel:#}"));
        let (x, y, width, height) = (place("x")?, place("y")?, place("w")?, place("h")?);
        ensure!(x + width <= 24, "{} is too wide", panel["title"]);
        for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            ensure!(taken.insert(cell), "{} lies on another panel", panel["title"]);
        }
        ensure!(ids.insert(panel["id"].as_u64()), "{} has another's id", panel["title"]);
    }
    let Some(promtool) = tool("promtool", "the dashboard's expressions were NOT parsed") else {
        return Ok(());
    };
    let file = scratch("dashboard")?.join("rules.yaml");
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    for (index, (_, expression)) in expressions(&dashboard)?.into_iter().enumerate() {
        // Grafana fills in variables before Prometheus sees them.
        let expression = expression.replace("$__rate_interval", "5m");
        rules.push_str(&format!("  - record: panel:{index}\n    expr: '{expression}'\n"));
    }
    fs::write(&file, rules)?;
    run(promtool, &["check".as_ref(), "rules".as_ref(), file.as_os_str()])?;
    Ok(())
}
