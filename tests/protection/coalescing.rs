//! Shared answers are as fresh as one's own would be.

use crate::{Kv, Stage, list};
use anyhow::{Context, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use seawall::etcd::proto::etcdserverpb::{RangeRequest, RangeResponse};
use seawall_testkit::eventually;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use tonic::Code;

fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() }
}

fn header(answer: &RangeResponse) -> Result<i64> {
    Ok(answer.header.context("no header")?.revision)
}

/// Ranges that etcd has answered.
pub(crate) async fn ranges(stage: &Stage) -> Result<f64> {
    let text = stage.etcd.member(0).metrics().await?;
    let sample = text.lines().find(|line| {
        line.starts_with("grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Range\"")
    });
    let value = sample.and_then(|line| line.rsplit(' ').next());
    Ok(value.map(str::parse).transpose()?.unwrap_or(0.0))
}

#[tokio::test]
async fn nobody_misses_a_write_that_was_acknowledged() -> Result<()> {
    let stage = Stage::start("paging: {page_size: 64KiB}").await?;
    let direct = stage.direct().await?;
    for number in 0..300 {
        direct.put(&format!("/registry/pods/a/{number:03}"), vec![b'v'; 500]).await?.ok();
    }
    let acknowledged = AtomicI64::new(0);
    let writing = async {
        let (one, other) = (stage.direct().await?, stage.through().await?);
        for number in 0..150 {
            let writer = if number % 2 == 0 { &one } else { &other };
            let put = writer.put("/registry/pods/a/150", format!("{number}")).await?;
            let put = put.ok().context("a put is refused")?;
            acknowledged.fetch_max(put.header.context("no header")?.revision, SeqCst);
        }
        anyhow::Ok(())
    };
    let counted = RangeRequest { count_only: true, ..list("/registry/pods/") };
    let requests =
        [get("/registry/pods/a/150"), get("/registry/pods"), counted, list("/registry/pods/")];
    let readers = (0..24).map(|reader| {
        let request = requests[reader % requests.len()].clone();
        let (stage, acknowledged) = (&stage, &acknowledged);
        async move {
            let kv = stage.through().await?;
            let mut reads = 0;
            while acknowledged.load(SeqCst) < 1 || reads < 40 {
                let before = acknowledged.load(SeqCst);
                let answer = kv.range(&request).await?.ok().context("a read is refused")?;
                ensure!(header(&answer)? >= before, "{request:?} is from {:?}", answer.header);
                let newest = answer.kvs.iter().find(|kv| kv.key == "/registry/pods/a/150");
                ensure!(newest.is_none_or(|kv| kv.mod_revision <= header(&answer).unwrap_or(0)));
                ensure!(newest.is_none_or(|kv| before == 0 || kv.mod_revision >= before));
                reads += 1;
            }
            anyhow::Ok(())
        }
    });
    let (written, read) = tokio::join!(writing, try_join_all(readers));
    written?;
    read.map(drop)
}

