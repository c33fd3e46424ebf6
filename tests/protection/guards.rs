//! What may be stored, and what may be deleted.

use crate::{Answer, Kv, Stage, delete, operator, put_if};
use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use seawall::etcd::{
    method::Method,
    proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, TxnResponse, request_op::Request},
};
use seawall_testkit::eventually;
use tonic::Code;

const CONFIGMAPS: &str = "/registry/configmaps/";

/// Ranges that etcd has walked, for Seawall's own looks at it too.
pub(crate) async fn ranges(stage: &Stage) -> Result<u64> {
    let (_, text) = crate::operator::get(stage.etcd.member(0).address(), "/metrics").await?;
    let name = "etcd_mvcc_range_total ";
    let value = text.lines().find_map(|line| line.strip_prefix(name)).context("no such metric")?;
    Ok(value.parse::<f64>()? as u64)
}

/// Creates so many objects in a namespace at once, and tells how many were not refused.
async fn create_at_once(
    stage: &Stage,
    namespace: &str,
    names: std::ops::Range<usize>,
) -> Result<usize> {
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(stage.through().await?);
    }
    let create = async |number: usize| {
        let key = format!("{CONFIGMAPS}{namespace}/{number}");
        anyhow::Ok(clients[number % clients.len()].create(&key, "1").await?.is_ok())
    };
    let created = try_join_all(names.map(create)).await?;
    Ok(created.into_iter().filter(|created| *created).count())
}

fn of_a_hundred() -> String {
    "rules:\n- name: maps\n  match: {prefixes: [/registry/configmaps]}\n  \
     quota: {objects: 100, per_namespace: true}"
        .into()
}

/// 500 creates at a full quota made 525 ranges over all of its keys, at an etcd that was to be spared.
#[tokio::test]
async fn a_burst_at_a_full_quota_costs_a_handful_of_counts() -> Result<()> {
    let stage = Stage::start(&of_a_hundred()).await?;
    ensure!(create_at_once(&stage, "a", 0..100).await? == 100);
    let before = ranges(&stage).await?;
    ensure!(create_at_once(&stage, "a", 100..600).await? == 0, "the quota is full");
    let walked = ranges(&stage).await? - before;
    // A count a second at most, and what Seawall asks anyway.
    ensure!(walked < 250, "{walked} ranges for 500 creates");
    Ok(())
}

/// Of 90 creates at once 9 were refused, with room for 100; counts had counted them twice.
#[tokio::test]
async fn creates_at_once_get_all_the_room_there_is_and_no_more() -> Result<()> {
    let stage = Stage::start(&of_a_hundred()).await?;
    let direct = stage.direct().await?;
    for namespace in ["a", "b", "c", "d", "e"] {
        ensure!(create_at_once(&stage, namespace, 0..90).await? == 90, "there is room for 100");
        ensure!(create_at_once(&stage, namespace, 90..150).await? == 10, "there is room for 10");
        let list = crate::list(&format!("{CONFIGMAPS}{namespace}/"));
        let stored = direct.range(&list).await?.ok().context("no answer")?.count;
        ensure!(stored == 100, "{stored} are stored");
    }
    Ok(())
}

fn puts(keys: impl IntoIterator<Item = String>) -> Vec<RequestOp> {
    let put =
        |key: String| PutRequest { key: key.into(), value: "1".into(), ..PutRequest::default() };
    let op = |key| RequestOp { request: Some(Request::RequestPut(put(key))) };
    keys.into_iter().map(op).collect()
}

