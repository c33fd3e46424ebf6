//! What several clusters behind one Seawall make of each call.

use crate::{
    arena::{Arena, ROUTED, Session, Target, abridged},
    client::{Client, DEADLINE, Reply, Status},
    schema::{self, bytes, number},
};
use anyhow::{Context, Result, ensure};
use seawall_testkit::{Binaries, Cluster, eventually};
use tonic::Code;

/// Two clusters, their Seawall, and a way to each of the three.
struct Routed {
    target: Target,
    main: Client,
    events: Client,
}

impl Routed {
    async fn start() -> Result<Self> {
        let (main, events) = tokio::try_join!(Cluster::single(), Cluster::single())?;
        Self::before(main, events).await
    }

    async fn before(main: Cluster, events: Cluster) -> Result<Self> {
        let clients = (
            Client::connect(main.member(0).address()).await?,
            Client::connect(events.member(0).address()).await?,
        );
        let target = Target::behind("seawall with two clusters", vec![main, events]).await?;
        Ok(Self { target, main: clients.0, events: clients.1 })
    }

    async fn call(&self, method: &str, request: &str) -> Result<Reply> {
        call(&self.target.client, method, &[], request).await
    }

    async fn ok(&self, method: &str, request: &str) -> Result<String> {
        ok(&self.target.client, method, request).await
    }

    /// Calls and expects a refusal with all these words.
    async fn refused(&self, code: Code, words: &[&str], method: &str, request: &str) -> Result<()> {
        let reply = self.call(method, request).await?;
        let what = abridged(request);
        let Status::Grpc { code: got, message, .. } = &reply.status else {
            anyhow::bail!("{method} {{{what}}}: {}", reply.status)
        };
        let complete = words.iter().all(|word| message.contains(word));
        ensure!(*got == code && complete, "{method} {{{what}}}: {}", reply.status);
        Ok(())
    }

    /// Keys below `/` in each cluster.
    async fn keys(&self) -> Result<(String, String)> {
        let all = "key: '/' range_end: '0' keys_only: true";
        Ok((keys(&self.main, all).await?, keys(&self.events, all).await?))
    }
}

async fn call(
    client: &Client,
    method: &str,
    metadata: &[(&str, &str)],
    request: &str,
) -> Result<Reply> {
    let known = schema::method(method)?;
    let message = schema::encode(known.input(), request)?;
    client.unary(&schema::path(&known), metadata, &message).await
}

/// The answer in text.
async fn ok(client: &Client, method: &str, request: &str) -> Result<String> {
    let reply = call(client, method, &[], request).await?;
    let known = schema::method(method)?;
    match reply.messages.first() {
        Some(message) => schema::show(known.output(), message),
        None => anyhow::bail!("{method} {{{}}}: {}", abridged(request), reply.status),
    }
}

async fn raw(client: &Client, method: &str, request: &str) -> Result<bytes::Bytes> {
    let mut reply = call(client, method, &[], request).await?;
    reply.messages.pop().with_context(|| format!("{method} {{{request}}}: {}", reply.status))
}

/// The keys of a range, one after the other.
async fn keys(client: &Client, request: &str) -> Result<String> {
    let shown = ok(client, "KV/Range", request).await?;
    let keys = shown.split("key:\"").skip(1).filter_map(|rest| rest.split('"').next());
    Ok(keys.collect::<Vec<_>>().join(" "))
}

#[tokio::test]
async fn keys_lie_where_their_prefix_says() -> Result<()> {
    let routed = Routed::start().await?;
    for key in ["", "/", "/a", "/b", "x", "s"] {
        routed.ok("KV/Put", &format!("key: '{ROUTED}{key}' value: 'v'")).await?;
    }
    routed.ok("KV/Put", "key: '/registry/pods/a' value: 'v'").await?;
    let (main, events) = routed.keys().await?;
    assert_eq!(main, "/registry/eventss /registry/eventsx /registry/pods/a");
    assert_eq!(events, "/registry/events /registry/events/ /registry/events/a /registry/events/b");

    let compare = format!("compare {{ key: '{ROUTED}/a' target: VERSION version: 1 }}");
    let put = format!("success {{ request_put {{ key: '{ROUTED}/c' }} }}");
    routed.ok("KV/Txn", &format!("{compare} {put}")).await?;
    routed.ok("KV/DeleteRange", &format!("key: '{ROUTED}/' range_end: '{ROUTED}/b'")).await?;
    let (_, events) = routed.keys().await?;
    assert_eq!(events, "/registry/events /registry/events/b /registry/events/c");
    Ok(())
}