#[tokio::test]
async fn a_thousand_reads_of_one_key_cost_etcd_a_few() -> Result<()> {
    let stage = Stage::start("").await?;
    let (through, direct) = (stage.through().await?, stage.direct().await?);
    direct.put("/registry/pods/a/hot", "1").await?.ok();
    for request in [get("/registry/pods/a/hot"), get("/registry/pods")] {
        let before = ranges(&stage).await?;
        let reads = join_all((0..1_000).map(|_| through.range(&request))).await;
        for read in reads {
            ensure!(read?.is_ok());
        }
        let asked = ranges(&stage).await? - before;
        ensure!(asked < 100.0, "{asked} ranges reached etcd");
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_was_kept_is_checked_with_etcd() -> Result<()> {
    let stage = Stage::start("").await?;
    let (through, direct) = (stage.through().await?, stage.direct().await?);
    for number in 0..50 {
        direct.put(&format!("/registry/pods/a/{number}"), "1").await?.ok();
    }
    let revision = direct.revision().await?;
    let pinned = RangeRequest { revision, limit: 30, ..list("/registry/pods/") };
    let first = through.range(&pinned).await?.ok().context("refused")?;
    direct.put("/registry/pods/a/7", "2").await?.ok();
    let again = through.range(&pinned).await?.ok().context("refused")?;
    ensure!((&first.kvs, first.count, first.more) == (&again.kvs, again.count, again.more));
    ensure!(again.kvs.len() == 30 && again.count == 50 && again.more);
    ensure!(header(&again)? == revision + 1, "the header is as old as the answer");
    direct.compact(revision + 1).await?;
    let refused = through.range(&pinned).await?.err().context("the past is answered")?;
    let own = direct.range(&pinned).await?.err().context("etcd answers the past")?;
    ensure!((refused.code, &refused.text) == (own.code, &own.text), "{refused:?}");
    Ok(())
}

/// How much may be kept can be changed without a restart.
#[tokio::test]
async fn what_was_kept_is_given_up_when_nothing_may_be() -> Result<()> {
    let stage = Stage::start("").await?;
    let (through, direct) = (stage.through().await?, stage.direct().await?);
    direct.put("/registry/pods/a/1", "1").await?.ok();
    let pinned = RangeRequest { revision: direct.revision().await?, ..list("/registry/pods/") };
    let read = async || {
        ensure!(through.range(&pinned).await?.is_ok());
        crate::operator::metric(stage.seawall.admin()?, "seawall_reads_kept_total").await
    };
    ensure!((read().await?, read().await?) == (0.0, 1.0), "the answer was not kept");
    stage.reload("coalescing: {pinned: 0B}").await?;
    ensure!(read().await? == 1.0, "it is kept still");
    ensure!(read().await? == 1.0, "it was kept again");
    Ok(())
}

/// A client that was kept to a rate held up all who asked for the same as it, and had them refused.
#[tokio::test]
async fn a_rule_holds_up_nobody_but_those_it_is_for() -> Result<()> {
    let stage = Stage::start(
        "rules:\n- name: slow\n  match: {addresses: [127.0.0.2/32], prefixes: [/registry/pods]}\n  \
         limit: {cost: 1/h, burst: 1h, wait_max: 1000h}",
    )
    .await?;
    let address = stage.seawall.address("main")?;
    stage.direct().await?.put("/registry/pods/a/1", "1").await?.ok();
    for (number, request) in [get("/registry/pods/a/1"), list("/registry/pods/")].iter().enumerate()
    {
        let slow = Kv::connect_from([127, 0, 0, 2], address).await?;
        let asked = request.clone();
        let waiting = tokio::spawn(async move {
            // The first takes what there is.
            while slow.range(&asked).await.is_ok() {}
        });
        eventually(crate::client::DEADLINE, "a call that is kept waiting", async || {
            let delayed =
                crate::limits::counted(&stage, "delayed", "rules.slow", "enforce").await?;
            ensure!(delayed > number as f64, "{delayed} calls were");
            Ok(())
        })
        .await?;
        let answer = stage.through().await?.range(request).await?;
        ensure!(answer.is_ok_and(|answer| answer.kvs.len() == 1), "{request:?} is not answered");
        waiting.abort();
    }
    Ok(())
}

/// What was read at some revision was remembered without bound where it had no key-values.
#[tokio::test]
async fn reads_of_the_past_that_hold_nothing_are_not_kept_for_ever() -> Result<()> {
    let stage = Stage::start("coalescing: {pinned: 64KiB}").await?;
    let through = stage.through().await?;
    let revision = stage.direct().await?.revision().await?;
    for number in 0..500 {
        let empty = RangeRequest { revision, ..list(&format!("/registry/pods/{number}/")) };
        let counted = RangeRequest { count_only: true, ..empty.clone() };
        for pinned in [empty, counted] {
            ensure!(through.range(&pinned).await?.is_ok());
        }
    }
    let admin = stage.seawall.admin()?;
    eventually(crate::client::DEADLINE, "what is kept", async || {
        let held = crate::operator::metric(admin, "seawall_held_bytes").await?;
        // All of them would be a megabyte; what goes, goes some dozens at a time.
        ensure!(held > 0.0 && held <= f64::from(256 << 10), "{held} bytes are held");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn who_leaves_disturbs_nobody() -> Result<()> {
    let stage = Stage::start("").await?;
    let direct = stage.direct().await?;
    direct.put("/registry/pods/a/hot", "1").await?.ok();
    let request = get("/registry/pods/a/hot");
    let (leaving, staying) = (stage.through().await?, stage.through().await?);
    let mut reads = Vec::new();
    for _ in 0..50 {
        // Polled once, so that it is under way, and dropped.
        let gone = leaving.range(&request);
        reads.push(staying.range(&request));
        let _ = futures_util::FutureExt::now_or_never(gone);
    }
    for read in join_all(reads).await {
        ensure!(read?.is_ok_and(|answer| answer.kvs.len() == 1));
    }
    Ok(())
}

#[tokio::test]
async fn nobody_gets_what_another_may_read() -> Result<()> {
    let stage = Stage::start("").await?;
    stage.direct().await?.put("/secret/a", "1").await?.ok();
    for command in [
        &["user", "add", "root:r"][..],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "reader"],
        &["role", "grant-permission", "reader", "read", "/secret/", "--prefix=true"],
        &["user", "add", "alice:a"],
        &["user", "grant-role", "alice", "reader"],
        &["user", "add", "bob:b"],
        &["auth", "enable"],
    ] {
        stage.etcd.etcdctl(command).await?.success()?;
    }
    let login = async |name: &str, password: &str| {
        let options = etcd_client::ConnectOptions::new().with_user(name, password);
        etcd_client::Client::connect([stage.seawall.endpoint()?], Some(options))
            .await
            .map_err(anyhow::Error::from)
    };
    let (alice, bob) = (login("alice", "a").await?, login("bob", "b").await?);
    let reads = (0..200).map(|number| {
        let mut client = if number % 2 == 0 { alice.kv_client() } else { bob.kv_client() };
        async move { (number % 2 == 0, client.get("/secret/a", None).await) }
    });
    for (allowed, read) in join_all(reads).await {
        match read {
            Ok(answer) => ensure!(allowed && answer.count() == 1),
            Err(etcd_client::Error::GRpcStatus(status)) => {
                ensure!(!allowed && status.code() == Code::PermissionDenied, "{status}");
            }
            Err(other) => return Err(other.into()),
        }
    }
    Ok(())
}
