//! How much rules let pass, and what they count.

use crate::{Kv, Refused, Stage, list, merging::Pair, put_if};
use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use seawall::etcd::{
    method::Method,
    proto::etcdserverpb::{RangeRequest, RequestOp, TxnRequest, TxnResponse, request_op::Request},
};
use seawall_testkit::{LogLine, eventually};
use std::fs;
use tonic::Code;

const CONFIGMAPS: &str = "/registry/configmaps/";

fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() }
}

/// What a protection has done, `delayed` or `refused`, in this mode.
pub(crate) async fn counted(
    stage: &Stage,
    what: &str,
    protection: &str,
    mode: &str,
) -> Result<f64> {
    let (_, text) = crate::operator::get(stage.seawall.admin()?, "/metrics").await?;
    let sample =
        format!("seawall_protection_{what}_total{{protection=\"{protection}\",mode=\"{mode}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&sample)).context(sample)?;
    Ok(value.parse()?)
}

/// How often each of these asks is refused, one after the other.
async fn refused(kv: &Kv, asks: impl IntoIterator<Item = TxnRequest>) -> Result<Vec<bool>> {
    let mut refused = Vec::new();
    for ask in asks {
        let answer: Result<TxnResponse, _> = kv.ask(Method::Txn, &ask).await?;
        refused.push(answer.is_err());
    }
    Ok(refused)
}

fn create(key: &str) -> TxnRequest {
    put_if(&format!("{CONFIGMAPS}{key}"), 0, b"1".to_vec())
}

/// One passes at once, the next ones wait for it, and those whose turn is too far away do not.
#[tokio::test]
async fn what_may_wait_waits_and_the_rest_is_refused() -> Result<()> {
    let stage = Stage::start(
        "rules:\n- name: slow\n  match: {shapes: [get]}\n  \
         limit: {requests: 1/s, burst: 1s, wait_max: 2s}",
    )
    .await?;
    let kv = stage.through().await?;
    // Different keys, lest they share an answer.
    let requests: Vec<_> =
        (0..20).map(|number| get(&format!("/registry/pods/a/{number}"))).collect();
    let (mut passed, mut refused) = (0.0, 0.0);
    for answer in join_all(requests.iter().map(|request| kv.range(request))).await {
        match answer? {
            Ok(_) => passed += 1.0,
            Err(told) => {
                ensure!(told.code == Code::ResourceExhausted, "{told:?}");
                ensure!(told.text.contains("and it may wait 2000ms"), "{told:?}");
                refused += 1.0;
            }
        }
    }
    let delayed = counted(&stage, "delayed", "rules.slow", "enforce").await?;
    ensure!(delayed >= 1.0 && delayed < passed, "{delayed} of {passed} have waited");
    ensure!(
        refused >= 1.0 && refused == counted(&stage, "refused", "rules.slow", "enforce").await?
    );
    Ok(())
}

/// The slow log said that calls which a rule had held back for a second had not waited at all.
#[tokio::test]
async fn the_log_tells_what_was_waiting_for_a_rate() -> Result<()> {
    let stage = Stage::start(
        "rules:\n- {name: slow, match: {shapes: [get]}, limit: {requests: 1/s, burst: 1s, wait_max: 3s}}",
    )
    .await?;
    let config = fs::read_to_string(&stage.config)?;
    fs::write(&stage.config, format!("{config}attribution: {{slow: 100ms}}\n"))?;
    let seawall = stage.another().await?;
    let kv = Kv::connect(seawall.address("main")?).await?;
    let requests = ["/registry/pods/a/1", "/registry/pods/a/2", "/registry/pods/a/3"].map(get);
    for answer in join_all(requests.iter().map(|request| kv.range(request))).await {
        ensure!(answer?.is_ok());
    }
    eventually(crate::client::DEADLINE, "a slow request", async || {
        let log = seawall.log();
        let mut slow = log.iter().filter(|line| line.message() == "slow request");
        let waited = |line: &LogLine| line.field("waited_ms").and_then(|waited| waited.as_f64());
        ensure!(slow.any(|line| waited(line) > Some(1.0)), "{:?}", log.last());
        Ok(())
    })
    .await
}

/// Which would be an hour from now: it is told at once, by an error that no client repeats on.
#[tokio::test]
async fn a_call_that_cannot_make_its_deadline_does_not_wait() -> Result<()> {
    let stage =
        Stage::start("rules:\n- {name: slow, limit: {requests: 1/h, burst: 1h, wait_max: 2h}}")
            .await?;
    let kv = stage.through().await?.with("grpc-timeout", "30S");
    ensure!(kv.range(&get("/registry/pods/a/1")).await?.is_ok());
    let late = kv.range(&get("/registry/pods/a/1")).await?.err().context("it is answered")?;
    ensure!(late.code == Code::ResourceExhausted && late.text.contains("slow"), "{late:?}");
    Ok(())
}

#[tokio::test]
async fn creates_are_counted_for_each_namespace() -> Result<()> {
    let stage = Stage::start(
        "rules:\n- name: maps\n  match: {prefixes: [/registry/configmaps]}\n  \
         limit: {creates: 2/h, burst: 1h, wait_max: 0s, per: [namespace]}",
    )
    .await?;
    let kv = stage.through().await?;
    let keys = ["a/1", "a/2", "a/3", "b/1", "b/2", "b/3"].map(create);
    ensure!(refused(&kv, keys).await? == [false, false, true, false, false, true]);
    // What is there is not created.
    let revision = stage.direct().await?.revision().await?;
    let update = put_if(&format!("{CONFIGMAPS}b/2"), revision, b"2".to_vec());
    ensure!(refused(&kv, [update]).await? == [false]);
    ensure!(kv.delete(&format!("{CONFIGMAPS}a/1"), "").await?.is_ok());
    Ok(())
}

/// A list is charged with what it was, once that is known.
#[tokio::test]
async fn what_a_list_has_cost_is_owed() -> Result<()> {
    let stage = Stage::start(
        "rules:\n- name: costly\n  match: {classes: [heavy_list]}\n  \
         limit: {cost: 100/h, burst: 1h, wait_max: 0s}",
    )
    .await?;
    let (kv, direct) = (stage.through().await?, stage.direct().await?);
    for number in 0..12 {
        let key = format!("{CONFIGMAPS}a/{number}");
        direct.put(&key, vec![b'v'; 1_000_000]).await?.ok().context("a put is refused")?;
    }
    // 12 MB are 120 units.
    ensure!(kv.range(&list(CONFIGMAPS)).await?.is_ok());
    let owed = kv.range(&list(CONFIGMAPS)).await?.err().context("it is answered")?;
    ensure!(owed.text.contains("costly: too many units of cost"), "{owed:?}");
    ensure!(kv.range(&get(&format!("{CONFIGMAPS}a/1"))).await?.is_ok());
    Ok(())
}

/// A client was let list 40 MB again and again by a rule that was to keep it to a tenth of that, since
/// what was asked of one member, or not to be shared, was never charged with what it brought.
#[tokio::test]
async fn what_a_list_that_is_passed_on_has_cost_is_owed() -> Result<()> {
    let stage = Stage::start(
        "rules:\n- {name: whole, coalesce: false, page: false, match: {prefixes: [/registry/secrets]}}\n\
         - name: costly\n  match: {classes: [heavy_list]}\n  \
         limit: {cost: 30/h, burst: 1h, wait_max: 0s, per: [collection]}",
    )
    .await?;
    let (kv, direct) = (stage.through().await?, stage.direct().await?);
    let prefixes = ["/registry/secrets/", CONFIGMAPS, "/registry/pods/"];
    for key in
        prefixes.iter().flat_map(|prefix| (0..4).map(move |number| format!("{prefix}{number}")))
    {
        direct.put(&key, vec![b'v'; 1_000_000]).await?.ok().context("a put is refused")?;
    }
    // 4 MB are 40 units, and 21 were assumed.
    let [unshared, serializable, read] = prefixes.map(list);
    let serializable = RangeRequest { serializable: true, ..serializable };
    let read = RequestOp { request: Some(Request::RequestRange(read)) };
    let txn = TxnRequest { success: vec![read], ..TxnRequest::default() };
    for passes in [true, false] {
        let txn: Result<TxnResponse, _> = kv.ask(Method::Txn, &txn).await?;
        let lists =
            [kv.range(&unshared).await?.err(), kv.range(&serializable).await?.err(), txn.err()];
        for refused in lists {
            ensure!(refused.is_none() == passes, "{refused:?}");
            let told = |refused: Refused| refused.text.contains("costly: too many units of cost");
            ensure!(refused.is_none_or(told));
        }
    }
    Ok(())
}

/// The parts of a list that lies in several clusters are put together here, and none was charged.
#[tokio::test]
async fn what_a_merged_list_has_cost_is_owed() -> Result<()> {
    let rule = "{name: costly, match: {classes: [heavy_list]}, \
                limit: {cost: 30/h, burst: 1h, wait_max: 0s}}";
    let Pair { main, other, seawall } = Pair::start(&format!("rules: [{rule}]")).await?;
    for cluster in [&main, &other] {
        let direct = Kv::connect(cluster.member(0).address()).await?;
        for key in ["pods/1", "pods/2", "configmaps/1", "configmaps/2"] {
            let put = direct.put(&format!("/registry/{key}"), vec![b'v'; 1_000_000]).await?;
            put.ok().context("a put is refused")?;
        }
    }
    // 4 MB are 40 units, and 21 were assumed.
    let kv = Kv::connect(seawall.address("main")?).await?;
    let merged = kv.range(&list("/registry/")).await?.ok().context("it is refused")?;
    ensure!(merged.kvs.len() == 4, "{} keys", merged.kvs.len());
    let owed = kv.range(&list("/registry/")).await?.err().context("it is answered")?;
    ensure!(owed.text.contains("costly: too many units of cost"), "{owed:?}");
    Ok(())
}

#[tokio::test]
async fn nothing_goes_further_than_all_may() -> Result<()> {
    let denying = "rules:\n- {name: nothing, deny: true, match: {prefixes: [/a]}}";
    let stage = Stage::start(denying).await?;
    let kv = stage.through().await?;
    ensure!(kv.put("/a/1", "1").await?.is_err());
    for (mode, counts) in [("observe", 1.0), ("off", 1.0)] {
        let all = format!("mode: {mode}\n{denying}");
        stage.reload(&all).await?;
        ensure!(kv.put("/a/1", "1").await?.is_ok(), "it is refused in {mode}");
        ensure!(counted(&stage, "refused", "rules.nothing", "observe").await? == counts);
    }
    Ok(())
}

/// A rule is about all keys of a transaction, wherever they stand in it.
#[tokio::test]
async fn a_transaction_cannot_hide_a_key() -> Result<()> {
    let stage = Stage::start(
        "rules:\n- {name: frozen, read_only: true, match: {prefixes: [/registry/configmaps]}}",
    )
    .await?;
    let (kv, direct) = (stage.through().await?, stage.direct().await?);
    let op = |request| RequestOp { request: Some(request) };
    let hidden = TxnRequest {
        success: vec![
            op(Request::RequestRange(get("/registry/pods/a"))),
            op(Request::RequestTxn(create("a"))),
        ],
        ..TxnRequest::default()
    };
    ensure!(refused(&kv, [hidden]).await? == [true]);
    let found = direct.range(&list(CONFIGMAPS)).await?.ok().context("no answer")?;
    ensure!(found.count == 0, "it was written");
    Ok(())
}

/// However many of its limits a call runs into.
#[tokio::test]
async fn observing_counts_each_call_once() -> Result<()> {
    let rule = |mode| {
        format!(
            "rules:\n- name: both\n  mode: {mode}\n  match: {{prefixes: [/registry/configmaps]}}\n  \
             limit: {{requests: 2/h, creates: 2/h, burst: 1h, wait_max: 0s}}\n  \
             quota: {{value_size: 1KiB}}"
        )
    };
    let large = || put_if(&format!("{CONFIGMAPS}large"), 0, vec![b'v'; 2_000]);
    let mut figures = Vec::new();
    for mode in ["enforce", "observe"] {
        let stage = Stage::start(&rule(mode)).await?;
        let kv = stage.through().await?;
        let asks = [large(), create("1"), create("2"), create("3"), create("4"), large()];
        let refused = refused(&kv, asks).await?;
        let enforced = [true, false, false, true, true, true];
        ensure!(refused == if mode == "enforce" { enforced } else { [false; 6] }, "{refused:?}");
        figures.push(counted(&stage, "refused", "rules.both", mode).await?);
    }
    ensure!(figures == [4.0, 4.0], "{figures:?}");
    Ok(())
}
