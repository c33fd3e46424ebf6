//! A cluster that is down harms its own keys alone.

use crate::{DEADLINE, Routed, binary, connect, refusal};
use anyhow::{Context, Result, ensure};
use etcd_client::{PutOptions, WatchOptions};
use seawall_testkit::{Cluster, SeawallProcess, eventually};
use std::{fs, time::Duration};
use tokio::time::{Instant, timeout};
use tonic::Code;

const POD: &str = "/registry/pods/a";
const EVENT: &str = "/registry/events/a";

#[tokio::test]
async fn a_cluster_that_is_down_harms_its_own_keys_alone() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    client.put(EVENT, "before", None).await?;
    let mut watch =
        client.watch("/registry/pods/", Some(WatchOptions::new().with_prefix())).await?;
    ensure!(watch.message().await?.is_some_and(|r| r.created()), "no watch");
    let lease = client.lease_grant(600, None).await?.id();

    routed.events.member(0).kill().await?;
    for status in [
        refusal(client.get(EVENT, None).await)?,
        refusal(client.put(EVENT, "during", None).await)?,
        refusal(client.delete(EVENT, None).await)?,
    ] {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    client.put(POD, "during", Some(PutOptions::new().with_lease(lease))).await?;
    let told = timeout(DEADLINE, watch.message()).await??.context("the watch ends")?;
    let kv = told.events()[0].kv().context("an event has a key")?;
    assert_eq!((kv.key(), kv.value()), (POD.as_bytes(), &b"during"[..]));
    ensure!(!client.get(POD, None).await?.kvs().is_empty(), "a key that was put is missing");
    let (mut keeper, mut answers) = client.lease_keep_alive(lease).await?;
    keeper.keep_alive().await?;
    ensure!(answers.message().await?.is_some_and(|kept| kept.ttl() == 600), "no keep-alive");

    routed.events.member(0).restart().await?;
    let found = eventually(DEADLINE, "events to be served again", async || {
        Ok(client.get(EVENT, None).await?)
    })
    .await?;
    assert_eq!(found.kvs()[0].value(), b"before");
    client.put(EVENT, "after", Some(PutOptions::new().with_lease(lease))).await?;
    client.lease_revoke(lease).await?;
    for key in [POD, EVENT] {
        ensure!(client.get(key, None).await?.kvs().is_empty(), "{key} outlives its lease");
    }
    Ok(())
}

#[tokio::test]
async fn watches_end_on_the_cluster_that_goes_down() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    let below = || Some(WatchOptions::new().with_prefix());
    let mut watch = client.watch("/registry/pods/", below()).await?;
    watch.watch("/registry/events/", below()).await?;
    for id in [0, 1] {
        let created = watch.message().await?.context("the watch ends")?;
        ensure!(created.created() && created.watch_id() == id, "{created:?}");
    }
    routed.events.member(0).kill().await?;
    let ended = timeout(DEADLINE, watch.message()).await??.context("the watch ends")?;
    assert_eq!((ended.watch_id(), ended.canceled()), (1, true), "{ended:?}");
    client.put(POD, "v", None).await?;
    let told = timeout(DEADLINE, watch.message()).await??.context("the watch ends")?;
    assert_eq!((told.watch_id(), told.events().len()), (0, 1), "{told:?}");
    Ok(())
}

/// A write waited 5 s for a cluster that was down, so that it could be counted what grants would not let.
#[tokio::test]
async fn what_is_only_counted_hardly_waits_for_a_cluster_that_is_down() -> Result<()> {
    let (main, events) = tokio::try_join!(Cluster::single(), Cluster::single())?;
    let config = main.dir().join("seawall.yaml");
    let text = format!(
        "access: {{mode: observe, grants: [{{clients: [nobody], verbs: [read], prefixes: [/x]}}]}}
listeners: [{{default: main, routes: [{{prefix: /registry/events, cluster: events}}]}}]
clusters: {{main: {{endpoints: [{}]}}, events: {{endpoints: [{}]}}}}
",
        main.member(0).endpoint(),
        events.member(0).endpoint()
    );
    fs::write(&config, text)?;
    let builder = SeawallProcess::builder().binary(binary());
    let seawall = builder.args(["--config".as_ref(), config.as_os_str()]).start().await?;
    let mut client = connect(&seawall.endpoint()?).await?;
    let lease = client.lease_grant(600, None).await?.id();
    events.member(0).kill().await?;
    let began = Instant::now();
    client.put(POD, "", Some(PutOptions::new().with_lease(lease))).await?;
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(4), "it took {took:?}");
    Ok(())
}
