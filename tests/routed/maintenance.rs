//! Compaction, and what clients are told about the clusters as a whole.

use crate::{DEADLINE, Routed, direct, refusal};
use anyhow::{Context, Result, ensure};
use etcd_client::{Client, GetOptions};
use seawall_testkit::{Binaries, Cluster, eventually};
use tonic::Status;

const EVENT: &str = "/registry/events/a";

async fn put(client: &mut Client, key: &str) -> Result<i64> {
    Ok(client.put(key, "v", None).await?.header().context("no header")?.revision())
}

/// Why `cluster` cannot be read at `revision`.
async fn unreadable(client: &mut Client, revision: i64) -> Result<Status> {
    refusal(client.get(EVENT, Some(GetOptions::new().with_revision(revision))).await)
}

#[tokio::test]
async fn a_compaction_takes_the_other_cluster_along_and_never_further() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    let (mut main, mut events) = routed.direct().await?;
    for _ in 0..5 {
        put(&mut events, EVENT).await?;
    }
    // Seawall looks at the clusters from time to time. Compacting at ever later revisions of the
    // default cluster shows when it has seen these keys.
    let horizon = eventually(DEADLINE, "events to be compacted", async || {
        let now = put(&mut main, "/registry/pods/a").await?;
        client.compact(now, None).await?;
        let status = unreadable(&mut events, 2).await?;
        ensure!(status.message().contains("required revision has been compacted"), "{status:?}");
        Ok(now)
    })
    .await?;
    ensure!(horizon > 2, "nothing was written");

    // What is written there after the default cluster reached a revision stays readable at once
    // and ever after.
    let reached = put(&mut main, "/registry/pods/b").await?;
    let first = put(&mut events, EVENT).await?;
    let last = put(&mut events, EVENT).await?;
    ensure!(first < last, "revisions go up");
    client.compact(reached, None).await?;
    let later = eventually(DEADLINE, "the compaction after that", async || {
        let now = put(&mut main, "/registry/pods/b").await?;
        client.compact(now, None).await?;
        let status = unreadable(&mut main, reached).await?;
        ensure!(status.message().contains("required revision has been compacted"), "{status:?}");
        let at_last = GetOptions::new().with_revision(last);
        let found = events.get(EVENT, Some(at_last)).await?;
        ensure!(found.kvs()[0].mod_revision() == last, "{found:?}");
        Ok(now)
    })
    .await?;
    ensure!(later > reached, "revisions go up");
    Ok(())
}

#[tokio::test]
async fn status_tells_the_lowest_version_and_the_default_clusters_rest() -> Result<()> {
    let (old, new) = (Binaries::all()?.swap_remove(0), Binaries::newest()?);
    for (first, second) in [(&old, &new), (&new, &old)] {
        let (main, events) = tokio::try_join!(
            Cluster::builder().binaries(first).start(),
            Cluster::builder().binaries(second).start()
        )?;
        let routed = Routed::of(main, events).await?;
        let lowest = direct(if first == &old { &routed.main } else { &routed.events }).await?;
        let lowest = lowest.clone().status().await?;
        // Known once each cluster was asked.
        let told = eventually(DEADLINE, "the lowest version", async || {
            let told = routed.client().await?.status().await?;
            ensure!(told.version() == lowest.version(), "it says {}", told.version());
            Ok(told)
        })
        .await?;
        let mut main = direct(&routed.main).await?;
        let own = main.status().await?;
        assert_eq!(told.leader(), own.leader());
        let cluster = |s: &etcd_client::StatusResponse| s.header().map(|h| h.cluster_id());
        assert_eq!(cluster(&told), cluster(&own));
    }
    Ok(())
}

#[tokio::test]
async fn members_of_the_default_cluster_have_the_address_of_seawall() -> Result<()> {
    let routed = Routed::start().await?;
    let told = routed.client().await?.member_list().await?;
    let own = direct(&routed.main).await?.member_list().await?;
    assert_eq!(told.members().len(), 1);
    assert_eq!(told.members()[0].id(), own.members()[0].id());
    assert_eq!(told.members()[0].client_urls(), [routed.seawall.endpoint()?]);
    assert_eq!(told.members()[0].peer_urls(), own.members()[0].peer_urls());
    Ok(())
}
