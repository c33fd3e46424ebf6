//! The record of calls.

use crate::{DEADLINE, configure, configured};
use anyhow::{Context, Result, ensure};
use etcd_client::{Client, GetOptions, WatchOptions};
use seawall::attribution::{TraceLine, read_trace};
use seawall_testkit::{Cluster, eventually};
use std::{fs, path::Path};

const PODS: &str = "/registry/pods/";

fn read(file: &Path) -> Result<Vec<TraceLine>> {
    read_trace(file, &fs::read_to_string(file)?).map_err(anyhow::Error::msg)
}

/// Waits until there is such a line.
async fn recorded(file: &Path, what: &str, is: impl Fn(&TraceLine) -> bool) -> Result<TraceLine> {
    eventually(DEADLINE, what, async || {
        let lines = read(file)?;
        lines.iter().find(|line| is(line)).cloned().with_context(|| format!("{lines:?}"))
    })
    .await
}

/// A replay could open no watch and ask for no page as it was asked for, since neither was recorded.
#[tokio::test]
async fn watches_and_limits_are_recorded() -> Result<()> {
    let cluster = Cluster::single().await?;
    let file = cluster.dir().join("trace.jsonl");
    let text = "clusters: {main: {endpoints: [{main}]}}\nattribution: {trace: {file: {trace}}}\n";
    let text = text.replace("{trace}", &file.display().to_string());
    let seawall = configured(&configure(&cluster, &text)?).await?;
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    for name in ["a", "b", "c"] {
        client.put(format!("{PODS}{name}"), "a secret", None).await?;
    }
    client.get(PODS, Some(GetOptions::new().with_prefix().with_limit(2))).await?;
    let page = recorded(&file, "the page", |line| line.limit > 0).await?;
    assert_eq!((page.limit, page.key.as_str(), page.ended), (2, PODS, false));

    // How far back a watch begins is told by what Seawall has heard of etcd by then.
    let watch = eventually(DEADLINE, "a watch of the past", async || {
        let options = WatchOptions::new().with_prefix().with_start_revision(2);
        drop(client.watch(PODS, Some(options)).await?);
        recorded(&file, "its end", |line| line.ended).await?;
        let lines = read(&file)?;
        let watch = lines.iter().find(|line| line.watch > 0 && line.past_revisions == 3);
        watch.cloned().with_context(|| format!("{lines:?}"))
    })
    .await?;
    assert_eq!((watch.key.as_str(), watch.range_end.as_str()), (PODS, "/registry/pods0"));
    let number = watch.watch;
    let end = recorded(&file, "its end", |line| line.watch == number && line.ended).await?;
    assert_eq!(end.stream, watch.stream);
    assert!(end.at_us >= watch.at_us + end.took_us && end.took_us > 0, "{watch:?} {end:?}");

    let mut stream = client.watch(PODS, Some(WatchOptions::new().with_prefix())).await?;
    let begins = |line: &TraceLine| line.watch > number && line.past_revisions == 0;
    let watch = recorded(&file, "a watch from now on", begins).await?;
    assert!(!watch.ended);
    let created = stream.message().await?.context("it is created")?;
    stream.cancel(created.watch_id()).await?;
    let ended = |line: &TraceLine| line.watch == watch.watch && line.ended;
    recorded(&file, "the end of a watch whose stream goes on", ended).await?;
    ensure!(!fs::read_to_string(&file)?.contains("secret"), "a value was recorded");
    Ok(())
}