/// A transaction that compared a key elsewhere stored what it liked, and a hundred puts passed for one.
#[tokio::test]
async fn all_that_a_transaction_puts_needs_room() -> Result<()> {
    let stage = Stage::start(
        "rules:\n- name: maps\n  match: {prefixes: [/registry/configmaps]}\n  quota: {objects: 50}",
    )
    .await?;
    let (kv, direct) = (stage.through().await?, stage.direct().await?);
    for number in 0..40 {
        direct.put(&format!("{CONFIGMAPS}a/{number}"), "1").await?.ok().context("refused")?;
    }
    let maps =
        |names: std::ops::Range<usize>| puts(names.map(|number| format!("{CONFIGMAPS}a/{number}")));
    let compare = put_if("/elsewhere", 0, Vec::new()).compare;
    let transact = async |success: Vec<RequestOp>| {
        let request = TxnRequest { compare: compare.clone(), success, ..TxnRequest::default() };
        let answer: Answer<TxnResponse> = kv.ask(Method::Txn, &request).await?;
        anyhow::Ok(answer)
    };
    let full = transact(maps(0..100)).await?.err().context("60 new keys are put")?;
    ensure!(full.text.contains("database space exceeded (seawall: maps:"), "{full:?}");
    let nested = TxnRequest { success: maps(40..51), ..TxnRequest::default() };
    let nested = vec![RequestOp { request: Some(Request::RequestTxn(nested)) }];
    ensure!(transact(nested).await?.is_err(), "eleven new keys are put");
    for (names, why) in [(0..40, "an update is refused"), (0..50, "there is room for ten")] {
        ensure!(transact(maps(names)).await?.is_ok_and(|answer| answer.succeeded), "{why}");
    }
    Ok(())
}

#[tokio::test]
async fn each_namespace_has_its_quota() -> Result<()> {
    let stage = Stage::start(
        "rules:\n- name: maps\n  match: {prefixes: [/registry/configmaps]}\n  \
         quota: {objects: 3, per_namespace: true}",
    )
    .await?;
    let (kv, direct) = (stage.through().await?, stage.direct().await?);
    for number in 0..3 {
        ensure!(kv.create(&format!("{CONFIGMAPS}a/{number}"), "1").await?.is_ok());
    }
    let full = kv.create(&format!("{CONFIGMAPS}a/3"), "1").await?.err().context("it is created")?;
    ensure!(full.code == Code::ResourceExhausted, "{full:?}");
    ensure!(full.text.starts_with("etcdserver: mvcc: database space exceeded (seawall: maps:"));
    ensure!(kv.create(&format!("{CONFIGMAPS}b/0"), "1").await?.is_ok());
    // What is there may change and go.
    let revision = direct.revision().await?;
    let update: Result<TxnResponse, _> =
        kv.ask(Method::Txn, &put_if(&format!("{CONFIGMAPS}b/0"), revision, b"2".to_vec())).await?;
    ensure!(update.is_ok_and(|update| update.succeeded));
    ensure!(kv.delete(&format!("{CONFIGMAPS}a/0"), "").await?.is_ok());
    // That there is room again is seen by counting anew.
    eventually(crate::client::DEADLINE, "room for a key", async || {
        kv.create(&format!("{CONFIGMAPS}a/3"), "1").await?.ok().context("full").map(drop)
    })
    .await
}

/// What begins with a prefix need not lie below it.
#[tokio::test]
async fn each_prefix_has_its_quota() -> Result<()> {
    let stage = Stage::start(
        "rules:\n- name: pods\n  match: {prefixes: [/registry/pods, /registry/podsecuritypolicy]}\n  \
         quota: {objects: 1}",
    )
    .await?;
    let kv = stage.through().await?;
    for resource in ["podsecuritypolicy", "pods"] {
        let key = |name: &str| format!("/registry/{resource}/a/{name}");
        ensure!(kv.create(&key("1"), "1").await?.is_ok(), "there is room for {resource}");
        let full = kv.create(&key("2"), "1").await?.err().context("it is created")?;
        ensure!(full.text.contains(&format!("/registry/{resource}/")), "{full:?}");
    }
    Ok(())
}

