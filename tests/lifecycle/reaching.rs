//! What the log says of etcd at the start, whether it is there or not.

use crate::{DEADLINE, configure, configured};
use anyhow::{Context, Result, ensure};
use seawall_testkit::{Cluster, LogLine, SeawallProcess};

const SILENT: &str = "etcd does not answer: calls fail until it does";

/// Waits for a line with this message, and about this cluster if it is about one.
async fn said(seawall: &SeawallProcess, message: &str, cluster: &str) -> Result<LogLine> {
    let is_it = |line: &LogLine| {
        line.message() == message && line.text("cluster").is_none_or(|about| about == cluster)
    };
    seawall.log_contains(DEADLINE, message, is_it).await
}

/// Where the first line with this message stands.
fn place(seawall: &SeawallProcess, message: &str) -> Result<usize> {
    let log = seawall.log();
    let place = log.iter().position(|line| line.message() == message);
    place.with_context(|| format!("{message:?} is not there: {log:#?}"))
}

/// The log said `ready` while no member of etcd answered, and not which one it waits for.
#[tokio::test]
async fn an_etcd_that_is_not_there_is_named_and_awaited() -> Result<()> {
    let cluster = Cluster::single().await?;
    cluster.member(0).kill().await?;
    let text = "clusters: {main: {endpoints: [{main}], backoff_max: 200ms}}\n";
    let seawall = configured(&configure(&cluster, text)?).await?;
    let warning = said(&seawall, SILENT, "main").await?;
    let members = warning.text("members").context("no members")?;
    ensure!(members.contains(&cluster.member(0).endpoint()), "which one? {members}");
    ensure!(members.contains("refused"), "why? {members}");

    cluster.member(0).restart().await?;
    said(&seawall, "etcd answers", "main").await?;
    said(&seawall, "ready", "main").await?;
    ensure!(place(&seawall, "started")? < place(&seawall, SILENT)?);
    ensure!(place(&seawall, SILENT)? < place(&seawall, "ready")?, "it was not ready");
    Ok(())
}

#[tokio::test]
async fn what_a_reload_points_at_is_awaited_instead() -> Result<()> {
    let (gone, main) = (Cluster::single().await?, Cluster::single().await?);
    gone.member(0).kill().await?;
    let seawall =
        configured(&configure(&gone, "clusters: {main: {endpoints: [{main}]}}\n")?).await?;
    // Readiness is about the default cluster.
    let text = format!(
        "listeners: [{{default: main, routes: [{{prefix: /registry/events, cluster: events}}]}}]
clusters: {{main: {{endpoints: [{}]}}, events: {{endpoints: [{{main}}]}}}}
",
        main.member(0).endpoint()
    );
    configure(&gone, &text)?;
    seawall.reload()?;
    let ready = said(&seawall, "ready", "main").await?;
    ensure!(ready.text("clusters") == Some("[\"main\"]"), "{ready:?}");
    said(&seawall, SILENT, "events").await?;
    Ok(())
}
