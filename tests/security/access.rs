//! Each method of etcd's, by clients who may and who may not.

use crate::{Named, Stage, is_denied, operator, schema};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Method as Verb;
use prost::Message;
use seawall::etcd::{
    method::Method,
    proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request},
};
use std::collections::BTreeSet;
use tonic::Code;

const ACCESS: &str = r#"
access:
  grants:
    - {clients: [team], verbs: [read, write, watch, lease], prefixes: [/team]}
    - {clients: [reader], verbs: [read], prefixes: [/team/]}
    - {clients: [writer], verbs: [write], prefixes: [/team]}
    - {clients: [monitor], verbs: [status]}
    - {clients: [operator], verbs: [all], prefixes: [""]}
"#;

/// A lease of the operator, with a key that others may not see.
const FOREIGN: i64 = 4711;

/// What `team` may not do.
const REFUSED: &[(&str, &str)] = &[
    ("KV/Range", "key: '/other'"),
    ("KV/Range", "key: '/teamster'"),
    ("KV/Range", "key: '/team' range_end: '/team0'"),
    ("KV/Range", "key: '/team/' range_end: '/team1'"),
    ("KV/Range", "key: '/' range_end: '0'"),
    ("KV/Range", r"key: '/team/' range_end: '\000'"),
    ("KV/Range", r"key: '\000' range_end: '\000'"),
    ("KV/Range", "key: '/team/z' range_end: '/zebra' limit: 1 serializable: true"),
    ("KV/Range", "key: '/' range_end: '0' count_only: true"),
    ("KV/RangeStream", "key: '/' range_end: '0'"),
    ("KV/Put", "key: '/other' value: '1'"),
    ("KV/Put", "key: '/team/x' lease: 4711"),
    ("KV/DeleteRange", "key: '/other'"),
    ("KV/DeleteRange", r"key: '/team/' range_end: '\000'"),
    ("KV/Txn", "compare { key: '/other' result: EQUAL target: VERSION version: 0 }"),
    ("KV/Txn", "compare { key: '/team/' range_end: '/z' target: VERSION version: 0 }"),
    ("KV/Txn", "success { request_put { key: '/other' } }"),
    ("KV/Txn", "failure { request_range { key: '/other' } }"),
    ("KV/Txn", "success { request_put { key: '/team/x' lease: 4711 } }"),
    (
        "KV/Txn",
        r"success { request_txn { failure { request_delete_range { key: '/team/' range_end: '\000' } } } }",
    ),
    ("KV/Compact", "revision: 1"),
    ("Lease/LeaseRevoke", "ID: 4711"),
    ("Lease/LeaseTimeToLive", "ID: 4711 keys: true"),
    ("Lease/LeaseLeases", ""),
    ("Lock/Lock", "name: '/other'"),
    ("Lock/Lock", "name: '/team/lock' lease: 4711"),
    ("Lock/Unlock", "key: '/other/1'"),
    ("Election/Campaign", "name: '/other' lease: 4711"),
    ("Election/Campaign", "name: '/team/e' lease: 4711"),
    ("Election/Proclaim", "leader { name: '/team/e' key: '/other/1' }"),
    ("Election/Proclaim", "leader { name: '/team/e' key: '/team/e/1' lease: 4711 }"),
    ("Election/Leader", "name: '/other'"),
    ("Election/Observe", "name: '/other'"),
    ("Election/Resign", "leader { name: '/team/e' key: '/other/1' }"),
    ("Cluster/MemberAdd", ""),
    ("Cluster/MemberRemove", ""),
    ("Cluster/MemberUpdate", ""),
    ("Cluster/MemberPromote", ""),
    ("Cluster/MemberList", ""),
    ("Maintenance/Alarm", ""),
    ("Maintenance/Status", ""),
    ("Maintenance/Defragment", ""),
    ("Maintenance/Hash", ""),
    ("Maintenance/HashKV", ""),
    ("Maintenance/Snapshot", ""),
    ("Maintenance/MoveLeader", ""),
    ("Maintenance/Downgrade", ""),
    ("Auth/AuthEnable", ""),
    ("Auth/AuthDisable", ""),
    ("Auth/AuthStatus", ""),
    ("Auth/UserAdd", ""),
    ("Auth/UserGet", ""),
    ("Auth/UserList", ""),
    ("Auth/UserDelete", ""),
    ("Auth/UserChangePassword", ""),
    ("Auth/UserGrantRole", ""),
    ("Auth/UserRevokeRole", ""),
    ("Auth/RoleAdd", ""),
    ("Auth/RoleGet", ""),
    ("Auth/RoleList", ""),
    ("Auth/RoleDelete", ""),
    ("Auth/RoleGrantPermission", ""),
    ("Auth/RoleRevokePermission", ""),
];