/// Clients other than Kubernetes say neither that a key is new nor that it is not.
#[tokio::test]
async fn a_put_that_changes_a_key_needs_no_room() -> Result<()> {
    let stage = Stage::start(
        "rules:\n- name: maps\n  match: {prefixes: [/registry/configmaps]}\n  quota: {objects: 2}",
    )
    .await?;
    let kv = stage.through().await?;
    for key in ["1", "2"] {
        ensure!(kv.create(&format!("{CONFIGMAPS}a/{key}"), "1").await?.is_ok());
    }
    ensure!(kv.put(&format!("{CONFIGMAPS}a/1"), "2").await?.is_ok(), "it is there already");
    ensure!(kv.put(&format!("{CONFIGMAPS}a/3"), "1").await?.is_err(), "it is new");
    // Nor does it where others have stored more than may be.
    let (other, direct) = (stage.another().await?, stage.direct().await?);
    direct.put(&format!("{CONFIGMAPS}a/3"), "1").await?.ok().context("a put is refused")?;
    let kv = Kv::connect(other.address("main")?).await?;
    ensure!(kv.put(&format!("{CONFIGMAPS}a/1"), "3").await?.is_ok(), "it is there already");
    ensure!(kv.put(&format!("{CONFIGMAPS}a/4"), "1").await?.is_err(), "it is new");
    Ok(())
}

/// Controllers create what is there already, again and again.
#[tokio::test]
async fn only_what_is_stored_counts() -> Result<()> {
    let stage = Stage::start(
        "rules:\n- name: maps\n  match: {prefixes: [/registry/configmaps]}\n  quota: {objects: 20}",
    )
    .await?;
    let kv = stage.through().await?;
    let key = format!("{CONFIGMAPS}a/1");
    ensure!(kv.create(&key, "1").await?.is_ok_and(|created| created.succeeded));
    for _ in 0..30 {
        ensure!(kv.create(&key, "1").await?.is_ok_and(|created| !created.succeeded));
        ensure!(kv.put(&key, "2").await?.is_ok());
    }
    for number in 2..=20 {
        let created = kv.create(&format!("{CONFIGMAPS}a/{number}"), "1").await?;
        ensure!(created.is_ok_and(|created| created.succeeded), "there is room for {number}");
    }
    ensure!(kv.create(&format!("{CONFIGMAPS}a/21"), "1").await?.is_err());
    Ok(())
}

#[tokio::test]
async fn a_value_may_be_too_large_for_its_prefix() -> Result<()> {
    let stage = Stage::start(
        "rules:\n- name: small\n  match: {prefixes: [/registry/configmaps]}\n  quota: {value_size: 1KiB}",
    )
    .await?;
    let kv = stage.through().await?;
    ensure!(kv.create(&format!("{CONFIGMAPS}a"), vec![b'v'; 1024]).await?.is_ok());
    let large = kv.create(&format!("{CONFIGMAPS}b"), vec![b'v'; 1025]).await?;
    let large = large.err().context("it is stored")?;
    ensure!(large.code == Code::InvalidArgument && large.text.contains("small"), "{large:?}");
    Ok(())
}

#[tokio::test]
async fn a_prefix_may_be_read_only() -> Result<()> {
    let rule =
        "rules:\n- {name: frozen, read_only: true, match: {prefixes: [/registry/configmaps]}}";
    let stage = Stage::start(rule).await?;
    let kv = stage.through().await?;
    ensure!(kv.put(&format!("{CONFIGMAPS}a"), "1").await?.is_err());
    ensure!(kv.delete(CONFIGMAPS, "").await?.is_err());
    ensure!(kv.range(&crate::list(CONFIGMAPS)).await?.is_ok());
    ensure!(kv.put("/registry/pods/a", "1").await?.is_ok());
    Ok(())
}

