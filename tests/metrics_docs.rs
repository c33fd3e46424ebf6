//! `docs/metrics.md` names the metrics that there are, with their types.

// Each of the test programs that share it uses a part.
#[allow(dead_code)]
#[path = "failover/operator.rs"]
mod operator;

use anyhow::{Context, Result};
use etcd_client::Client;
use seawall_testkit::{Cluster, SeawallProcess};
use std::{collections::BTreeMap, env, fs, path::PathBuf};

/// Rows of the tables in the document: a name and a type, each in code marks.
fn documented() -> Result<BTreeMap<String, String>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let text = fs::read_to_string(path)?;
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.trim_end_matches('`');
        Some((name.to_owned(), cells.next()?.to_owned()))
    });
    Ok(rows.collect())
}

/// What the text of /metrics declares. A counter's samples have `_total` behind its name.
fn exported(text: &str) -> Result<BTreeMap<String, String>> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .map(|(name, kind)| {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let sample = format!("{name}{suffix}");
            let samples =
                if kind == "histogram" { format!("{name}_bucket") } else { sample.clone() };
            let mut lines = text.lines();
            // A family without a sample is not documented by chance.
            lines
                .find(|line| line.starts_with(&samples))
                .with_context(|| format!("no {sample}"))?;
            Ok((sample, kind.to_owned()))
        })
        .collect()
}

#[tokio::test]
async fn every_metric_is_documented() -> Result<()> {
    let cluster = Cluster::single().await?;
    let binary = env::var_os("SEAWALL_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_seawall").into(), PathBuf::from);
    let seawall = SeawallProcess::builder()
        .binary(binary)
        .args(["--upstream", &cluster.member(0).endpoint()])
        .start()
        .await?;
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    client.put("/k", "v", None).await?;
    client.get("/k", None).await?;
    let (_, text) = operator::get(seawall.admin()?, "/metrics").await?;
    assert_eq!(documented()?, exported(&text)?);
    Ok(())
}
