//! The chart, and the manifests that are made from it.

use crate::{holds, layouts, read, run, tool};
use anyhow::{Context, Result, ensure};
use seawall::config::{self, Flags, Settings};
use serde_json::Value;
use std::{path::Path, process::Command};

const CHART: &str = "deploy/helm/seawall";

/// What the chart makes of these values, or nothing where there is no helm.
fn render(values: &[&str]) -> Result<Option<Vec<String>>> {
    let Some(helm) = tool("helm", "helm", "the chart was NOT rendered") else { return Ok(None) };
    let mut args = vec!["template", "seawall", CHART, "--namespace", "seawall"];
    args.extend(values.iter().flat_map(|value| ["--set", *value]));
    let (rendered, _) = run(helm, &args)?;
    // Versions of helm differ in the order.
    let mut documents: Vec<_> =
        format!("\n{rendered}").split("\n---\n").map(|text| text.trim().to_owned()).collect();
    documents.retain(|document| !document.is_empty());
    documents.sort();
    Ok(Some(documents))
}

fn manifest(documents: &[String]) -> String {
    documents.iter().map(|document| format!("---\n{document}\n")).collect()
}

#[test]
fn the_manifests_are_what_the_chart_makes() -> Result<()> {
    let Some(documents) = render(&["serviceMonitor.enabled=true"])? else { return Ok(()) };
    // Apart, since it is understood only where the Prometheus operator is.
    let (monitors, rest): (Vec<_>, Vec<_>) =
        documents.into_iter().partition(|document| document.contains("\nkind: ServiceMonitor\n"));
    holds("deploy/manifests/servicemonitor.yaml", &manifest(&monitors))?;
    holds("deploy/manifests/seawall.yaml", &manifest(&rest))
}

#[test]
fn helm_finds_nothing_wrong_with_the_chart() -> Result<()> {
    let Some(helm) = tool("helm", "helm", "the chart was NOT linted") else { return Ok(()) };
    for kind in ["kind=Deployment", "kind=DaemonSet"] {
        run(&helm, &["lint", "--strict", CHART, "--set", kind])?;
    }
    Ok(())
}

/// The value of a key that stands alone in its line.
fn field<'a>(document: &'a str, key: &str) -> Option<&'a str> {
    document.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "))
}

/// The settings in the ConfigMap.
fn settings(documents: &[String]) -> Result<Settings> {
    let map = documents.iter().find(|document| document.contains("\nkind: ConfigMap\n"));
    let (_, file) = map.and_then(|map| map.split_once("  seawall.yaml: |\n")).context("a file")?;
    let text: String = file
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line)))
        .collect();
    Ok(config::build(Some((Path::new("seawall.yaml"), &text)), &Flags::default())?.settings)
}

#[test]
fn pods_get_a_sound_configuration_and_time_to_drain() -> Result<()> {
    for kind in ["kind=Deployment", "kind=DaemonSet"] {
        let Some(documents) = render(&[kind])? else { return Ok(()) };
        let settings = settings(&documents)?;
        let workload = documents.iter().find(|document| document.contains("\nkind: D"));
        let workload = workload.context("a workload")?;
        let port = settings.listeners[0].listener.address.port();
        ensure!(workload.contains(&format!("containerPort: {port}\n")), "{workload}");
        let patience =
            field(workload, "terminationGracePeriodSeconds").context("a grace period")?;
        let drain = settings.drain.delay + settings.drain.grace;
        ensure!(patience.parse::<u64>()? >= drain.as_secs() + 5, "a drain takes {drain:?}");
        let limit = layouts::memory_limit(workload)?;
        ensure!(limit >= layouts::memory(&settings), "it would be killed for what it may hold");
        let disruptions = documents.iter().any(|document| document.contains("PodDisruptionBudget"));
        assert_eq!(disruptions, kind == "kind=Deployment");
    }
    Ok(())
}

#[test]
fn an_admin_port_with_tls_is_probed_and_read_over_tls() -> Result<()> {
    let Some(documents) = render(&[
        "certificates.admin=seawall-admin",
        "config.admin.token_file=/etc/seawall/tls/admin/token",
        "config.admin.tls.cert_file=/etc/seawall/tls/admin/tls.crt",
        "config.admin.tls.key_file=/etc/seawall/tls/admin/tls.key",
        "serviceMonitor.enabled=true",
    ])?
    else {
        return Ok(());
    };
    let admin = settings(&documents)?.admin.context("an admin port")?;
    ensure!(admin.tls.is_some() && admin.token_file.is_some());
    let text = documents.concat();
    assert_eq!(text.matches("scheme: HTTPS\n").count(), 3, "start, life, readiness");
    assert_eq!(text.matches("scheme: https\n").count(), 1, "metrics");
    assert_eq!(text.matches("mountPath: /etc/seawall/tls/admin\n").count(), 1);
    Ok(())
}

#[test]
fn a_wrong_configuration_is_not_rendered() -> Result<()> {
    let Some(helm) = tool("helm", "helm", "wrong values of the chart were NOT tried") else {
        return Ok(());
    };
    for (value, expected) in [
        ("config.clustrs.main=x", "'clustrs' not allowed"),
        ("config.drain.delay=5", "/config/drain/delay"),
        ("config.admin.address=off", "/config/admin/address"),
        ("kind=StatefulSet", "/kind"),
        ("replica=3", "'replica' not allowed"),
    ] {
        let output = Command::new(&helm)
            .args(["template", "seawall", CHART, "--set", value])
            .current_dir(crate::repo())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains(expected), "{value}: {said}");
    }
    Ok(())
}

/// The part of `values.schema.json` about `config` is Seawall's own schema.
#[test]
fn values_are_checked_by_the_schema_of_this_version() -> Result<()> {
    let path = format!("{CHART}/values.schema.json");
    let mut values: Value = serde_json::from_str(&read(&path)?)?;
    let mut schema = config::schema().to_value();
    let root = schema.as_object_mut().context("an object")?;
    let mut definitions = root.remove("$defs").context("definitions")?;
    root.remove("$schema");
    definitions["Seawall"] = schema;
    values["$defs"] = definitions;
    holds(&path, &format!("{values:#}\n"))
}

#[test]
fn chart_pod_and_program_have_one_version() -> Result<()> {
    let chart = read(&format!("{CHART}/Chart.yaml"))?;
    for key in ["version", "appVersion"] {
        assert_eq!(field(&chart, key), Some(env!("CARGO_PKG_VERSION")), "{key}");
    }
    let image = format!("seawall:{}", env!("CARGO_PKG_VERSION"));
    let pod = read("deploy/static-pod/seawall.yaml")?;
    ensure!(field(&pod, "image").is_some_and(|name| name.ends_with(&image)), "not {image}");
    Ok(())
}
