//! When there is no room for lists, what matters goes on.

use crate::{Kv, Stage, list, raw, scripted::Scripted};
use anyhow::{Context, Result, ensure};
use seawall::{
    etcd::{
        method::Method,
        proto::etcdserverpb::{
            RangeRequest, RequestOp, SnapshotRequest, TxnRequest, request_op::Request,
        },
    },
    grpc::encode,
};
use seawall_testkit::eventually;
use tonic::Code;

/// On the wire etcd says it of writes alone, and with the code UNKNOWN.
#[tokio::test]
async fn an_etcd_that_has_too_much_to_do_gets_fewer_lists() -> Result<()> {
    let text = "etcdserver: too many requests";
    let etcd = Scripted::refusing_writes(Code::Unknown, text).await?;
    let seawall = crate::seawall_with(["--upstream", &etcd.endpoint()]).await?;
    let lists = async |limit: u32| {
        eventually(crate::client::DEADLINE, "the limit of lists", async || {
            let gauge = format!("seawall_queue_limit{{cluster=\"main\",queue=\"lists\"}} {limit}");
            let (_, text) = crate::operator::get(seawall.admin()?, "/metrics").await?;
            text.lines().any(|line| line == gauge).then_some(()).context(gauge)
        })
        .await
    };
    lists(2).await?;
    let kv = Kv::connect(seawall.address("main")?).await?;
    let refused = kv.put("/registry/pods/a/1", "1").await?.err().context("it is written")?;
    ensure!(refused.code == Code::Unknown && refused.text == text, "{refused:?}");
    lists(1).await
}

/// Lists of their own, so that none shares another's answer.
fn own_list(number: usize) -> RangeRequest {
    RangeRequest { key: format!("/registry/pods/{number}").into(), ..list("/registry/pods/") }
}

#[tokio::test]
async fn lists_that_find_no_room_wait_and_nothing_else_does() -> Result<()> {
    let stage = Stage::start(
        "memory: 64MiB\nqueues: {lists: {concurrency: 1, length_max: 0, wait_max: 1h}}",
    )
    .await?;
    let (kv, direct) = (stage.through().await?, stage.direct().await?);
    for number in 0..200 {
        direct.put(&format!("/registry/pods/a{number:03}"), vec![b'v'; 200_000]).await?.ok();
    }
    // A client that asks for 40 MB and does not read them.
    let mut connection = raw::Connection::open(stage.seawall.address("main")?).await?;
    let mut call = connection.call(Method::Range.path()).await?;
    call.sending.send_data(encode(&own_list(0)), true)?;
    let unread = call.answer().await?;
    // The next one has its turn and waits for room in memory.
    let next = stage.through().await?;
    let waiting = tokio::spawn(async move { next.range(&own_list(1)).await });
    let admin = stage.seawall.admin()?;
    eventually(crate::client::DEADLINE, "a list that waits for memory", async || {
        let running = "seawall_queue_running{cluster=\"main\",queue=\"lists\"} 1";
        let (_, text) = crate::operator::get(admin, "/metrics").await?;
        text.lines().any(|line| line == running).then_some(()).context("no list has its turn")
    })
    .await?;
    let refused = kv.range(&own_list(2)).await?.err().context("it is let through")?;
    ensure!(refused.code == Code::ResourceExhausted, "{refused:?}");
    ensure!(refused.text.contains("queues.lists: 0 calls wait already"), "{refused:?}");
    ensure!(kv.put("/registry/pods/b", "1").await?.is_ok());
    ensure!(kv.create("/registry/leases/kube-system/a", "1").await?.is_ok());
    for key in ["/registry/health", "/registry/pods/b"] {
        let get = RangeRequest { key: key.into(), ..RangeRequest::default() };
        ensure!(kv.range(&get).await?.is_ok());
    }
    // By which kube-apiserver tells who serves beside it.
    ensure!(kv.create("/registry/masterleases/10.0.0.1", "1").await?.is_ok());
    let serving = kv.range(&list("/registry/masterleases/")).await?;
    ensure!(serving.is_ok_and(|answer| answer.kvs.len() == 1), "the list of masterleases waits");
    drop((unread, connection));
    let answer = waiting.await??;
    ensure!(answer.is_ok_and(|answer| answer.kvs.len() == 201), "the waiting list is lost");
    Ok(())
}

