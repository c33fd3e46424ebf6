//! Who gives up leaves nothing behind and disturbs nobody, and who comes late gets no old answer.

use crate::{Kv, Refused, Stage, client, coalescing::ranges, list};
use anyhow::{Context, Result, ensure};
use seawall::etcd::proto::etcdserverpb::{RangeRequest, RangeResponse};
use seawall_testkit::{Cluster, Direction, Fault, FaultProxy, eventually};
use std::net::SocketAddr;
use tokio::task::JoinHandle;
use tonic::Code;

/// An etcd whose answers can be held back.
struct Held {
    stage: Stage,
    etcd: FaultProxy,
}

type Reading = JoinHandle<Result<Result<RangeResponse, Refused>>>;

impl Held {
    async fn start(protection: &str) -> Result<Self> {
        let cluster = Cluster::single().await?;
        let etcd = FaultProxy::start(cluster.member(0).address()).await?;
        let endpoint = format!("http://{}", etcd.address());
        let stage = Stage::at(cluster, &[endpoint], protection).await?;
        let direct = stage.direct().await?;
        for key in ["/a/1", "/a/2", "/b/1", "/c/1"] {
            direct.put(key, "1").await?.ok().context("a put is refused")?;
        }
        Ok(Self { stage, etcd })
    }

    fn hold(&self) {
        self.etcd.set(Fault::Stall(Direction::ToClient));
    }

    /// Begins to ask on a connection of its own.
    fn ask(&self, request: RangeRequest) -> Result<Reading> {
        let address: SocketAddr = self.stage.seawall.address("main")?;
        Ok(tokio::spawn(async move { Kv::connect(address).await?.range(&request).await }))
    }

    /// Waits until the queue of lists has so many at etcd, and so many that wait.
    async fn lists(&self, running: u32, waiting: u32) -> Result<()> {
        let admin = self.stage.seawall.admin()?;
        let gauge = |name, value| {
            format!("seawall_queue_{name}{{cluster=\"main\",queue=\"lists\"}} {value}")
        };
        let expected = [gauge("running", running), gauge("waiting", waiting)];
        eventually(crate::client::DEADLINE, "the queue of lists", async || {
            let (_, text) = crate::operator::get(admin, "/metrics").await?;
            let shows = |gauge: &String| text.lines().any(|line| line == gauge);
            ensure!(expected.iter().all(shows), "it is not {expected:?}");
            Ok(())
        })
        .await
    }

    /// Waits until so many calls are open here.
    async fn open(&self, calls: f64) -> Result<()> {
        let admin = self.stage.seawall.admin()?;
        eventually(crate::client::DEADLINE, "calls", async || {
            let open = crate::operator::metric(admin, "seawall_requests_open").await?;
            ensure!(open == calls, "{open} calls are open");
            Ok(())
        })
        .await
    }
}

async fn leave(reading: Reading) {
    reading.abort();
    // That it was aborted is what was wanted.
    reading.await.ok();
}

#[tokio::test]
async fn who_leaves_a_queue_takes_nobody_along() -> Result<()> {
    let held = Held::start("queues: {lists: {concurrency: 1, wait_max: 1h}}").await?;
    held.hold();
    let first = held.ask(list("/a/"))?;
    held.lists(1, 0).await?;
    let mut waiting = vec![held.ask(list("/b/"))?, held.ask(list("/b/"))?, held.ask(list("/b/"))?];
    let alone = held.ask(list("/c/"))?;
    held.lists(1, 2).await?;
    held.open(5.0).await?;
    leave(waiting.remove(0)).await;
    leave(waiting.remove(0)).await;
    leave(alone).await;
    // Nobody waits for that one any more.
    held.lists(1, 1).await?;
    // The one at etcd goes, and with it its place.
    leave(first).await;
    held.lists(1, 0).await?;
    held.open(1.0).await?;
    held.etcd.heal();
    let answer = waiting.remove(0).await??;
    ensure!(answer.is_ok_and(|answer| answer.kvs.len() == 1));
    held.lists(0, 0).await
}

