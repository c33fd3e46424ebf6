//! Locks and elections, which are keys below their name.

use crate::{Routed, direct, keys};
use anyhow::{Context, Result, ensure};
use etcd_client::{Client, LockOptions, ProclaimOptions, ResignOptions};
use seawall_testkit::Cluster;

const TTL: i64 = 600;

async fn all_keys(cluster: &Cluster) -> Result<Vec<String>> {
    keys(&mut direct(cluster).await?).await
}

async fn lock(client: &mut Client, name: &str) -> Result<Vec<u8>> {
    let lease = client.lease_grant(TTL, None).await?.id();
    let locked = client.lock(name, Some(LockOptions::new().with_lease(lease))).await?;
    Ok(locked.key().to_vec())
}

#[tokio::test]
async fn a_lock_lives_where_its_name_belongs() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    let there = lock(&mut client, "/registry/events/lock").await?;
    let here = lock(&mut client, "/registry/lock").await?;
    assert_eq!(all_keys(&routed.events).await?, [String::from_utf8(there.clone())?]);
    assert_eq!(all_keys(&routed.main).await?, [String::from_utf8(here.clone())?]);
    client.unlock(there).await?;
    client.unlock(here).await?;
    for cluster in [&routed.main, &routed.events] {
        ensure!(all_keys(cluster).await?.is_empty(), "an unlocked key is left");
    }
    Ok(())
}

#[tokio::test]
async fn an_election_lives_where_its_name_belongs() -> Result<()> {
    const NAME: &str = "/registry/events/leader";
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    let lease = client.lease_grant(TTL, None).await?.id();
    let mut won = client.campaign(NAME, "first", lease).await?;
    let leader = won.take_leader().context("a winner is the leader")?;
    assert_eq!(all_keys(&routed.events).await?, [leader.key_str()?]);
    ensure!(all_keys(&routed.main).await?.is_empty(), "the default cluster has part of it");

    let mut observer = client.observe(NAME).await?;
    let of = |kv: Option<&etcd_client::KeyValue>| kv.map(|kv| kv.value().to_vec());
    let observed = observer.message().await?.context("nothing to observe")?;
    assert_eq!(of(observed.kv()), Some(b"first".to_vec()));
    let proclaim = ProclaimOptions::new().with_leader(leader.clone());
    client.proclaim("second", Some(proclaim)).await?;
    let observed = observer.message().await?.context("nothing to observe")?;
    assert_eq!(of(observed.kv()), Some(b"second".to_vec()));
    assert_eq!(of(client.leader(NAME).await?.kv()), Some(b"second".to_vec()));

    client.resign(Some(ResignOptions::new().with_leader(leader))).await?;
    ensure!(all_keys(&routed.events).await?.is_empty(), "a resigned leader is left");
    Ok(())
}