/// A list of which nothing was known, and that grew beyond the room there was, was read at etcd whole,
/// by each who waited for it.
#[tokio::test]
async fn lists_that_grow_beyond_what_there_is_room_for_wait_for_it() -> Result<()> {
    one_grows_and_waits(&Stage::start("memory: 64MiB").await?).await
}

/// So was one that had been small: what it showed to need was mixed with that.
#[tokio::test]
async fn lists_that_were_small_wait_for_as_much_as_they_need_now() -> Result<()> {
    let stage = Stage::start("memory: 64MiB").await?;
    stage.direct().await?.put("/registry/secrets/001", "v").await?.ok();
    stage.through().await?.range(&list("/registry/secrets/")).await?.ok().context("no list")?;
    one_grows_and_waits(&stage).await
}

async fn one_grows_and_waits(stage: &Stage) -> Result<()> {
    let direct = stage.direct().await?;
    for (resource, number) in (0..400).map(|n| (["pods", "secrets"][n % 2], n)) {
        let key = format!("/registry/{resource}/{number:03}");
        direct.put(&key, vec![b'v'; 200_000]).await?.ok();
    }
    let mut connection = raw::Connection::open(stage.seawall.address("main")?).await?;
    let mut call = connection.call(Method::Range.path()).await?;
    call.sending.send_data(encode(&list("/registry/pods/")), true)?;
    let unread = call.answer().await?;
    let next = stage.through().await?;
    let waiting = tokio::spawn(async move { next.range(&list("/registry/secrets/")).await });
    eventually(crate::client::DEADLINE, "a list that waits for memory", async || {
        let delayed = crate::limits::counted(stage, "delayed", "memory", "enforce").await?;
        ensure!(delayed > 0.0, "it does not");
        Ok(())
    })
    .await?;
    drop((unread, connection));
    let answer = waiting.await??;
    ensure!(answer.is_ok_and(|answer| answer.kvs.len() == 200), "the waiting list is lost");
    Ok(())
}

/// Only ranges gave their turn back: a client that read nothing of a transaction's answer kept all lists
/// from etcd, and one that read nothing of a snapshot kept its place under a rule, for as long as they liked.
#[tokio::test]
async fn who_reads_no_answer_of_whatever_call_keeps_no_turn_for_long() -> Result<()> {
    let stage = Stage::start(
        "queues: {lists: {concurrency: 1, wait_max: 1h}}\nrules:\n- name: one\n  \
         match: {shapes: [snapshot]}\n  limit: {concurrency: 1, wait_max: 1h}",
    )
    .await?;
    let direct = stage.direct().await?;
    for number in 0..100 {
        direct.put(&format!("/registry/pods/{number:03}"), vec![b'v'; 200_000]).await?.ok();
    }
    let read = Some(Request::RequestRange(list("/registry/pods/")));
    let txn = TxnRequest { success: vec![RequestOp { request: read }], ..TxnRequest::default() };
    let snapshot = encode(&SnapshotRequest::default());
    let mut connection = raw::Connection::open(stage.seawall.address("main")?).await?;
    let mut unread = Vec::new();
    for (method, request) in [
        (Method::Txn, encode(&txn)),
        (Method::Snapshot, snapshot.clone()),
        (Method::Snapshot, snapshot),
    ] {
        let mut call = connection.call(method.path()).await?;
        call.sending.send_data(request, true)?;
        let begun = call.answer().await;
        unread.push(begun.with_context(|| format!("{method:?} after {}", unread.len()))?);
    }
    let listed = stage.through().await?.range(&list("/registry/pods/")).await?;
    ensure!(listed.is_ok_and(|listed| listed.kvs.len() == 100));
    Ok(())
}
