//! Watchers that etcd serves come back when memory can serve them.

use crate::{
    DEADLINE, Stage, operator, twins,
    watches::{PODS, Watching, below},
};
use anyhow::{Context, Result, ensure};
use seawall::etcd::proto::etcdserverpb::WatchCreateRequest;
use seawall_testkit::{Binaries, Cluster, eventually};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;

const OFF: &str = "/mirror/main?collection=/registry/pods&mode=off";
const ON: &str = "/mirror/main?collection=/registry/pods&mode=on";
const ONE: &str = "/registry/pods/default/one";

/// The machine's newest etcd, since older ones may tell of progress before events.
async fn newest() -> Result<Stage> {
    Stage::of(Cluster::builder().binaries(&Binaries::newest()?).start().await?, "").await
}

impl Stage {
    async fn returns(&self) -> Result<f64> {
        self.metric("seawall_mirror_watch_returns_total").await
    }

    fn orders_progress(&self) -> bool {
        self.etcd.binaries().version() >= (3, 6)
    }

    /// Writes, as somebody always does, until so many watchers have come back.
    async fn until_returned(&self, watchers: usize) -> Result<()> {
        let direct = self.direct().await?;
        eventually(2 * DEADLINE, "watchers to come back", async || {
            direct.put(ONE, "again").await?;
            let returns = self.returns().await?;
            ensure!(returns == watchers as f64, "{returns} have, not {watchers}");
            Ok(())
        })
        .await
    }

    async fn until_handed_over(&self, watchers: usize) -> Result<()> {
        eventually(DEADLINE, "watchers to leave memory", async || {
            let handovers = self.handovers().await?;
            ensure!(handovers == watchers as f64, "{handovers} have, not {watchers}");
            Ok(())
        })
        .await
    }
}

/// In the midst of it they go on at etcd, and come back.
#[tokio::test]
async fn watchers_that_come_back_to_memory_miss_nothing() -> Result<()> {
    twins::compare_at(newest().await?, 3, async |stage| {
        stage.switch(OFF).await?;
        stage.until_handed_over(twins::WATCHERS).await?;
        stage.switch(ON).await?;
        // None of them watches all of it, so that it is not loaded for them.
        stage.warm(PODS).await?;
        if !stage.orders_progress() {
            return Ok(());
        }
        stage.until_returned(twins::WATCHERS).await?;
        ensure!(stage.watchers().await? == twins::WATCHERS as f64, "not all are in memory");
        eventually(DEADLINE, "etcd to know of none", async || {
            // That of the feed, and those of the twins.
            let watchers = stage.at_etcd().await?;
            ensure!(watchers == 1.0 + twins::WATCHERS as f64, "{watchers} watchers are at etcd");
            Ok(())
        })
        .await
    })
    .await
    .map(drop)
}

/// Neither the mirror's mode as the stream was opened nor that of later keeps them at etcd for ever.
#[tokio::test]
async fn a_watcher_that_was_never_in_memory_comes_there() -> Result<()> {
    let stage = newest().await?;
    if !stage.orders_progress() {
        return Ok(());
    }
    let kv = stage.through().await?;
    let start = kv.put(ONE, "").await?.revision + 1;
    stage.switch("/protection/mirror?mode=observe").await?;
    let mut watching = Watching::open(&stage).await?;
    let id = watching.create(below(PODS, start)).await?;
    // Those that memory does not have are another stream's.
    let elsewhere =
        WatchCreateRequest { key: "/elsewhere".into(), ..WatchCreateRequest::default() };
    watching.create(elsewhere).await?;
    ensure!(stage.watchers().await? == 0.0, "it is in memory");
    stage.switch("/protection/mirror?mode=enforce").await?;
    stage.until_returned(1).await?;
    let (_, shown) = operator::get(stage.seawall.admin()?, "/mirror").await?;
    let shown = serde_json::from_str::<Value>(&shown)?["clusters"]["main"].take();
    ensure!(shown["watch_returns"] == 1, "the admin port says otherwise: {shown}");
    let last = kv.put(ONE, "last").await?.revision;
    let mut revisions = Vec::new();
    while revisions.last() != Some(&last) {
        let response = watching.next().await?;
        ensure!(response.watch_id == id && !response.events.is_empty(), "{response:?}");
        revisions.extend(
            response.events.iter().filter_map(|event| Some(event.kv.as_ref()?.mod_revision)),
        );
    }
    ensure!(revisions == (start..=last).collect::<Vec<_>>(), "{revisions:?} from {start} on");
    watching.cancel(id)?;
    let canceled = watching.next().await?;
    ensure!(canceled.canceled && canceled.watch_id == id, "{canceled:?}");
    Ok(())
}

/// Whenever a client cancels, it is told so once, and then nothing any more.
#[tokio::test]
async fn watchers_are_cancelled_on_their_way_back() -> Result<()> {
    const WATCHERS: i64 = 200;
    let stage = newest().await?;
    if !stage.orders_progress() {
        return Ok(());
    }
    let kv = stage.direct().await?;
    let start = kv.put(ONE, "").await?.revision + 1;
    stage.warm(PODS).await?;
    let mut watching = Watching::open(&stage).await?;
    for _ in 0..WATCHERS {
        watching.create(below(PODS, start)).await?;
    }
    stage.switch(OFF).await?;
    stage.until_handed_over(WATCHERS as usize).await?;
    stage.switch(ON).await?;
    let mut left: BTreeSet<_> = (0..WATCHERS).collect();
    let mut seen: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    let mut canceled = BTreeSet::new();
    let mut last = start - 1;
    // The last ones are cancelled in memory, those before wherever they are.
    let began = Instant::now();
    while left.len() > 50 || stage.returns().await? == 0.0 {
        ensure!(began.elapsed() < 2 * DEADLINE, "none has come back");
        last = kv.put(ONE, "again").await?.revision;
        let asked = if left.len() > 60 { left.pop_first() } else { None };
        if let Some(id) = asked {
            watching.cancel(id)?;
        }
        if left.len() > 50 && stage.returns().await? > 0.0 {
            let asked: Vec<_> = left.iter().copied().take(left.len() - 50).collect();
            for id in asked {
                left.remove(&id);
                watching.cancel(id)?;
            }
        }
    }
    let done = |seen: &BTreeMap<i64, Vec<i64>>, canceled: &BTreeSet<i64>| {
        let all = left.iter().all(|id| seen.get(id).and_then(|seen| seen.last()) == Some(&last));
        all && canceled.len() + left.len() == WATCHERS as usize
    };
    while !done(&seen, &canceled) {
        let response = watching.next().await?;
        let id = response.watch_id;
        ensure!(!canceled.contains(&id), "after its end: {response:?}");
        if response.canceled {
            ensure!(!left.contains(&id), "nobody cancelled it: {response:?}");
            canceled.insert(id);
        }
        for event in &response.events {
            let revision = event.kv.as_ref().context("no kv")?.mod_revision;
            let seen = seen.entry(id).or_default();
            let next = seen.last().map_or(start, |last| last + 1);
            ensure!(revision == next, "{id} is told of {revision}, not {next}");
            seen.push(revision);
        }
    }
    ensure!(stage.watchers().await? == left.len() as f64, "others are in memory");
    Ok(())
}
