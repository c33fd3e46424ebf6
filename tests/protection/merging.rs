//! Lists that lie in two clusters and are put together here.

use crate::{Kv, list, operator, raw};
use anyhow::{Context, Result, ensure};
use seawall::{
    etcd::{method::Method, proto::etcdserverpb::RangeRequest},
    grpc::encode,
};
use seawall_testkit::{Cluster, Direction, Fault, FaultProxy, SeawallProcess, eventually};
use std::{fs, time::Duration};
use tokio::time::sleep;
use tonic::Code;

/// Two clusters behind one Seawall: pods live in the other one.
pub(crate) struct Pair {
    pub(crate) main: Cluster,
    pub(crate) other: Cluster,
    pub(crate) seawall: SeawallProcess,
}

impl Pair {
    /// `protection` is the YAML inside that key's braces.
    pub(crate) async fn start(protection: &str) -> Result<Self> {
        let (main, other) = (Cluster::single().await?, Cluster::single().await?);
        let at = other.member(0).endpoint();
        Self::at(main, other, &at, protection).await
    }

    /// Where the other one is reached at another address than its own.
    async fn at(main: Cluster, other: Cluster, at: &str, protection: &str) -> Result<Self> {
        let config = main.dir().join("seawall.yaml");
        let clusters = format!(
            "clusters:\n  main: {{endpoints: [{}]}}\n  other: {{endpoints: [{at}]}}\n\
             listeners: [{{default: main, routes: [{{prefix: /registry/pods/, cluster: other}}]}}]\n",
            main.member(0).endpoint()
        );
        fs::write(&config, format!("{clusters}protection: {{{protection}}}\n"))?;
        let seawall = crate::seawall(&config).await?;
        Ok(Self { main, other, seawall })
    }

    /// So many objects of `size` bytes of a resource, in the cluster that they belong to.
    async fn fill(&self, resource: &str, number: usize, size: usize) -> Result<()> {
        let cluster = if resource == "pods" { &self.other } else { &self.main };
        let direct = Kv::connect(cluster.member(0).address()).await?;
        for n in 0..number {
            let put = direct.put(&format!("/registry/{resource}/{n:03}"), vec![b'v'; size]).await?;
            put.ok().context("a put is refused")?;
        }
        Ok(())
    }
}

/// Up to twice 64 MiB for each such list lay here, beside all that counts in `protection.memory`.
#[tokio::test]
async fn merged_lists_count_in_memory_until_they_are_read() -> Result<()> {
    let pair = Pair::start("memory: 64MiB").await?;
    pair.fill("configmaps", 20, 1_000_000).await?;
    pair.fill("pods", 20, 1_000_000).await?;
    let mut connection = raw::Connection::open(pair.seawall.address("main")?).await?;
    let mut call = connection.call(Method::Range.path()).await?;
    call.sending.send_data(encode(&list("/registry/")), true)?;
    let unread = call.answer().await?;
    // 40 MB lie here for it.
    let kv = Kv::connect(pair.seawall.address("main")?).await?;
    let refused = kv.range(&list("/registry/")).await?.err().context("it is answered")?;
    ensure!(refused.code == Code::ResourceExhausted, "{refused:?}");
    ensure!(refused.text.contains("(seawall: memory: there was no room for"), "{refused:?}");
    let admin = pair.seawall.admin()?;
    let held = async |least: f64, most: f64| {
        eventually(crate::client::DEADLINE, "what is held", async || {
            let held = operator::metric(admin, "seawall_held_bytes").await?;
            ensure!((least..=most).contains(&held), "{held} bytes are held");
            Ok(())
        })
        .await
    };
    held(40_000_000.0, 40_100_000.0).await?;
    drop((unread, connection));
    held(0.0, 0.0).await?;
    let merged = kv.range(&list("/registry/")).await?.ok().context("it is refused")?;
    ensure!((merged.kvs.len(), merged.count, merged.more) == (40, 40, false));
    ensure!(merged.kvs.is_sorted_by_key(|kv| kv.key.clone()), "out of order");
    ensure!(merged.header.is_some(), "no header");
    Ok(())
}

