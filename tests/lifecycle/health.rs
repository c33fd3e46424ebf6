//! What the admin port says of a Seawall that works, and of one that does not.

use crate::{DEADLINE, configure, configured, operator};
use anyhow::{Context, Result, ensure};
use seawall_testkit::{Cluster, SeawallProcess, eventually};

/// Waits until a path answers with this code, and returns the text.
async fn answers(seawall: &SeawallProcess, path: &str, code: u16) -> Result<String> {
    eventually(DEADLINE, &format!("{path} to answer {code}"), async || {
        let (found, text) = operator::get(seawall.admin()?, path).await?;
        ensure!(found == code, "it answers {found}: {text}");
        Ok(text)
    })
    .await
}

#[tokio::test]
async fn readiness_and_liveness_follow_etcd() -> Result<()> {
    let cluster = Cluster::single().await?;
    let text = "clusters: {main: {endpoints: [{main}], backoff_max: 200ms}}
admin: {livez_after: 3s}
";
    let seawall = configured(&configure(&cluster, text)?).await?;
    ensure!(answers(&seawall, "/readyz", 200).await? == "ok\n", "readiness is put plainly");
    ensure!(answers(&seawall, "/livez", 200).await? == "ok\n", "liveness is put plainly");
    let verbose = answers(&seawall, "/readyz?verbose", 200).await?;
    ensure!(verbose.contains("[+]cluster/main ok"), "{verbose}");

    let verbose = answers(&seawall, "/livez?verbose", 200).await?;
    for check in ["cluster/main", "thread/data-1"] {
        ensure!(verbose.contains(&format!("[+]{check} ok")), "{verbose}");
    }

    cluster.member(0).kill().await?;
    let reason = answers(&seawall, "/readyz", 503).await?;
    ensure!(reason.contains("[-]cluster/main failed: "), "it tells no reason: {reason}");
    let reason = answers(&seawall, "/livez", 503).await?;
    ensure!(reason.contains("no member has answered for"), "it tells no reason: {reason}");

    cluster.member(0).restart().await?;
    answers(&seawall, "/readyz", 200).await?;
    answers(&seawall, "/livez", 200).await?;
    Ok(())
}

/// The log said that the change was taken over, and it was not.
#[tokio::test]
async fn how_long_etcd_may_be_silent_changes_live() -> Result<()> {
    let cluster = Cluster::single().await?;
    let text = |livez_after: &str| {
        let clusters = "clusters: {main: {endpoints: [{main}]}}";
        format!("{clusters}\nadmin: {{livez_after: {livez_after}}}\n")
    };
    let seawall = configured(&configure(&cluster, &text("10m"))?).await?;
    cluster.member(0).kill().await?;
    answers(&seawall, "/readyz", 503).await?;
    answers(&seawall, "/livez", 200).await?;
    configure(&cluster, &text("1s"))?;
    seawall.reload()?;
    answers(&seawall, "/livez", 503).await?;
    Ok(())
}

#[tokio::test]
async fn logs_and_metrics_can_be_parsed() -> Result<()> {
    let cluster = Cluster::single().await?;
    let seawall =
        configured(&configure(&cluster, "clusters: {main: {endpoints: [{main}]}}")?).await?;
    for line in seawall.log() {
        let whole = ["timestamp", "level", "target", "message"];
        ensure!(whole.iter().all(|name| line.text(name).is_some()), "not a whole line: {line:?}");
    }
    let text = answers(&seawall, "/metrics", 200).await?;
    ensure!(text.ends_with("# EOF\n"), "OpenMetrics ends with a mark");
    for line in text.lines().filter(|line| !line.starts_with("# ")) {
        let (series, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
        value.parse::<f64>().with_context(|| line.to_owned())?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let named = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte));
        ensure!(named && labels.ends_with('}'), "not a sample: {line}");
    }
    Ok(())
}
