//! Deletes of much at once.

use crate::{Answer, Kv, Stage, delete, guards::ranges, identities, limits::counted, list};
use anyhow::{Context, Result, ensure};
use seawall::etcd::{
    method::Method,
    proto::etcdserverpb::{RequestOp, TxnRequest, TxnResponse, request_op::Request},
};
use tonic::Code;

async fn fill(direct: &Kv) -> Result<()> {
    for number in 0..10 {
        direct.put(&format!("/a/{number}"), "1").await?.ok().context("a put is refused")?;
    }
    Ok(())
}

async fn left(direct: &Kv) -> Result<i64> {
    Ok(direct.range(&list("/a/")).await?.ok().context("no answer")?.count)
}

async fn delete_all(kv: &Kv, ranges: Vec<(&str, &str)>) -> Result<Answer<TxnResponse>> {
    let of = |(key, end)| {
        let request = Some(Request::RequestDeleteRange(delete(key, end)));
        RequestOp { request }
    };
    let success = ranges.into_iter().map(of).collect();
    kv.ask(Method::Txn, &TxnRequest { success, ..TxnRequest::default() }).await
}

/// By its range or by all there is.
#[tokio::test]
async fn observing_deletes_and_counts() -> Result<()> {
    let stage = Stage::start("deletes: {keys_max: 5, mode: observe}").await?;
    let (kv, direct) = (stage.through().await?, stage.direct().await?);
    fill(&direct).await?;
    ensure!(kv.delete("/a/", "/a0").await?.is_ok_and(|deleted| deleted.deleted == 10));
    ensure!(counted(&stage, "refused", "deletes", "observe").await? == 1.0);
    stage.reload("deletes: {keys_max: 5}").await?;
    fill(&direct).await?;
    let refused = kv.delete("\0", "\0").await?.err().context("all is deleted")?;
    ensure!(refused.code == Code::PermissionDenied, "{refused:?}");
    ensure!(left(&direct).await? == 10);
    ensure!(counted(&stage, "refused", "deletes", "enforce").await? == 1.0);
    stage.reload("deletes: {keys_max: 5, mode: off}").await?;
    ensure!(kv.delete("\0", "\0").await?.is_ok());
    Ok(())
}

#[tokio::test]
async fn who_is_named_deletes_what_it_wants() -> Result<()> {
    let stage = Stage::start("deletes: {keys_max: 5, clients: [somebody]}").await?;
    let (kv, direct) = (stage.through().await?, stage.direct().await?);
    fill(&direct).await?;
    ensure!(kv.delete("/a/", "/a0").await?.is_err());
    stage.reload("deletes: {keys_max: 5, clients: [\"127.*\"]}").await?;
    ensure!(kv.delete("/a/", "/a0").await?.is_ok_and(|deleted| deleted.deleted == 10));
    // A rule about some keys says it anew, and is about whoever is named, too.
    stage
        .reload(
            "deletes: {keys_max: 5, clients: [\"127.*\"]}\nrules:\n\
             - {name: few, match: {prefixes: [/a]}, quota: {delete_keys: 3}}",
        )
        .await?;
    fill(&direct).await?;
    let refused = kv.delete("/a/0", "/a/4").await?.err().context("it is deleted")?;
    ensure!(refused.text.contains("deletes 4 keys, and 3 are let"), "{refused:?}");
    ensure!(kv.delete("/a/0", "/a/3").await?.is_ok_and(|deleted| deleted.deleted == 3));
    ensure!(left(&direct).await? == 7);
    Ok(())
}

/// Two ranges that are each let, and together are not.
#[tokio::test]
async fn ranges_of_one_transaction_are_added_up() -> Result<()> {
    let stage = Stage::start("deletes: {keys_max: 5}").await?;
    let (kv, direct) = (stage.through().await?, stage.direct().await?);
    fill(&direct).await?;
    let refused = delete_all(&kv, vec![("/a/0", "/a/4"), ("/a/5", "/a/9")]).await?;
    ensure!(refused.is_err_and(|refused| refused.text.contains("deletes 8 keys, and 5 are let")));
    ensure!(left(&direct).await? == 10);
    Ok(())
}

/// A rule that is only watched changes nothing, not even for the better.
#[tokio::test]
async fn a_rule_that_observes_does_not_stand_in_for_the_guard() -> Result<()> {
    let stage = Stage::start(
        "deletes: {keys_max: 5}\nrules:\n\
         - {name: few, mode: observe, match: {prefixes: [/a]}, quota: {delete_keys: 3}}",
    )
    .await?;
    let (kv, direct) = (stage.through().await?, stage.direct().await?);
    fill(&direct).await?;
    ensure!(kv.delete("/a/", "/a0").await?.is_err(), "ten keys are deleted");
    ensure!(kv.delete("/a/0", "/a/4").await?.is_ok_and(|deleted| deleted.deleted == 4));
    // It counts what it would have refused, whatever the guard makes of it.
    ensure!(counted(&stage, "refused", "rules.few", "observe").await? == 2.0);
    ensure!(counted(&stage, "refused", "deletes", "enforce").await? == 1.0);
    ensure!(counted(&stage, "refused", "deletes", "observe").await? == 0.0);
    Ok(())
}

