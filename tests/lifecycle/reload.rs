//! A changed configuration while clients are there.

use crate::{DEADLINE, configure, configured, operator, raw::Connection};
use anyhow::{Context, Result, ensure};
use etcd_client::{Client, PutOptions};
use seawall::{
    etcd::{
        method::Method,
        proto::{
            concurrency::LeaderRequest,
            etcdserverpb::{WatchCreateRequest, WatchRequest, watch_request::RequestUnion},
        },
    },
    grpc::encode,
};
use seawall_testkit::{Cluster, SeawallProcess, eventually};

/// Waits for the `count`th line with this message.
async fn logged(seawall: &SeawallProcess, message: &str, count: usize) -> Result<()> {
    eventually(DEADLINE, &format!("{message:?} in the log"), async || {
        let log = seawall.log();
        let found = log.iter().filter(|line| line.message() == message).count();
        ensure!(found >= count, "{found} times: {log:#?}");
        Ok(())
    })
    .await
}

/// Whether the cluster holds this key.
async fn holds(cluster: &Cluster, key: &str) -> Result<bool> {
    let mut client = Client::connect(cluster.endpoints(), None).await?;
    Ok(!client.get(key, None).await?.kvs().is_empty())
}

#[tokio::test]
async fn routes_and_clusters_change_live() -> Result<()> {
    const RELOADED: &str = "configuration reloaded";
    const ALONE: &str = "clusters: {main: {endpoints: [{main}]}}\n";
    let (main, events) = (Cluster::single().await?, Cluster::single().await?);
    let routed = format!(
        "listeners: [{{default: main, routes: [{{prefix: /registry/events, cluster: events}}]}}]
clusters: {{main: {{endpoints: [{{main}}]}}, events: {{endpoints: [{}]}}}}
",
        events.member(0).endpoint()
    );
    let seawall = configured(&configure(&main, ALONE)?).await?;
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    client.put("/registry/events/a", "", None).await?;
    ensure!(holds(&main, "/registry/events/a").await?, "there is no route yet");

    let mut connection = Connection::open(seawall.address("main")?).await?;
    // Neither has an answer yet: nobody leads, and nothing was kept alive.
    let mut observing = connection.call(Method::Observe.path()).await?;
    let name = "/registry/events/leader".into();
    observing.sending.send_data(encode(&LeaderRequest { name }), true)?;
    let keeping = connection.call(Method::LeaseKeepAlive.path()).await?;
    let mut watching = connection.call(Method::Watch.path()).await?;
    let create =
        WatchCreateRequest { key: "/registry/events/a".into(), ..WatchCreateRequest::default() };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    watching.sending.send_data(encode(&create), false)?;
    let mut watched = watching.answer().await?;
    watched.message().await?.context("the watch is created")?;

    configure(&main, &routed)?;
    seawall.reload()?;
    logged(&seawall, RELOADED, 1).await?;
    for (what, answer) in [
        ("a watch", watched),
        ("an observer", observing.answer().await?),
        ("a stream of keep-alives", keeping.answer().await?),
    ] {
        let (code, text) = answer.status().await?;
        let stopped = (code, &*text) == (14, "etcdserver: server stopped");
        ensure!(stopped, "{what} whose route has changed ends with {code} {text}");
    }
    client.put("/registry/events/b", "", None).await?;
    ensure!(holds(&events, "/registry/events/b").await?, "the new cluster has it");
    ensure!(!holds(&main, "/registry/events/b").await?, "the old one has it not");

    // Without a signal: a changed file is seen.
    configure(&main, ALONE)?;
    logged(&seawall, RELOADED, 2).await?;
    client.put("/registry/events/c", "", None).await?;
    ensure!(holds(&main, "/registry/events/c").await?, "there is no route any more");
    Ok(())
}

