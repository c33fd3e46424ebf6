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
    let values = ["serviceMonitor.enabled=true", "prometheusRule.enabled=true"];
    let Some(mut rest) = render(&values)? else { return Ok(()) };
    // Apart, since they are understood only where the Prometheus operator is.
    for (kind, file) in
        [("ServiceMonitor", "servicemonitor.yaml"), ("PrometheusRule", "prometheusrule.yaml")]
    {
        let is_it = format!("\nkind: {kind}\n");
        let own: Vec<_> = rest.extract_if(.., |document| document.contains(&is_it)).collect();
        ensure!(own.len() == 1, "{} of {kind}", own.len());
        holds(&format!("deploy/manifests/{file}"), &manifest(&own))?;
    }
    holds("deploy/manifests/seawall.yaml", &manifest(&rest))
}

/// The chart may read no file outside of it.
#[test]
fn the_chart_has_the_alerts_that_there_are() -> Result<()> {
    holds(&format!("{CHART}/files/alerts.yaml"), &read("deploy/prometheus/alerts.yaml")?)
}

#[test]
fn alerts_lead_to_the_docs_that_an_operator_has() -> Result<()> {
    let docs = "prometheusRule.docs=https://git.example/seawall/docs/";
    let Some(documents) = render(&["prometheusRule.enabled=true", docs])? else { return Ok(()) };
    let rules = documents.iter().find(|document| document.contains("\nkind: PrometheusRule\n"));
    let rules = rules.context("the rules")?;
    let base = "runbook_url: https://git.example/seawall/docs/deploy/alerts.md#seawall";
    ensure!(!rules.contains("runbook:"), "{rules}");
    assert_eq!(rules.matches(base).count(), rules.matches("- alert: ").count());
    Ok(())
}

/// The audit could not be written to a file, for there was no place.
#[test]
fn what_seawall_writes_has_a_place_where_it_is_given_one() -> Result<()> {
    let Some(documents) = render(&[
        "config.log.audit_file=/var/log/seawall/audit.jsonl",
        "extraVolumes[0].name=logs,extraVolumes[0].emptyDir.sizeLimit=1Gi",
        "extraVolumeMounts[0].name=logs,extraVolumeMounts[0].mountPath=/var/log/seawall",
    ])?
    else {
        return Ok(());
    };
    let file = settings(&documents)?.log.audit_file.context("a file")?;
    let text = documents.concat();
    let place = file.parent().context("a directory")?.display();
    ensure!(text.contains(&format!("mountPath: {place}\n")), "{text}");
    ensure!(
        text.contains("- emptyDir:\n            sizeLimit: 1Gi\n          name: logs"),
        "{text}"
    );
    Ok(())
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
    for guide in ["kubeadm", "kubernetes"] {
        let guide = read(&format!("docs/deploy/{guide}.md"))?;
        let named = guide.split_whitespace().filter(|word| word.contains("/seawall:"));
        let named: Vec<_> = named.map(|word| word.trim_matches(['`', '(', ')', ':'])).collect();
        ensure!(!named.is_empty(), "where an image comes from is not said");
        ensure!(named.iter().all(|name| name.ends_with(&image)), "{named:?}, and not {image}");
    }
    Ok(())
}
