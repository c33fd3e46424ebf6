//! How many lists go to etcd at once, and which of them goes first.

use crate::{
    Kv, Refused, list,
    scripted::{Manner, Scripted},
};
use anyhow::{Context, Result, ensure};
use seawall::etcd::proto::etcdserverpb::{RangeRequest, RangeResponse};
use seawall_testkit::{SeawallProcess, eventually};
use std::{fs, path::PathBuf};
use tokio::task::JoinHandle;

const PODS: &str = "/registry/pods/";
const SECRETS: &str = "/registry/secrets/";

/// An etcd that says when a list is answered, behind a Seawall.
struct Turns {
    etcd: Scripted,
    seawall: SeawallProcess,
}

type Reading = JoinHandle<Result<Result<RangeResponse, Refused>>>;

impl Turns {
    async fn start(name: &str, protection: &str) -> Result<Self> {
        Self::of(name, |endpoints| crate::text(endpoints, protection)).await
    }

    async fn of(name: &str, config: impl Fn(&[String]) -> String) -> Result<Self> {
        let etcd = Scripted::start().await?;
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("turns-{name}.yaml"));
        fs::write(&path, config(&[etcd.endpoint()]))?;
        let seawall = crate::seawall(&path).await?;
        Ok(Self { etcd, seawall })
    }

    /// Begins to ask on a connection of its own.
    fn ask(&self, request: RangeRequest) -> Result<Reading> {
        let address = self.seawall.address("main")?;
        Ok(tokio::spawn(async move { Kv::connect(address).await?.range(&request).await }))
    }

    /// The same for lists of which none shares another's answer.
    fn ask_each(&self, prefix: &str, number: usize) -> Result<Vec<Reading>> {
        let own = |number| RangeRequest { key: format!("{prefix}{number}").into(), ..list(prefix) };
        (0..number).map(|number| self.ask(own(number))).collect()
    }

    /// Waits until the metric has this value.
    async fn metric(&self, name: &str, value: f64) -> Result<()> {
        let admin = self.seawall.admin()?;
        eventually(crate::client::DEADLINE, name, async || {
            let now = crate::operator::metric(admin, name).await?;
            ensure!(now == value, "{name} is {now}");
            Ok(())
        })
        .await
    }

    /// Waits until the queue of lists has this many `limit`, `running` or `waiting`.
    async fn lists(&self, what: &str, number: u32) -> Result<()> {
        let gauge = format!("seawall_queue_{what}{{cluster=\"main\",queue=\"lists\"}} {number}");
        let admin = self.seawall.admin()?;
        eventually(crate::client::DEADLINE, "the queue of lists", async || {
            let (_, text) = crate::operator::get(admin, "/metrics").await?;
            text.lines().any(|line| line == gauge).then_some(()).context(gauge.clone())
        })
        .await
    }
}

async fn answered(readings: impl IntoIterator<Item = Reading>) -> Result<()> {
    for reading in readings {
        let answer = reading.await??;
        ensure!(answer.is_ok(), "{answer:?}");
    }
    Ok(())
}

/// Less than what makes a small read slow here, and more than it takes where much else is done.
const MARGIN: &str = "queues: {latency_margin: 300ms}";

/// While lists keep etcd busy, what is small waits at etcd.
#[tokio::test]
async fn lists_become_fewer_while_small_reads_are_slow() -> Result<()> {
    let turns = Turns::start("slow", MARGIN).await?;
    turns.lists("limit", 2).await?;
    let mut readings = turns.ask_each(PODS, 1)?;
    turns.etcd.lists(1).await?;
    turns.etcd.answer_small_reads(Manner::Slowly);
    turns.lists("limit", 1).await?;
    // As many as before, once it is over and somebody wants it.
    turns.etcd.answer_small_reads(Manner::AtOnce);
    readings.extend(turns.ask_each(SECRETS, 4)?);
    turns.lists("limit", 2).await?;
    turns.etcd.let_go(readings.len());
    answered(readings).await
}

/// It may answer at once, and its watches be late all the same.
#[tokio::test]
async fn lists_become_fewer_while_watches_lag() -> Result<()> {
    let config = |endpoints: &[String]| {
        crate::text(endpoints, MARGIN).replace("mirror: {mode: off}", "mirror: {mode: enforce}")
    };
    let turns = Turns::of("lag", config).await?;
    turns.metric("seawall_mirror_live", 1.0).await?;
    turns.lists("limit", 2).await?;
    // It is in no collection that would be loaded instead.
    let reading = turns.ask(list("/registry/"))?;
    turns.etcd.lists(1).await?;
    turns.etcd.write_unseen();
    turns.lists("limit", 1).await?;
    turns.etcd.let_go(1);
    answered([reading]).await
}