#[tokio::test]
async fn no_answer_mixes_clusters() -> Result<()> {
    let routed = Routed::start().await?;
    for index in 0..5 {
        routed.ok("KV/Put", &format!("key: '{ROUTED}/{index}'")).await?;
    }
    routed.ok("KV/Put", "key: '/a'").await?;
    let id =
        |answer: &bytes::Bytes, field: &str| number("KV/Range", answer, &format!("header.{field}"));
    for (key, owner) in [(format!("{ROUTED}/1"), &routed.events), ("/a".to_owned(), &routed.main)] {
        let request = format!("key: '{key}'");
        let through = raw(&routed.target.client, "KV/Range", &request).await?;
        let direct = raw(owner, "KV/Range", &request).await?;
        for field in ["cluster_id", "member_id", "revision", "raft_term"] {
            assert_eq!(id(&through, field)?, id(&direct, field)?, "{field} of {key}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn ranges_over_both_are_joined_or_refused() -> Result<()> {
    let routed = Routed::start().await?;
    for key in ["/registry/a", "/registry/events/b", "/registry/events/c", "/registry/z"] {
        routed.ok("KV/Put", &format!("key: '{key}' value: 'v'")).await?;
    }
    let all = "key: '/registry/' range_end: '/registry0'";
    let header = "header{cluster_id:1,member_id:1,revision:3,raft_term:1}";
    let kv = |key: &str, revision, value: &str| {
        format!(
            "{{key:\"/registry/{key}\",create_revision:{revision},mod_revision:{revision},version:1{value}}}"
        )
    };
    let whole = |value: &str| {
        [kv("a", 2, value), kv("events/b", 2, value), kv("events/c", 3, value), kv("z", 3, value)]
    };
    let (kvs, keys) = (whole(",value:\"v\""), whole(""));
    for (options, kvs, rest) in [
        ("", &kvs[..], ",count:4"),
        ("keys_only: true", &keys, ",count:4"),
        ("limit: 1", &kvs[..1], ",more:true,count:4"),
        ("limit: 2", &kvs[..2], ",more:true,count:4"),
        ("limit: 3", &kvs[..3], ",more:true,count:4"),
        ("limit: 4", &kvs, ",count:4"),
        ("limit: 9 serializable: true", &kvs, ",count:4"),
        ("count_only: true", &[], ",count:4"),
        ("sort_order: ASCEND", &kvs, ",count:4"),
    ] {
        let kvs = if kvs.is_empty() { String::new() } else { format!(",kvs:[{}]", kvs.join(",")) };
        let answer = routed.ok("KV/Range", &format!("{all} {options}")).await?;
        assert_eq!(answer, format!("{header}{kvs}{rest}"), "{options}");
    }
    for options in [
        "revision: 2",
        "sort_order: DESCEND",
        "sort_order: ASCEND sort_target: MOD",
        "min_mod_revision: 1",
        "max_create_revision: 5",
    ] {
        let words = ["main", "events", "several etcd clusters"];
        routed
            .refused(Code::InvalidArgument, &words, "KV/Range", &format!("{all} {options}"))
            .await?;
    }
    let words = ["main", "events", "several etcd clusters"];
    routed.refused(Code::InvalidArgument, &words, "KV/DeleteRange", all).await?;
    assert_eq!(
        routed.ok("KV/Range", &format!("{all} count_only: true")).await?,
        format!("{header},count:4")
    );
    Ok(())
}

#[tokio::test]
async fn transactions_over_both_write_nothing() -> Result<()> {
    let routed = Routed::start().await?;
    let words = ["/a", "/registry/events/b", "main", "events"];
    for request in [
        "success { request_put { key: '/a' } } success { request_put { key: '/registry/events/b' } }",
        "success { request_put { key: '/a' } } failure { request_put { key: '/registry/events/b' } }",
        "compare { key: '/a' } success { request_put { key: '/registry/events/b' } }",
        "success { request_put { key: '/registry/events/b' } }
         success { request_txn { success { request_put { key: '/a' } } } }",
        "compare { key: '/registry/events/b' } success { request_range { key: '/a' } }",
    ] {
        routed.refused(Code::InvalidArgument, &words, "KV/Txn", request).await?;
    }
    assert_eq!(routed.keys().await?, (String::new(), String::new()));
    Ok(())
}

#[tokio::test]
async fn leases_reach_over_both() -> Result<()> {
    let routed = Routed::start().await?;
    routed.ok("Lease/LeaseGrant", "ID: 7 TTL: 600").await?;
    routed.ok("KV/Put", "key: '/registry/events/a' lease: 7").await?;
    routed.ok("KV/Put", "key: '/a' lease: 7").await?;
    let put = "success { request_put { key: '/registry/events/b' lease: 8 } }";
    routed
        .refused(Code::NotFound, &["etcdserver: requested lease not found"], "KV/Txn", put)
        .await?;
    routed.ok("Lease/LeaseGrant", "ID: 8 TTL: 600").await?;
    routed.ok("KV/Txn", put).await?;
    for (id, key) in [(7, "/registry/events/a"), (8, "/registry/events/b")] {
        let request = format!("ID: {id} keys: true");
        let held = ok(&routed.events, "Lease/LeaseTimeToLive", &request).await?;
        let wanted = format!("ID:{id},TTL:1,grantedTTL:600,keys:[\"{key}\"]");
        ensure!(held.ends_with(&wanted), "{held}");
    }
    let known = routed.ok("Lease/LeaseTimeToLive", "ID: 7 keys: true").await?;
    ensure!(known.ends_with("keys:[\"/a\",\"/registry/events/a\"]"), "{known}");

    let path = schema::path(&schema::method("Lease/LeaseKeepAlive")?);
    let mut renewals = routed.target.client.call(&path, &[]).await?;
    renewals.send(&schema::encode(schema::method("Lease/LeaseKeepAlive")?.input(), "ID: 7")?)?;
    let renewed = renewals.message().await?.context("the stream has ended")?;
    assert_eq!(number("Lease/LeaseKeepAlive", &renewed, "TTL")?, 600);

    routed.ok("Lease/LeaseRevoke", "ID: 7").await?;
    let (main, events) = routed.keys().await?;
    assert_eq!((main.as_str(), events.as_str()), ("", "/registry/events/b"));
    let gone = ok(&routed.events, "Lease/LeaseTimeToLive", "ID: 7").await?;
    ensure!(gone.ends_with("ID:7,TTL:-1"), "{gone}");
    Ok(())
}

#[tokio::test]
async fn watchers_of_both_share_a_stream() -> Result<()> {
    let routed = Routed::start().await?;
    let arena = Arena::of(vec![routed.target]);
    arena.check("two watchers", two_watchers).await;
    arena.verdict()
}

async fn two_watchers(t: &Session<'_>) -> Result<()> {
    let shown =
        |message: &bytes::Bytes| schema::show(schema::method("Watch/Watch")?.output(), message);
    let mut watch = t.open("Watch/Watch").await?;
    for key in ["/registry/events/a", "/a", "/registry/events/b"] {
        watch.send(&format!("create_request {{ key: '{key}' }}"))?;
    }
    for id in 0..3 {
        let created = watch.next().await?;
        assert_eq!(number("Watch/Watch", &created, "watch_id")?, id);
        ensure!(shown(&created)?.contains("created:true"), "{}", shown(&created)?);
    }
    watch.send("create_request { key: '/registry/' range_end: '/registry0' }")?;
    let refused = shown(&watch.next().await?)?;
    ensure!(refused.contains("watch_id:-1,created:true,canceled:true,cancel_reason:"), "{refused}");
    ensure!(refused.contains("cluster_id:1,member_id:1,revision:1,raft_term:1"), "{refused}");
    watch.send("create_request { key: '/a' watch_id: 2 }")?;
    let duplicate = shown(&watch.next().await?)?;
    ensure!(duplicate.contains("mvcc: duplicate watch ID"), "{duplicate}");

    for (key, id) in [("/a", 1), ("/registry/events/a", 0), ("/registry/events/b", 2)] {
        t.ok("KV/Put", &format!("key: '{key}' value: 'x'")).await?;
        let event = watch.next().await?;
        assert_eq!(number("Watch/Watch", &event, "watch_id")?, id, "{}", shown(&event)?);
    }
    // Of each watcher, at the revision of its own cluster.
    watch.send("progress_request {}")?;
    let progress = watch.next_in_any_order(3).await?;
    let mut told = Vec::new();
    for message in &progress {
        let of = |path| number("Watch/Watch", message, path);
        told.push((of("watch_id")?, of("header.revision")?));
    }
    told.sort();
    assert_eq!(told, [(0, 3), (1, 2), (2, 3)]);

    watch.send("cancel_request { watch_id: 0 }")?;
    let canceled = shown(&watch.next().await?)?;
    ensure!(canceled.contains("canceled:true"), "{canceled}");
    watch.send("create_request { key: '/registry/events/a' }")?;
    assert_eq!(number("Watch/Watch", &watch.next().await?, "watch_id")?, 3);
    Ok(())
}

#[tokio::test]
async fn a_compaction_reaches_both() -> Result<()> {
    let routed = Routed::start().await?;
    for index in 0..5 {
        routed.ok("KV/Put", &format!("key: '/registry/events/{index}'")).await?;
        routed.ok("KV/Put", &format!("key: '/{index}'")).await?;
    }
    // Seawall learns revisions and their times as it goes.
    eventually(DEADLINE, "a compaction of the other cluster", async || {
        let put = raw(&routed.target.client, "KV/Put", "key: '/again'").await?;
        routed.ok("KV/Put", "key: '/registry/events/again'").await?;
        let revision = number("KV/Put", &put, "header.revision")?;
        let done = routed.call("KV/Compact", &format!("revision: {revision}")).await?;
        ensure!(done.status.code() == Some(Code::Ok), "{}", done.status);
        let old = call(&routed.events, "KV/Range", &[], "key: '/a' revision: 2").await?;
        ensure!(old.status.code() == Some(Code::OutOfRange), "{}", old.status);
        Ok(())
    })
    .await?;
    // Never beyond what the other cluster had at the time.
    let now = routed.call("KV/Range", "key: '/registry/events/0'").await?;
    ensure!(now.status.code() == Some(Code::Ok), "{}", now.status);
    Ok(())
}

#[tokio::test]
async fn maintenance_names_its_cluster() -> Result<()> {
    let routed = Routed::start().await?;
    routed.ok("KV/Put", "key: '/registry/events/a'").await?;
    routed.ok("KV/Put", "key: '/registry/events/b'").await?;
    for method in ["Maintenance/HashKV", "Maintenance/Status", "Cluster/MemberList"] {
        for (name, direct) in
            [(None, &routed.main), (Some("main"), &routed.main), (Some("events"), &routed.events)]
        {
            let metadata: Vec<_> = name.map(|name| ("seawall-cluster", name)).into_iter().collect();
            let through = call(&routed.target.client, method, &metadata, "").await?;
            let direct = raw(direct, method, "").await?;
            let id = |answer| number(method, answer, "header.cluster_id");
            assert_eq!(id(&through.messages[0])?, id(&direct)?, "{method} of {name:?}");
        }
    }
    let metadata = [("seawall-cluster", "nobody")];
    let unknown = call(&routed.target.client, "Maintenance/Status", &metadata, "").await?;
    let text = unknown.status.to_string();
    ensure!(
        ["InvalidArgument", "nobody", "main, events"].iter().all(|word| text.contains(word)),
        "{text}"
    );
    Ok(())
}

#[tokio::test]
async fn the_lowest_version_counts() -> Result<()> {
    let selected = Binaries::selected()?;
    // Where there is but one version there is nothing to tell apart.
    let Some(other) = Binaries::all()?.into_iter().find(|other| *other != selected) else {
        return Ok(());
    };
    let starting = (Cluster::single(), Cluster::builder().binaries(&other).start());
    let (main, events) = tokio::try_join!(starting.0, starting.1)?;
    let routed = Routed::before(main, events).await?;
    let version = async |client: &Client| {
        let status = raw(client, "Maintenance/Status", "").await?;
        Ok::<_, anyhow::Error>(String::from_utf8(
            bytes("Maintenance/Status", &status, "version")?.into(),
        )?)
    };
    let lowest = if other.version() < selected.version() { &routed.events } else { &routed.main };
    let lowest = version(lowest).await?;
    eventually(DEADLINE, "the lowest version", async || {
        let told = version(&routed.target.client).await?;
        ensure!(told == lowest, "{told} instead of {lowest}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn locks_and_elections_lie_where_their_names_say() -> Result<()> {
    let routed = Routed::start().await?;
    routed.ok("Lease/LeaseGrant", "ID: 255 TTL: 600").await?;
    routed.ok("Lock/Lock", "name: '/registry/events/lock' lease: 255").await?;
    routed.ok("Lock/Lock", "name: '/lock' lease: 255").await?;
    let won = raw(
        &routed.target.client,
        "Election/Campaign",
        "name: '/registry/events/poll' lease: 255 value: 'v'",
    );
    let won = won.await?;
    let (main, events) = routed.keys().await?;
    assert_eq!(main, "/lock/ff");
    assert_eq!(events, "/registry/events/lock/ff /registry/events/poll/ff");
    let leader = routed.ok("Election/Leader", "name: '/registry/events/poll'").await?;
    ensure!(leader.contains("value:\"v\""), "{leader}");
    let revision = number("Election/Campaign", &won, "leader.rev")?;
    let leader = format!(
        "leader {{ name: '/registry/events/poll' key: '/registry/events/poll/ff' rev: {revision} lease: 255 }}"
    );
    routed.ok("Election/Proclaim", &format!("{leader} value: 'w'")).await?;
    routed.ok("Election/Resign", &leader).await?;
    routed.ok("Lock/Unlock", "key: '/registry/events/lock/ff'").await?;
    routed.ok("Lock/Unlock", "key: '/lock/ff'").await?;
    assert_eq!(routed.keys().await?, (String::new(), String::new()));
    Ok(())
}

#[tokio::test]
async fn one_token_opens_both() -> Result<()> {
    let routed = Routed::start().await?;
    for client in [&routed.main, &routed.events] {
        for (method, request) in [
            ("Auth/UserAdd", "name: 'root' password: 'secret'"),
            ("Auth/UserGrantRole", "user: 'root' role: 'root'"),
            ("Auth/AuthEnable", ""),
        ] {
            ok(client, method, request).await?;
        }
    }
    let answer =
        raw(&routed.target.client, "Auth/Authenticate", "name: 'root' password: 'secret'").await?;
    let token = String::from_utf8(bytes("Auth/Authenticate", &answer, "token")?.into())?;
    for key in ["/a", "/registry/events/a"] {
        let request = format!("key: '{key}'");
        let client = &routed.target.client;
        let put = call(client, "KV/Put", &[("token", &token)], &request).await?;
        ensure!(put.status.code() == Some(Code::Ok), "{key}: {}", put.status);
        let refused = call(client, "KV/Put", &[], &request).await?;
        ensure!(refused.status.code() == Some(Code::InvalidArgument), "{key}: {}", refused.status);
    }
    let (metadata, all) = ([("token", &*token)], "key: '/' range_end: '0' count_only: true");
    let all = call(&routed.target.client, "KV/Range", &metadata, all).await?;
    ensure!(all.status.code() == Some(Code::Ok), "{}", all.status);
    assert_eq!(number("KV/Range", &all.messages[0], "count")?, 2);
    Ok(())
}

#[tokio::test]
async fn the_others_serve_when_one_is_down() -> Result<()> {
    let routed = Routed::start().await?;
    routed.ok("Lease/LeaseGrant", "ID: 9 TTL: 600").await?;
    routed.ok("KV/Put", "key: '/registry/events/a' lease: 9").await?;
    routed.target.clusters[1].member(0).kill().await?;
    for method in ["KV/Put", "KV/Range"] {
        routed.refused(Code::Unavailable, &[], method, "key: '/registry/events/a'").await?;
        routed.ok(method, "key: '/a'").await?;
    }
    routed.ok("Maintenance/Status", "").await?;
    routed.ok("Lease/LeaseGrant", "ID: 10 TTL: 600").await?;
    routed.ok("Lease/LeaseTimeToLive", "ID: 9").await?;
    routed.ok("Lease/LeaseRevoke", "ID: 9").await?;
    Ok(())
}