#[tokio::test]
async fn a_wide_delete_needs_to_be_insisted_on() -> Result<()> {
    let stage = Stage::start("deletes: {keys_max: 5}").await?;
    let (kv, direct) = (stage.through().await?, stage.direct().await?);
    let fill = async || {
        for number in 0..10 {
            direct.put(&format!("/a/{number}"), "1").await?.ok().context("refused")?;
        }
        anyhow::Ok(())
    };
    fill().await?;
    let refused = kv.delete("/a/", "/a0").await?.err().context("it is deleted")?;
    ensure!(refused.code == Code::PermissionDenied, "{refused:?}");
    ensure!(
        refused.text.contains("deletes 10 keys")
            && refused.text.contains("seawall-override: deletes")
    );
    // However deep it hides.
    let op = |request| vec![RequestOp { request: Some(request) }];
    let nested = TxnRequest {
        success: op(Request::RequestDeleteRange(delete("/a/", "/a0"))),
        ..TxnRequest::default()
    };
    let outer = TxnRequest { success: op(Request::RequestTxn(nested)), ..TxnRequest::default() };
    let hidden: Result<TxnResponse, _> = kv.ask(Method::Txn, &outer).await?;
    ensure!(hidden.is_err());
    ensure!(kv.delete("/a/1", "/a/4").await?.is_ok_and(|deleted| deleted.deleted == 3));
    fill().await?;
    let insisting = stage.through().await?.with("seawall-override", "deletes");
    ensure!(insisting.delete("/a/", "/a0").await?.is_ok_and(|deleted| deleted.deleted == 10));
    Ok(())
}

/// etcd tells its quota from 3.6 on; before, Seawall goes by its own setting.
/// An alert on how full the database is, and the page, were silent in front of etcd 3.4 and 3.5.
#[tokio::test]
async fn a_quota_that_etcd_does_not_tell_is_the_configured_one() -> Result<()> {
    let stage = Stage::start("space: {quota: 1GiB}").await?;
    let admin = stage.seawall.admin()?;
    let shown = async |expected: u64| {
        eventually(crate::client::DEADLINE, "the quota", async || {
            let member = operator::status(admin).await?["clusters"]["main"]["members"][0].take();
            let told = ["3.4.", "3.5."].iter().all(|old| {
                !member["version"].as_str().is_some_and(|version| version.starts_with(old))
            });
            let expected = if told { ETCDS_OWN } else { expected };
            ensure!(member["db_quota_bytes"] == expected, "{member}");
            let metric = operator::metric(admin, "seawall_upstream_db_quota_bytes").await?;
            ensure!(metric == expected as f64, "{metric}");
            Ok(())
        })
        .await
    };
    shown(1 << 30).await?;
    stage.reload("space: {quota: 3GiB}").await?;
    shown(3 << 30).await?;
    stage.reload("space: {mode: enforce}").await?;
    shown(0).await
}

/// What an etcd that tells its quota has without `--quota-backend-bytes`.
const ETCDS_OWN: u64 = 2 << 30;

#[tokio::test]
async fn creates_stop_before_the_database_is_full() -> Result<()> {
    let etcd = seawall_testkit::Cluster::builder()
        .extra_args(["--quota-backend-bytes=8388608"])
        .start()
        .await?;
    let stage =
        Stage::of(etcd, "space: {quota: 8MiB, warn: 20%, refuse_low: 30%, refuse: 60%}").await?;
    let (kv, direct) = (stage.through().await?, stage.direct().await?);
    let fill = async |from: usize, to: usize| {
        for number in from..to {
            direct
                .put(&format!("/fill/{number}"), vec![b'v'; 200_000])
                .await?
                .ok()
                .context("full")?;
        }
        anyhow::Ok(())
    };
    fill(0, 16).await?;
    let refused = async |key: &str| {
        let refused = kv.create(key, "1").await?.err().context("it is created")?;
        ensure!(refused.text.contains("% full"), "{refused:?}");
        Ok(())
    };
    let deadline = crate::client::DEADLINE;
    eventually(deadline, "the first step", async || refused("/registry/events/a/1").await).await?;
    ensure!(kv.create("/registry/pods/a/1", "1").await?.is_ok());
    fill(16, 28).await?;
    eventually(deadline, "the second step", async || refused("/registry/pods/a/2").await).await?;
    // Updates, deletes and what the control plane hangs on go on.
    ensure!(kv.put("/registry/pods/a/1", "2").await?.is_ok());
    ensure!(kv.delete("/registry/pods/a/1", "").await?.is_ok());
    ensure!(kv.create("/registry/leases/kube-system/a", "1").await?.is_ok());
    Ok(())
}