/// What a member does that defragments: nothing, for as long as that takes.
#[tokio::test]
async fn lists_become_fewer_while_a_member_defragments() -> Result<()> {
    let turns = Turns::start("defragmenting", "queues: {lists: {concurrency: 8}}").await?;
    turns.lists("limit", 8).await?;
    let before = turns.ask_each(PODS, 1)?;
    turns.etcd.lists(1).await?;
    turns.etcd.answer_small_reads(Manner::Never);
    turns.lists("limit", 1).await?;
    turns.etcd.answer_small_reads(Manner::AtOnce);
    turns.etcd.let_go(1 + 4);
    answered(before).await?;
    answered(turns.ask_each(SECRETS, 4)?).await
}

/// Has `rule` hold for secrets, and tells in which order lists of `pods` and `secrets` get to etcd that
/// have all waited for the same turn, the pods for longer.
async fn order(name: &str, rule: &str, pods: usize, secrets: usize) -> Result<String> {
    let rule = format!("rules:\n- {{name: it, match: {{prefixes: [/registry/secrets]}}, {rule}}}");
    let protection = format!("queues: {{lists: {{concurrency: 1, wait_max: 1h}}}}\n{rule}");
    let turns = Turns::start(name, &protection).await?;
    let mut readings = turns.ask_each("/registry/nodes/", 1)?;
    turns.etcd.lists(1).await?;
    for (prefix, number) in [(PODS, pods), (SECRETS, secrets)] {
        readings.extend(turns.ask_each(prefix, number)?);
        turns.lists("waiting", readings.len() as u32 - 1).await?;
    }
    turns.etcd.let_go(readings.len());
    let came = turns.etcd.lists(readings.len()).await?;
    answered(readings).await?;
    let letter =
        |request: &RangeRequest| if request.key.starts_with(b"/registry/p") { 'p' } else { 's' };
    Ok(came[1..].iter().map(letter).collect())
}

#[tokio::test]
async fn who_has_priority_goes_first() -> Result<()> {
    let order = order("priority", "priority: high", 3, 2).await?;
    ensure!(order == "ssppp", "they came in the order {order}");
    Ok(())
}

/// Of two that have as much to ask, one gets eight times as much.
#[tokio::test]
async fn who_weighs_more_gets_more_turns() -> Result<()> {
    let equal = order("equal", "weight: 1", 3, 3).await?;
    ensure!(equal == "pspsps", "they came in the order {equal}");
    let heavy = order("weight", "weight: 8", 3, 3).await?;
    ensure!(heavy == "pssspp", "they came in the order {heavy}");
    Ok(())
}

#[tokio::test]
async fn what_is_not_to_be_cut_is_asked_for_whole() -> Result<()> {
    let rule = "rules:\n- {name: it, match: {prefixes: [/registry/secrets]}, page: false}";
    let turns = Turns::start("page", rule).await?;
    turns.etcd.let_go(2);
    for (prefix, cut) in [(PODS, true), (SECRETS, false)] {
        answered([turns.ask(list(prefix))?]).await?;
        let asked = turns.etcd.lists(1).await?.pop().context("nothing is asked")?;
        ensure!(asked.key == prefix, "{asked:?}");
        ensure!((asked.limit > 0) == cut, "{asked:?}");
    }
    Ok(())
}

/// One that joined a list which had waited for its turn for as long as it may was refused with it,
/// however short it had waited itself.
#[tokio::test]
async fn who_joins_a_list_that_is_refused_has_a_turn_of_its_own() -> Result<()> {
    let turns = Turns::start("joined", "queues: {lists: {concurrency: 1, wait_max: 2s}}").await?;
    let running = turns.ask_each("/registry/nodes/", 1)?;
    turns.etcd.lists(1).await?;
    let first = turns.ask(list(PODS))?;
    turns.lists("waiting", 1).await?;
    let joined = turns.ask(list(PODS))?;
    turns.metric("seawall_reads_total", 3.0).await?;
    let refused = first.await??.err().context("it is answered")?;
    ensure!(refused.text.contains("its turn did not come"), "{refused:?}");
    turns.etcd.let_go(2);
    answered(running.into_iter().chain([joined])).await
}