/// Clients that were kept to one call at a time had etcd read the same list for each of them.
#[tokio::test]
async fn reads_that_join_others_need_no_place_of_their_own() -> Result<()> {
    let held = Held::start(
        "queues: {lists: {concurrency: 1, wait_max: 1h}}\nrules:\n- name: one\n  \
         match: {prefixes: [/b]}\n  limit: {concurrency: 1, wait_max: 1h}",
    )
    .await?;
    held.hold();
    let mut reads = vec![held.ask(list("/a/"))?];
    held.lists(1, 0).await?;
    reads.push(held.ask(list("/b/"))?);
    held.lists(1, 1).await?;
    reads.extend([held.ask(list("/b/"))?, held.ask(list("/b/"))?]);
    held.open(4.0).await?;
    held.etcd.heal();
    for read in reads {
        ensure!(read.await??.is_ok_and(|answer| !answer.kvs.is_empty()));
    }
    let admin = held.stage.seawall.admin()?;
    let flights = crate::operator::metric(admin, "seawall_read_flights_total").await?;
    ensure!(flights == 2.0, "etcd was asked {flights} times");
    Ok(())
}

#[tokio::test]
async fn the_first_reader_of_a_key_may_leave() -> Result<()> {
    let held = Held::start("").await?;
    held.hold();
    let get = RangeRequest { key: "/a/1".into(), ..RangeRequest::default() };
    let first = held.ask(get.clone())?;
    held.open(1.0).await?;
    let others = [held.ask(get.clone())?, held.ask(get.clone())?];
    held.open(3.0).await?;
    leave(first).await;
    held.open(2.0).await?;
    held.etcd.heal();
    for other in others {
        ensure!(other.await??.is_ok_and(|answer| answer.kvs.len() == 1));
    }
    held.open(0.0).await
}

/// The answer to the first was made before the write was acknowledged; that to the second must not be
/// the same.
#[tokio::test]
async fn who_comes_after_a_read_was_sent_does_not_share_it() -> Result<()> {
    let held = Held::start("").await?;
    let direct = held.stage.direct().await?;
    let get = RangeRequest { key: "/a/1".into(), ..RangeRequest::default() };
    let count = RangeRequest { count_only: true, ..list("/a/") };
    for (turn, request) in [list("/a/"), count, get].into_iter().enumerate() {
        held.hold();
        let before = ranges(&held.stage).await?;
        let first = held.ask(request.clone())?;
        eventually(crate::client::DEADLINE, "a range at etcd", async || {
            ensure!(ranges(&held.stage).await? > before, "none has come");
            Ok(())
        })
        .await?;
        let put = direct.put(&format!("/a/new-{turn}"), "1").await?.ok().context("refused")?;
        let written = put.header.context("no header")?.revision;
        let late = [held.ask(request.clone())?, held.ask(request.clone())?];
        held.open(3.0).await?;
        held.etcd.heal();
        ensure!(first.await??.is_ok(), "{request:?} is refused");
        for late in late {
            let answer = late.await??.ok().context("refused")?;
            let read = answer.header.context("no header")?.revision;
            ensure!(read >= written, "{request:?} is of {read}, and {written} was acknowledged");
        }
        held.open(0.0).await?;
    }
    Ok(())
}

/// A shared list has no deadline, and each who waits for it has one.
#[tokio::test]
async fn who_would_wait_too_long_for_a_shared_list_is_told_at_once() -> Result<()> {
    let held = Held::start("queues: {lists: {concurrency: 1, wait_max: 1h}}").await?;
    // By which it is learnt what a list takes.
    ensure!(held.stage.through().await?.range(&list("/a/")).await?.is_ok());
    held.hold();
    let running = held.ask(list("/a/"))?;
    held.lists(1, 0).await?;
    let hurried = held.stage.through().await?.with("grpc-timeout", "1u");
    // On a machine with much to do so short a time may be over before it comes to that.
    eventually(client::DEADLINE, "a refusal that says why", async || {
        let refused = hurried.range(&list("/b/")).await?.err().context("it is answered")?;
        ensure!(refused.code == Code::ResourceExhausted, "{refused:?}");
        ensure!(refused.text.contains("queues.lists: its turn would come in"), "{refused:?}");
        Ok(())
    })
    .await?;
    // Those who wait already may have their turn at any time.
    let waiting = held.ask(list("/b/"))?;
    held.lists(1, 1).await?;
    let joined = hurried.range(&list("/b/")).await?.err().context("it is answered")?;
    ensure!(joined.code == Code::DeadlineExceeded, "{joined:?}");
    held.etcd.heal();
    for patient in [running, waiting] {
        ensure!(patient.await??.is_ok(), "it is refused");
    }
    Ok(())
}
