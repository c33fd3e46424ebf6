//! Rules delay, refuse, and count.

use crate::{Kv, Stage, list};
use anyhow::{Context, Result, ensure};
use prost::Message;
use seawall::etcd::{
    method::Method,
    proto::{
        concurrency::LeaderRequest,
        etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse, RangeRequest},
    },
};
use tonic::Code;

fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() }
}

/// Three may pass, and nobody waits: so nothing hangs on how long anything takes.
fn three_an_hour(mode: &str) -> String {
    format!(
        "rules:\n- name: few\n  mode: {mode}\n  match: {{prefixes: [/registry/pods], shapes: [get]}}\n  \
         limit: {{requests: 3/h, burst: 1h, wait_max: 0s}}"
    )
}

#[tokio::test]
async fn a_rate_is_kept_and_what_is_refused_is_told() -> Result<()> {
    let stage = Stage::start(&three_an_hour("enforce")).await?;
    let kv = stage.through().await?;
    for _ in 0..3 {
        ensure!(kv.range(&get("/registry/pods/a/1")).await?.is_ok());
    }
    let message = get("/registry/pods/a/1").encode_to_vec();
    let mut call = kv.client.call(Method::Range.path(), &[]).await?;
    call.send(&message)?;
    call.close()?;
    let reply = call.rest().await?;
    ensure!(reply.status.code() == Some(Code::ResourceExhausted), "{}", reply.status);
    let text = reply.status.to_string();
    ensure!(text.contains("etcdserver: too many requests (seawall: few: "), "{text}");
    ensure!(text.contains("raise its limit.requests"), "{text}");
    ensure!(reply.head.headers.contains_key("grpc-retry-pushback-ms"), "{:?}", reply.head);
    // Another prefix and another shape are not meant.
    ensure!(kv.range(&get("/registry/nodes/a")).await?.is_ok());
    ensure!(kv.range(&list("/registry/pods/")).await?.is_ok());
    Ok(())
}

#[tokio::test]
async fn a_rule_that_observes_counts_what_it_would_refuse() -> Result<()> {
    let mut refused = Vec::new();
    for mode in ["enforce", "observe"] {
        let stage = Stage::start(&three_an_hour(mode)).await?;
        let kv = stage.through().await?;
        let mut answered = 0;
        for number in 0..20 {
            let answer = kv.range(&get(&format!("/registry/pods/a/{number}"))).await?;
            answered += usize::from(answer.is_ok());
        }
        ensure!(answered == if mode == "enforce" { 3 } else { 20 }, "{answered} in {mode}");
        let name =
            format!("seawall_protection_refused_total{{protection=\"rules.few\",mode=\"{mode}\"}}");
        let (_, text) = crate::operator::get(stage.seawall.admin()?, "/metrics").await?;
        let line = text.lines().find(|line| line.starts_with(&name)).context(name)?;
        refused.push(line.rsplit(' ').next().context("no value")?.parse::<f64>()?);
        let (_, calls) = crate::operator::get(stage.seawall.admin()?, "/calls").await?;
        let calls: Vec<serde_json::Value> = serde_json::from_str(&calls)?;
        let reads = calls.iter().find(|calls| calls["class"] == "point_read");
        let would_refuse = reads.context("no reads")?["would_refuse"].as_u64();
        ensure!(would_refuse == Some(if mode == "enforce" { 0 } else { 17 }), "{calls:?}");
    }
    ensure!(refused == [17.0, 17.0], "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn nothing_stops_what_the_control_plane_hangs_on() -> Result<()> {
    let stage = Stage::start("rules:\n- {name: nothing, deny: true}").await?;
    let kv = stage.through().await?;
    let denied = kv.range(&get("/registry/pods/a/1")).await?.err().context("it is let through")?;
    ensure!(denied.code == Code::PermissionDenied && denied.text.contains("nothing"), "{denied:?}");
    ensure!(kv.put("/registry/pods/a/1", "1").await?.is_err());
    ensure!(kv.range(&get("/registry/health")).await?.is_ok());
    let lease: Result<LeaseGrantResponse, _> =
        kv.ask(Method::LeaseGrant, &LeaseGrantRequest { ttl: 60, id: 0 }).await?;
    ensure!(lease.is_ok(), "{lease:?}");
    ensure!(kv.create("/registry/leases/kube-system/kube-scheduler", "1").await?.is_ok());
    ensure!(kv.create("/registry/masterleases/10.0.0.1", "1").await?.is_ok());
    ensure!(kv.range(&list("/registry/masterleases/")).await?.is_ok_and(|list| list.count == 1));
    let now = stage.direct().await?.revision().await?;
    kv.compact(now).await
}

/// A client that was denied everything went on following elections, and calling what a newer etcd has.
#[tokio::test]
async fn who_is_denied_is_denied_whatever_it_asks_for() -> Result<()> {
    let stage = Stage::start("rules:\n- {name: nothing, deny: true}").await?;
    let kv = stage.through().await?;
    let observe = LeaderRequest { name: "leader".into() }.encode_to_vec();
    for (path, message) in [
        (Method::Observe.path(), &observe[..]),
        (Method::Snapshot.path(), &[]),
        (Method::MemberList.path(), &[]),
        ("/etcdserverpb.KV/RangeBackwards", &[]),
    ] {
        let reply = kv.client.unary(path, &[], message).await?;
        ensure!(reply.status.code() == Some(Code::PermissionDenied), "{path}: {}", reply.status);
        ensure!(reply.status.to_string().contains("nothing"), "{path}: {}", reply.status);
    }
    Ok(())
}

#[tokio::test]
async fn an_exempt_call_meets_no_later_rule() -> Result<()> {
    let stage = Stage::start(
        "rules:\n- {name: mine, exempt: true, match: {addresses: [127.0.0.0/8]}}\n- {name: nothing, deny: true}",
    )
    .await?;
    ensure!(stage.through().await?.range(&get("/registry/pods/a/1")).await?.is_ok());
    Ok(())
}

#[tokio::test]
async fn a_changed_rule_holds_at_once() -> Result<()> {
    let stage = Stage::start("rules:\n- {name: nothing, deny: true}").await?;
    let kv = stage.through().await?;
    ensure!(kv.range(&get("/registry/pods/a/1")).await?.is_err());
    stage.reload("rules:\n- {name: nothing, deny: true, mode: observe}").await?;
    ensure!(kv.range(&get("/registry/pods/a/1")).await?.is_ok());
    Ok(())
}

#[tokio::test]
async fn a_watcher_may_be_denied() -> Result<()> {
    let rule = "rules:\n- {name: blind, deny: true, match: {prefixes: [/registry/secrets], methods: [Watch]}}";
    let stage = Stage::start(rule).await?;
    let mut client = etcd_client::Client::connect([stage.seawall.endpoint()?], None).await?;
    let options = Some(etcd_client::WatchOptions::new().with_prefix());
    let mut refused = client.watch("/registry/secrets/", options.clone()).await?;
    let answer = refused.message().await?.context("the stream ends")?;
    ensure!(answer.canceled() && answer.cancel_reason().contains("blind"), "{answer:?}");
    let mut allowed = client.watch("/registry/pods/", options).await?;
    Kv::connect(stage.etcd.member(0).address()).await?.put("/registry/pods/a", "1").await?.ok();
    loop {
        let answer = allowed.message().await?.context("the stream ends")?;
        ensure!(!answer.canceled(), "{answer:?}");
        if !answer.events().is_empty() {
            return Ok(());
        }
    }
}