/// What `team` may do, in this order.
const LET: &[(&str, &str)] = &[
    ("KV/Put", "key: '/team' value: '1' prev_kv: true"),
    ("KV/Put", "key: '/team/a' value: '1'"),
    ("KV/Range", "key: '/team/' range_end: '/team0'"),
    ("KV/Range", "key: '/team'"),
    ("Lease/LeaseGrant", "ID: 7 TTL: 600"),
    ("KV/Put", "key: '/team/leased' lease: 7"),
    ("KV/Txn", "success { request_put { key: '/team/more' lease: 7 } }"),
    ("Lease/LeaseTimeToLive", "ID: 7 keys: true"),
    ("Lease/LeaseTimeToLive", "ID: 4711"),
    ("Lock/Lock", "name: '/team/lock' lease: 7"),
    ("Election/Campaign", "name: '/team/e' lease: 7 value: '1'"),
    ("Election/Leader", "name: '/team/e'"),
    ("Lease/LeaseRevoke", "ID: 7"),
    ("KV/DeleteRange", "key: '/team/' range_end: '/team0' prev_kv: true"),
];

async fn stage() -> Result<(Stage, Named, Named)> {
    let stage = Stage::start(ACCESS).await?;
    let (team, operator) = (stage.named("team").await?, stage.named("operator").await?);
    operator.ok("Lease/LeaseGrant", &format!("ID: {FOREIGN} TTL: 600")).await?;
    operator.ok("KV/Put", &format!("key: '/other' value: 'secret' lease: {FOREIGN}")).await?;
    Ok((stage, team, operator))
}

#[tokio::test]
async fn each_method_needs_its_grant() -> Result<()> {
    let (stage, team, operator) = stage().await?;
    for (method, request) in REFUSED {
        let reply = team.call(method, request).await?;
        ensure!(is_denied(&reply), "{method} {request}: {}", reply.status);
    }
    for (method, request) in LET {
        team.ok(method, request).await?;
    }
    // Nothing that was refused has happened.
    let other = operator.ok("KV/Range", "key: '/' range_end: '/team'").await?;
    ensure!(schema::bytes("KV/Range", &other, "kvs.value")? == "secret");
    ensure!(schema::count("KV/Range", &other, "kvs")? == 1);
    let leased = operator.ok("Lease/LeaseTimeToLive", &format!("ID: {FOREIGN} keys: true")).await?;
    ensure!(schema::count("Lease/LeaseTimeToLive", &leased, "keys")? == 1);

    // A password is for etcd to judge, and whether we serve is no secret.
    let reply = team.call("Auth/Authenticate", "name: 'a' password: 'b'").await?;
    ensure!(reply.status.code() != Some(Code::PermissionDenied), "{}", reply.status);
    team.ok("Health/Check", "").await?;
    stage.named("stranger").await?.ok("Health/Check", "").await.map(drop)
}