/// The refusal named `deletes`, and its clients and switch, none of which helped; the rule showed that
/// it had refused nothing.
#[tokio::test]
async fn what_a_rule_refuses_names_the_rule() -> Result<()> {
    let stage =
        Stage::start("rules:\n- {name: few, match: {prefixes: [/a]}, quota: {delete_keys: 3}}")
            .await?;
    let (kv, direct) = (stage.through().await?, stage.direct().await?);
    fill(&direct).await?;
    let refused = kv.delete("/a/0", "/a/4").await?.err().context("it is deleted")?;
    let expected = "etcdserver: permission denied (seawall: few: this deletes 4 keys, and 3 are let \
                    at once; delete less at once, send the metadata seawall-override: deletes, or \
                    raise its quota.delete_keys)";
    ensure!((refused.code, &refused.text[..]) == (Code::PermissionDenied, expected), "{refused:?}");
    ensure!(counted(&stage, "refused", "rules.few", "enforce").await? == 1.0);
    ensure!(counted(&stage, "refused", "deletes", "enforce").await? == 0.0);
    let insisting = stage.through().await?.with("seawall-override", "deletes");
    ensure!(insisting.delete("/a/0", "/a/4").await?.is_ok_and(|deleted| deleted.deleted == 4));
    Ok(())
}

/// Each try of a client that does not take no for an answer had etcd count all keys anew, and each
/// range of a transaction was counted although the first one was too much.
#[tokio::test]
async fn what_is_refused_again_and_again_is_not_counted_each_time() -> Result<()> {
    let stage = Stage::start("deletes: {keys_max: 5}").await?;
    let (kv, direct) = (stage.through().await?, stage.direct().await?);
    fill(&direct).await?;
    let before = ranges(&stage).await?;
    for _ in 0..200 {
        ensure!(kv.delete("/a/", "/a0").await?.is_err(), "it is deleted");
    }
    for _ in 0..5 {
        let refused = delete_all(&kv, vec![("/a", "/a0"); 100]).await?;
        ensure!(refused.is_err_and(|refused| refused.text.contains("deletes 10 keys or more")));
    }
    let walked = ranges(&stage).await? - before;
    ensure!(walked < 150, "{walked} ranges for 205 deletes of 700 ranges");
    // What would need more counts than a transaction may have ranges needs to be insisted on.
    let refused = delete_all(&kv, vec![("/b", "/b0"); 129]).await?;
    ensure!(refused.is_err_and(|refused| refused.text.contains("it names 129 ranges")));
    Ok(())
}

/// A role of etcd's that may write and not read deleted whatever it liked: what could not be counted
/// passed for nothing.
#[tokio::test]
async fn what_cannot_be_counted_needs_to_be_insisted_on() -> Result<()> {
    let stage = Stage::start("deletes: {keys_max: 5}").await?;
    fill(&stage.direct().await?).await?;
    let write = ["role", "grant-permission", "writer", "write", "/a/", "--prefix=true"];
    identities::run(
        &stage,
        &[
            &["user", "add", "root:p"],
            &["user", "grant-role", "root", "root"],
            &["role", "add", "writer"],
            &write,
            &["user", "add", "alice:p"],
            &["user", "grant-role", "alice", "writer"],
            &["auth", "enable"],
        ],
    )
    .await?;
    let alice = identities::login(&stage, "alice").await?;
    let refused = alice.delete("/a/", "/a0").await?.err().context("it is deleted")?;
    ensure!(refused.code == Code::PermissionDenied, "{refused:?}");
    let told = "were not counted: etcdserver: permission denied, and 5 are let at once";
    ensure!(refused.text.contains(told), "{refused:?}");
    // What etcd refuses anyway it refuses itself.
    let anyone = stage.through().await?;
    let refused = anyone.delete("/a/", "/a0").await?.err().context("anyone deletes")?;
    ensure!(refused.text == "etcdserver: user name is empty", "{refused:?}");
    stage.reload("deletes: {keys_max: 5, mode: observe}").await?;
    ensure!(alice.delete("/a/0", "/a/2").await?.is_ok_and(|deleted| deleted.deleted == 2));
    ensure!(counted(&stage, "refused", "deletes", "observe").await? == 1.0);
    stage.reload("deletes: {keys_max: 5}").await?;
    let insisting = alice.with("seawall-override", "deletes");
    ensure!(insisting.delete("/a/", "/a0").await?.is_ok_and(|deleted| deleted.deleted == 8));
    Ok(())
}