/// A client renews its leases on one stream for as long as it lives. That renewed them at the clusters
/// that were there when it was opened: elsewhere they expired, and keys that were acknowledged went.
#[tokio::test]
async fn leases_are_kept_alive_at_a_cluster_that_a_reload_has_brought() -> Result<()> {
    const TTL: i64 = 600;
    let (main, events) = (Cluster::single().await?, Cluster::single().await?);
    let seawall =
        configured(&configure(&main, "clusters: {main: {endpoints: [{main}]}}\n")?).await?;
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    let id = client.lease_grant(TTL, None).await?.id();
    let (mut keeper, mut answers) = client.lease_keep_alive(id).await?;
    let routed = format!(
        "listeners: [{{default: main, routes: [{{prefix: /registry/events, cluster: events}}]}}]
clusters: {{main: {{endpoints: [{{main}}]}}, events: {{endpoints: [{}]}}}}
",
        events.member(0).endpoint()
    );
    configure(&main, &routed)?;
    seawall.reload()?;
    logged(&seawall, "configuration reloaded", 1).await?;
    client.put("/registry/events/a", "", Some(PutOptions::new().with_lease(id))).await?;

    let mut there = Client::connect(events.endpoints(), None).await?;
    let mut left = async || anyhow::Ok(there.lease_time_to_live(id, None).await?.ttl());
    let worn = eventually(DEADLINE, "some of the lease's time to pass", async || {
        let left = left().await?;
        ensure!(left < TTL - 1, "{left} s are left");
        Ok(left)
    })
    .await?;
    // As etcd's own client does, which opens another stream when one has ended.
    let renewed = match keeper.keep_alive().await {
        Ok(()) => answers.message().await.ok().flatten(),
        Err(_) => None,
    };
    if renewed.is_none() {
        client.lease_keep_alive(id).await?;
    }
    eventually(DEADLINE, "the lease to be renewed at the new cluster", async || {
        let left = left().await?;
        ensure!(left > worn, "{left} s are left");
        Ok(())
    })
    .await
}

/// A member that nobody asked any more was down for ever, and the alert about it went on. So did the
/// queues of a cluster that was gone, and what had been counted of its calls.
#[tokio::test]
async fn what_is_gone_is_not_counted_any_more() -> Result<()> {
    const DEAD: &str = "http://127.0.0.1:1";
    let (cluster, other) = (Cluster::single().await?, Cluster::single().await?);
    let text = format!(
        "listeners: [{{default: main, routes: [{{prefix: /gone, cluster: gone}}]}}]
clusters: {{main: {{endpoints: [{{main}}, {DEAD}]}}, gone: {{endpoints: [{}]}}}}\n",
        other.member(0).endpoint()
    );
    let seawall = configured(&configure(&cluster, &text)?).await?;
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    client.put("/gone/a", "", None).await?;
    let series = async || -> Result<Vec<String>> {
        let (_, text) = operator::get(seawall.admin()?, "/metrics").await?;
        // Who has loaded etcd in the last minute has done so.
        let lines = text.lines().filter(|line| !line.starts_with("seawall_top_"));
        Ok(lines.map(str::to_owned).collect())
    };
    let gone = |line: &String| line.contains(DEAD) || line.contains("cluster=\"gone\"");
    for name in ["seawall_upstream_", "seawall_mirror_", "seawall_queue_", "seawall_requests_total"]
    {
        let mut counted = series().await?.into_iter().filter(gone);
        ensure!(counted.any(|line| line.starts_with(name)), "no {name} to begin with");
    }
    configure(&cluster, "clusters: {main: {endpoints: [{main}]}}\nlisteners: [{default: main}]\n")?;
    seawall.reload()?;
    logged(&seawall, "configuration reloaded", 1).await?;
    let left: Vec<_> = series().await?.into_iter().filter(gone).collect();
    ensure!(left.is_empty(), "it is still counted: {left:#?}");
    let member = cluster.member(0).endpoint();
    ensure!(
        series().await?.iter().any(|line| line.contains(&member)),
        "what is left is not counted"
    );
    Ok(())
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_is_named() -> Result<()> {
    const KEPT: &str = "configuration not reloaded; the last good one stays";
    let cluster = Cluster::single().await?;
    let text = "clusters: {main: {endpoints: [{main}]}}\n";
    let file = configure(&cluster, text)?;
    let seawall = configured(&file).await?;
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    configure(&cluster, &format!("{text}drian: {{grace: 1s}}\n"))?;
    seawall.reload()?;
    let line = seawall.log_contains(DEADLINE, "a refusal", |line| line.message() == KEPT).await?;
    let error = line.text("error").context("it tells why")?;
    let place = format!("{}:2:", file.display());
    ensure!(error.contains(&place) && error.contains("drian"), "it does not tell where: {error}");
    client.put("/k", "", None).await?;

    configure(&cluster, "clusters: {main: {endpoints: [{main}]}}\nlog: {level: debug}\n")?;
    seawall.reload()?;
    logged(&seawall, "configuration reloaded", 1).await
}