/// A method of tomorrow has to be thought about.
#[test]
fn no_method_is_forgotten() {
    let tried = REFUSED.iter().chain(LET).filter_map(|(method, _)| method.split('/').nth(1));
    let elsewhere = ["Watch", "LeaseKeepAlive", "Authenticate", "Check"];
    let tried: BTreeSet<_> = tried.chain(elsewhere).collect();
    let all = Method::ALL.iter().map(|method| method.name());
    let missing: Vec<_> = all.filter(|name| !tried.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test]
async fn each_verb_is_its_own() -> Result<()> {
    let (stage, ..) = stage().await?;
    let (reader, writer) = (stage.named("reader").await?, stage.named("writer").await?);
    let monitor = stage.named("monitor").await?;
    for (who, method, request, may) in [
        (&reader, "KV/Range", "key: '/team/a'", true),
        (&reader, "KV/Put", "key: '/team/a'", false),
        (&reader, "Lease/LeaseGrant", "TTL: 600", false),
        (&writer, "KV/Put", "key: '/team/a'", true),
        // What was there before is read.
        (&writer, "KV/Put", "key: '/team/a' prev_kv: true", false),
        (&writer, "KV/DeleteRange", "key: '/team/a' prev_kv: true", false),
        (&writer, "KV/Txn", "success { request_put { key: '/team/a' prev_kv: true } }", false),
        (&writer, "KV/DeleteRange", "key: '/team/a'", true),
        (&monitor, "Maintenance/Status", "", true),
        (&monitor, "Cluster/MemberList", "", true),
        (&monitor, "KV/Range", "key: '/team/a'", false),
    ] {
        let reply = who.call(method, request).await?;
        ensure!(is_denied(&reply) != may, "{method} {request}: {}", reply.status);
    }
    // They name clients and keys.
    let (page, _) = monitor.client.http(Verb::GET, "/metrics").await?;
    ensure!(page.status() == 200);
    let (page, _) = reader.client.http(Verb::GET, "/metrics").await?;
    ensure!(page.status() == 403);
    let reply = stage.named("stranger").await?.call("KV/Range", "key: '/team'").await?;
    ensure!(is_denied(&reply), "{}", reply.status);
    Ok(())
}

/// Opens a watcher with a request as it is, and returns the first answer.
async fn watched(client: &Named, request: &[u8]) -> Result<WatchResponse> {
    let mut call = client.client.call(Method::Watch.path(), &[]).await?;
    call.send(request)?;
    Ok(WatchResponse::decode(call.message().await?.context("no answer")?)?)
}

fn create(key: &'static str, range_end: &'static str) -> Vec<u8> {
    let create =
        WatchCreateRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
    let union = watch_request::RequestUnion::CreateRequest(create);
    WatchRequest { request_union: Some(union) }.encode_to_vec()
}

#[tokio::test]
async fn a_watch_lies_inside_what_may_be_watched() -> Result<()> {
    let (_stage, team, operator) = stage().await?;
    for (request, may) in [
        (create("/team", ""), true),
        (create("/team/", "/team0"), true),
        (create("/team/", "\0"), false),
        (create("/team", "/team0"), false),
        (create("", "\0"), false),
        (create("", ""), false),
        (create("/other", ""), false),
        // Go takes the second of two and Rust both: the second alone begins at the least key.
        ([create("/team/a", ""), create("", "/team0")].concat(), false),
    ] {
        let answer = watched(&team, &request).await?;
        ensure!(answer.created && answer.canceled != may, "{answer:?}");
        ensure!(may || (answer.watch_id, answer.events.len()) == (-1, 0), "{answer:?}");
        ensure!(may || answer.cancel_reason.ends_with("etcdserver: permission denied"));
    }
    let everything = watched(&operator, &create("", "\0")).await?;
    ensure!(everything.created && !everything.canceled, "{everything:?}");
    Ok(())
}

#[tokio::test]
async fn the_second_of_two_operations_is_not_overlooked() -> Result<()> {
    let (_stage, team, _) = stage().await?;
    // Two requests in the place of one: Go takes the second alone.
    let op = |request: &[u8]| [&[0x0a, request.len() as u8][..], request].concat();
    let range = |fields: &[u8]| op(fields);
    let (key, end) = (b"\x0a\x06/team/", b"\x12\x01\x00");
    let hidden = [range(key), range(end)].concat();
    let txn = [&[0x12, hidden.len() as u8][..], &hidden].concat();
    let reply = team.client.unary(Method::Txn.path(), &[], &txn).await?;
    ensure!(is_denied(&reply), "{}", reply.status);
    // A field that this build does not know may widen what is read.
    let unknown = [&b"\x0a\x07/team/a"[..], b"\xf8\x3f\x01"].concat();
    let reply = team.client.unary(Method::Range.path(), &[], &unknown).await?;
    ensure!(is_denied(&reply), "{}", reply.status);
    // A method that this build does not know.
    let reply = team.client.unary("/etcdserverpb.KV/RangeBackwards", &[], b"").await?;
    ensure!(is_denied(&reply), "{}", reply.status);
    Ok(())
}

#[tokio::test]
async fn keep_alives_need_a_grant() -> Result<()> {
    let (stage, team, _) = stage().await?;
    team.ok("Lease/LeaseGrant", "ID: 8 TTL: 600").await?;
    let reader = stage.named("reader").await?;
    for (who, may) in [(&team, true), (&reader, false)] {
        let mut call = who.client.call(Method::LeaseKeepAlive.path(), &[]).await?;
        call.send(b"\x08\x08")?;
        ensure!(call.message().await?.is_some() == may, "whether it may is not {may}");
    }
    Ok(())
}

/// What others have read is in memory, and what they read at the same time is shared.
#[tokio::test]
async fn memory_and_shared_reads_open_nothing() -> Result<()> {
    let (stage, team, operator) = stage().await?;
    operator.ok("KV/Put", "key: '/registry/secrets/a/1' value: 'secret'").await?;
    const LIST: &str = "key: '/registry/secrets/' range_end: '/registry/secrets0'";
    let name = "seawall_mirror_answers_total";
    seawall_testkit::eventually(crate::client::DEADLINE, "an answer from memory", async || {
        operator.ok("KV/Range", LIST).await?;
        ensure!(operator::metric(stage.seawall.admin()?, name).await? > 0.0, "none yet");
        Ok(())
    })
    .await?;
    for _ in 0..5 {
        let (let_, refused) =
            tokio::join!(operator.ok("KV/Range", LIST), team.call("KV/Range", LIST));
        let_?;
        let refused = refused?;
        ensure!(is_denied(&refused), "{}", refused.status);
    }
    Ok(())
}

#[tokio::test]
async fn a_grant_that_is_taken_back_ends_watches() -> Result<()> {
    let (stage, team, _) = stage().await?;
    let mut call = team.client.call(Method::Watch.path(), &[]).await?;
    call.send(&create("/team/", "/team0"))?;
    call.message().await?.context("it is created")?;
    stage.reload(&ACCESS.replace("[team]", "[others]")).await?;
    while call.message().await?.is_some() {}
    ensure!(call.status().await?.code() == Some(Code::Unavailable), "{}", call.status().await?);
    let again = watched(&team, &create("/team/", "/team0")).await?;
    ensure!(again.canceled, "{again:?}");
    ensure!(is_denied(&team.call("KV/Range", "key: '/team'").await?));
    // And all is let again without any.
    stage.reload("").await?;
    team.ok("KV/Range", "key: '/other'").await.map(drop)
}

#[tokio::test]
async fn observing_counts_and_refuses_nothing() -> Result<()> {
    let stage = Stage::start(&ACCESS.replace("access:", "access:\n  mode: observe")).await?;
    let stranger = stage.named("stranger").await?;
    let _: Bytes = stranger.ok("KV/Put", "key: '/other'").await?;
    let name = "seawall_access_refused_total{verb=\"write\",mode=\"observe\"}";
    let counted = async || operator::metric(stage.seawall.admin()?, name).await;
    ensure!(counted().await? == 1.0);
    // The keys of others that hang on a lease count as they are refused.
    let operator = stage.named("operator").await?;
    operator.ok("Lease/LeaseGrant", &format!("ID: {FOREIGN} TTL: 600")).await?;
    operator.ok("KV/Put", &format!("key: '/other' lease: {FOREIGN}")).await?;
    ensure!(counted().await? == 1.0);
    let team = stage.named("team").await?;
    team.ok("KV/Put", &format!("key: '/team/x' lease: {FOREIGN}")).await?;
    ensure!(counted().await? == 2.0, "{}", counted().await?);
    team.ok("Lease/LeaseRevoke", &format!("ID: {FOREIGN}")).await?;
    ensure!(counted().await? == 3.0, "{}", counted().await?);
    Ok(())
}
