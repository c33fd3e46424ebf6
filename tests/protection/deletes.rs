//! Deletes of much at once.

use crate::{Kv, Stage, delete, limits::counted, list};
use anyhow::{Context, Result, ensure};
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
    use seawall::etcd::{
        method::Method,
        proto::etcdserverpb::{RequestOp, TxnRequest, TxnResponse, request_op::Request},
    };
    let stage = Stage::start("deletes: {keys_max: 5}").await?;
    let (kv, direct) = (stage.through().await?, stage.direct().await?);
    fill(&direct).await?;
    let of = |key, end| {
        let request = Some(Request::RequestDeleteRange(delete(key, end)));
        RequestOp { request }
    };
    let both = vec![of("/a/0", "/a/4"), of("/a/5", "/a/9")];
    let transaction = TxnRequest { success: both, ..TxnRequest::default() };
    let refused: Result<TxnResponse, _> = kv.ask(Method::Txn, &transaction).await?;
    ensure!(refused.is_err_and(|refused| refused.text.contains("deletes 8 keys")));
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
    Ok(())
}