/// What cannot be had waited for its turn to be told so.
/// Clients that stop reading must not keep all lists from etcd: those that are put together here, and
/// those that are passed on as they come.
#[tokio::test]
async fn who_reads_nothing_gives_its_turn_back() -> Result<()> {
    let pair = Pair::start("queues: {lists: {concurrency: 2}}").await?;
    for resource in ["configmaps", "pods"] {
        pair.fill(resource, 3, 1_000_000).await?;
    }
    let running = async |number: u32| {
        let gauge = format!("seawall_queue_running{{cluster=\"main\",queue=\"lists\"}} {number}");
        eventually(crate::client::DEADLINE, "the queue of lists", async || {
            let (_, text) = operator::get(pair.seawall.admin()?, "/metrics").await?;
            text.lines().any(|line| line == gauge).then_some(()).context(gauge.clone())
        })
        .await
    };
    // No resource is called that, and so it is in no memory.
    let passed_on = RangeRequest { serializable: true, ..list("/registry/config") };
    let mut connection = raw::Connection::open(pair.seawall.address("main")?).await?;
    let mut unread = Vec::new();
    for request in [list("/registry/"), passed_on] {
        let mut call = connection.call(Method::Range.path()).await?;
        call.sending.send_data(encode(&request), true)?;
        unread.push(call.answer().await?);
    }
    running(2).await?;
    running(0).await
}

#[tokio::test]
async fn what_cannot_be_merged_takes_no_turn() -> Result<()> {
    let rule = "{name: never, deny: true, match: {classes: [heavy_list]}}";
    let pair = Pair::start(&format!("rules: [{rule}]")).await?;
    let kv = Kv::connect(pair.seawall.address("main")?).await?;
    for (revision, code) in [(0, Code::PermissionDenied), (2, Code::InvalidArgument)] {
        let asked = RangeRequest { revision, ..list("/registry/") };
        let refused = kv.range(&asked).await?.err().context("it is answered")?;
        ensure!(refused.code == code, "{refused:?}");
    }
    Ok(())
}

/// It was `INTERNAL` where a single part was too large.
#[tokio::test]
async fn merged_lists_that_are_too_large_are_refused_in_so_many_words() -> Result<()> {
    let pair = Pair::start("memory: 64MiB").await?;
    pair.fill("configmaps", 50, 1_400_000).await?;
    let kv = Kv::connect(pair.seawall.address("main")?).await?;
    for (limit, text) in [
        (0, "seawall: answers of several etcd clusters are joined up to 67108864 bytes"),
        (40, "(seawall: memory: there was no room for"),
    ] {
        let asked = RangeRequest { limit, ..list("/registry/") };
        let refused = kv.range(&asked).await?.err().context("it is answered")?;
        ensure!(refused.code == Code::ResourceExhausted, "{refused:?}");
        ensure!(refused.text.contains(text), "{refused:?}");
    }
    let some = RangeRequest { limit: 10, ..list("/registry/") };
    let merged = kv.range(&some).await?.ok().context("it is refused")?;
    ensure!((merged.kvs.len(), merged.count, merged.more) == (10, 50, true));
    Ok(())
}

/// What lies before and behind another cluster's keys was read at two revisions, under the header of the
/// second: whoever went on from there never heard of what happened to the first in between.
#[tokio::test]
async fn what_is_merged_of_one_cluster_is_one_state_of_it() -> Result<()> {
    let (main, other) = (Cluster::single().await?, Cluster::single().await?);
    let proxy = FaultProxy::start(other.member(0).address()).await?;
    let at = format!("http://{}", proxy.address());
    let pair = Pair::at(main, other, &at, "").await?;
    for resource in ["configmaps", "pods", "secrets"] {
        pair.fill(resource, 1, 1).await?;
    }
    let direct = Kv::connect(pair.main.member(0).address()).await?;
    let address = pair.seawall.address("main")?;
    let ask = move || async move { Kv::connect(address).await?.range(&list("/registry/")).await };
    ensure!(ask().await?.is_ok_and(|merged| merged.kvs.len() == 3), "all three are there");
    let before = direct.revision().await?;
    proxy.set(Fault::Stall(Direction::ToClient));
    let merging = tokio::spawn(ask());
    // By then its first part was read, but for a machine that is very busy.
    sleep(Duration::from_secs(1)).await;
    for resource in ["configmaps", "secrets"] {
        direct.put(&format!("/registry/{resource}/new"), "1").await?.ok().context("refused")?;
    }
    proxy.heal();
    let merged = merging.await??.ok().context("it is refused")?;
    let revision = merged.header.context("no header")?.revision;
    let new = merged.kvs.iter().filter(|kv| kv.key.ends_with(b"/new")).count();
    ensure!((revision, new) == (before, 0), "{new} new keys at {revision}, {before} before");
    Ok(())
}
