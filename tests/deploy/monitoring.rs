//! Alert rules and the dashboard.

use crate::{DEADLINE, operator, read, repo, run, scratch, seawall, tool};
use anyhow::{Context, Result, ensure};
use etcd_client::Client;
use seawall_testkit::{Cluster, SeawallProcess, eventually};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
};
use tokio::process::{Child, Command};

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
    let Some(promtool) = tool("prometheus", "promtool", "the alert rules were NOT tried") else {
        return Ok(());
    };
    run(&promtool, &["check", "rules", "--lint-fatal", RULES])?;
    run(&promtool, &["check", "config", "deploy/prometheus/prometheus.yaml"])?;
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

/// A row that is added or renamed wants its picture; `scripts/dashboard-pictures` draws it.
#[test]
fn each_row_of_the_dashboard_is_shown() -> Result<()> {
    let (dashboard, page) = (dashboard()?, read("docs/deploy/dashboard.md")?);
    for panel in dashboard["panels"].as_array().context("panels")? {
        if panel["type"] == "row" {
            let title = panel["title"].as_str().context("a title")?;
            let picture = format!("dashboard-{}.png", title.to_lowercase().replace(' ', "-"));
            ensure!(page.contains(&format!("\n## {title}\n")), "{title} has no section");
            ensure!(page.contains(&picture), "{title} has no picture");
            ensure!(repo().join("docs/images").join(&picture).is_file(), "there is no {picture}");
        }
    }
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
    let Some(promtool) =
        tool("prometheus", "promtool", "the dashboard's expressions were NOT parsed")
    else {
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

/// A Prometheus that reads this Seawall as `prometheus.yaml` says, only more often.
fn prometheus(program: &Path, admin: SocketAddr) -> Result<(Child, SocketAddr)> {
    let dir = scratch("prometheus")?;
    let config = read("deploy/prometheus/prometheus.yaml")?
        .replace("15s", "250ms")
        .replace("127.0.0.1:23791", &admin.to_string())
        .replace("alerts.yaml", &repo().join(RULES).display().to_string());
    fs::write(dir.join("prometheus.yaml"), config)?;
    // It takes no port of 0 whose number it would tell.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let child = Command::new(program)
        .arg(format!("--config.file={}", dir.join("prometheus.yaml").display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    Ok((child, address))
}

async fn ask(prometheus: SocketAddr, path: &str) -> Result<Value> {
    let (code, body) = operator::get(prometheus, path).await?;
    ensure!(code == 200, "{path} answers {code}: {body}");
    Ok(serde_json::from_str(&body)?)
}

/// How many series an expression has now.
async fn series(prometheus: SocketAddr, expression: &str) -> Result<usize> {
    let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer = ask(prometheus, &format!("/api/v1/query?query={encoded}")).await?;
    Ok(answer["data"]["result"].as_array().context("a result")?.len())
}

/// Some calls of each kind, so that each metric has a sample.
async fn use_seawall(seawall: &SeawallProcess) -> Result<Client> {
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    client.put("/registry/pods/default/a", "v", None).await?;
    client.get("/registry/pods/default/a", None).await?;
    client.watch("/registry/pods/default/a", None).await?;
    Ok(client)
}

#[tokio::test]
async fn prometheus_reads_seawall_and_raises_no_alert() -> Result<()> {
    let unchecked = "panels and alerts were NOT tried with a Prometheus";
    let Some(program) = tool("prometheus", "prometheus", unchecked) else { return Ok(()) };
    let cluster = Cluster::single().await?;
    let endpoint = cluster.member(0).endpoint();
    let builder = SeawallProcess::builder().binary(seawall());
    let seawall = builder.args(["--upstream", &endpoint]).start().await?;
    let _client = use_seawall(&seawall).await?;
    let (_prometheus, address) = prometheus(&program, seawall.admin()?)?;
    eventually(DEADLINE, "Prometheus to have read it twice", async || {
        ensure!(
            series(address, "count_over_time(up{job=\"seawall\"}[1m]) > 1 and up == 1").await? == 1
        );
        Ok(())
    })
    .await?;
    let dashboard = dashboard()?;
    for (title, expression) in expressions(&dashboard)? {
        let expression = expression.replace("$__rate_interval", "1m");
        let expression = expression.replace("$instance", ".*").replace("$cluster", ".*");
        let found = series(address, &expression).await.with_context(|| title.to_owned())?;
        // What shows only what is wrong shows nothing.
        let about_trouble = ["> 0", "!="].iter().any(|text| expression.contains(text));
        ensure!(found > 0 || about_trouble, "{title} shows nothing: {expression}");
    }
    let rules = eventually(DEADLINE, "rules to be evaluated", async || {
        let rules = ask(address, "/api/v1/rules").await?.to_string();
        ensure!(!rules.contains(r#""health":"unknown""#));
        Ok(rules)
    })
    .await?;
    ensure!(!rules.contains(r#""health":"err""#), "{rules}");
    ensure!(
        series(address, r#"ALERTS{alertstate="firing"}"#).await? == 0,
        "a Seawall that is well raises an alert"
    );
    Ok(())
}
