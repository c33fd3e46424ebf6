//! Leases that the default cluster grants and keys of both clusters hold.

use crate::{DEADLINE, Routed, binary, connect, direct, keys, refusal, seawall};
use anyhow::{Context, Result, ensure};
use etcd_client::{Client, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions, Txn, TxnOp};
use seawall_testkit::{Cluster, Fault, FaultProxy, SeawallProcess, eventually};
use tonic::Code;

const POD: &str = "/registry/pods/a";
const EVENT: &str = "/registry/events/a";

/// More than any test takes, so that no lease expires by itself.
const TTL: i64 = 600;

fn leased(id: i64) -> Option<PutOptions> {
    Some(PutOptions::new().with_lease(id))
}

/// The keys that a lease holds, and the time it was granted for; none when it does not exist.
async fn lease(client: &mut Client, id: i64) -> Result<(i64, Vec<Vec<u8>>)> {
    let with_keys = Some(LeaseTimeToLiveOptions::new().with_keys());
    let known = client.lease_time_to_live(id, with_keys).await?;
    Ok((known.granted_ttl(), known.keys().to_vec()))
}

#[tokio::test]
async fn a_lease_exists_where_its_keys_live() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    let (mut main, mut events) = routed.direct().await?;
    let id = client.lease_grant(TTL, None).await?.id();
    assert_eq!(lease(&mut events, id).await?, (0, Vec::new()), "nobody needed it there yet");
    client.put(EVENT, "v", leased(id)).await?;
    client.put(POD, "v", leased(id)).await?;
    let held = |key: &str| vec![key.as_bytes().to_vec()];
    assert_eq!(lease(&mut events, id).await?, (TTL, held(EVENT)));
    assert_eq!(lease(&mut main, id).await?, (TTL, held(POD)));
    let both = [held(EVENT), held(POD)].concat();
    assert_eq!(lease(&mut client, id).await?, (TTL, both));

    client.lease_revoke(id).await?;
    for etcd in [&mut main, &mut events] {
        ensure!(keys(etcd).await?.is_empty(), "keys outlive their lease");
        assert_eq!(lease(etcd, id).await?, (0, Vec::new()));
    }
    Ok(())
}

#[tokio::test]
async fn a_transaction_brings_its_leases_along() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    let (_, mut events) = routed.direct().await?;
    let first = client.lease_grant(TTL, None).await?.id();
    let second = client.lease_grant(TTL, None).await?.id();
    let other = "/registry/events/b";
    let nested = Txn::new().and_then([TxnOp::put(other, "v", leased(second))]);
    let txn = Txn::new().and_then([TxnOp::put(EVENT, "v", leased(first)), TxnOp::txn(nested)]);
    ensure!(client.txn(txn).await?.succeeded(), "the transaction has no condition");
    assert_eq!(lease(&mut events, first).await?, (TTL, vec![EVENT.into()]));
    assert_eq!(lease(&mut events, second).await?, (TTL, vec![other.into()]));
    Ok(())
}

#[tokio::test]
async fn a_lease_that_nobody_granted_is_refused_as_by_etcd() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    let (mut main, _) = routed.direct().await?;
    let expected = refusal(main.put(POD, "v", leased(77)).await)?;
    assert_eq!(expected.code(), Code::NotFound);
    for key in [POD, EVENT] {
        let single = refusal(client.put(key, "v", leased(77)).await)?;
        let txn = Txn::new().and_then([TxnOp::put(key, "v", leased(77))]);
        let txn = refusal(client.txn(txn).await)?;
        for status in [single, txn] {
            assert_eq!((status.code(), status.message()), (expected.code(), expected.message()));
        }
    }
    let expected = refusal(main.lease_revoke(77).await)?;
    let status = refusal(client.lease_revoke(77).await)?;
    assert_eq!((status.code(), status.message()), (expected.code(), expected.message()));
    ensure!(keys(&mut client).await?.is_empty(), "a refused write was carried out");
    Ok(())
}

/// A client that renews a lease once leaves with the answer. It came from the default cluster, and the
/// copy at a slower one was not renewed: the lease lived on, and its keys there went.
#[tokio::test]
async fn a_lease_that_is_renewed_once_is_renewed_where_its_keys_live() -> Result<()> {
    let (main, events) = tokio::try_join!(Cluster::single(), Cluster::single())?;
    let link = FaultProxy::start(events.member(0).address()).await?;
    let route = format!("/registry/events=http://{}", link.address());
    let upstream = main.endpoints().join(",");
    let seawall = SeawallProcess::builder()
        .binary(binary())
        .args(["--upstream", &upstream, "--route", &route])
        .start()
        .await?;
    let mut client = connect(&seawall.endpoint()?).await?;
    let mut there = direct(&events).await?;
    let id = client.lease_grant(TTL, None).await?.id();
    client.put(EVENT, "v", leased(id)).await?;
    let older = eventually(DEADLINE, "the lease to grow older", async || {
        let left = there.lease_time_to_live(id, None).await?.ttl();
        ensure!(left < TTL - 1, "{left} s are left");
        Ok(left)
    })
    .await?;
    // A connection has to be made again, and that takes longer than the default cluster does.
    link.set(Fault::Refuse);
    link.cut();
    let (mut keeper, mut answers) = client.lease_keep_alive(id).await?;
    keeper.keep_alive().await?;
    let renewed = answers.message().await?.context("no answer")?;
    assert_eq!(renewed.ttl(), TTL);
    drop((keeper, answers, client));
    link.heal();
    eventually(DEADLINE, "the copy to be renewed", async || {
        let left = there.lease_time_to_live(id, None).await?.ttl();
        ensure!(left > older, "{left} s are left");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn leases_need_no_memory_of_seawall() -> Result<()> {
    let mut routed = Routed::start().await?;
    let (_, mut events) = routed.direct().await?;
    let id = routed.client().await?.lease_grant(TTL, None).await?.id();
    routed.seawall.kill()?;
    routed.seawall = seawall(&routed.main, &routed.events).await?;
    let mut client = routed.client().await?;
    client.put(EVENT, "v", leased(id)).await?;
    assert_eq!(lease(&mut events, id).await?, (TTL, vec![EVENT.into()]));

    let second = seawall(&routed.main, &routed.events).await?;
    let mut beside = crate::connect(&second.endpoint()?).await?;
    let id = client.lease_grant(TTL, None).await?.id();
    beside.put("/registry/events/b", "v", leased(id)).await?;
    assert_eq!(lease(&mut events, id).await?, (TTL, vec!["/registry/events/b".into()]));
    client.put("/registry/events/c", "v", leased(id)).await?;
    beside.lease_revoke(id).await?;
    assert_eq!(keys(&mut events).await?, [EVENT]);
    Ok(())
}

#[tokio::test]
async fn a_keep_alive_renews_a_lease_on_both_clusters() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    let (mut main, mut events) = routed.direct().await?;
    let id = client.lease_grant(TTL, None).await?.id();
    client.put(EVENT, "v", leased(id)).await?;
    for etcd in [&mut main, &mut events] {
        let mut remaining = async || anyhow::Ok(etcd.lease_time_to_live(id, None).await?.ttl());
        // etcd rounds up or down, so that a second may be missing from the start.
        let worn = eventually(DEADLINE, "some of the lease's time to pass", async || {
            let ttl = remaining().await?;
            ensure!(ttl < TTL - 1, "{ttl} s are left");
            Ok(ttl)
        })
        .await?;
        let (mut keeper, mut answers) = client.lease_keep_alive(id).await?;
        keeper.keep_alive().await?;
        let kept = answers.message().await?.context("no answer to a keep-alive")?;
        assert_eq!((kept.id(), kept.ttl()), (id, TTL));
        eventually(DEADLINE, "the lease to be renewed", async || {
            let ttl = remaining().await?;
            ensure!(ttl > worn, "{ttl} s are left");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_lease_id_that_is_used_again_is_a_new_lease_everywhere() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    let (mut main, mut events) = routed.direct().await?;
    let chosen = || Some(LeaseGrantOptions::new().with_id(4711));
    client.lease_grant(TTL, chosen()).await?;
    client.put(EVENT, "v", leased(4711)).await?;
    // Past Seawall, so that the copy stays.
    main.lease_revoke(4711).await?;
    client.lease_grant(TTL / 2, chosen()).await?;
    ensure!(keys(&mut events).await?.is_empty(), "a key of the former lease is left");
    client.put(EVENT, "v", leased(4711)).await?;
    assert_eq!(lease(&mut events, 4711).await?, (TTL / 2, vec![EVENT.into()]));
    Ok(())
}

/// Where two names led to one etcd, a lease with an id that its client had chosen was revoked as soon
/// as it was granted.
#[tokio::test]
async fn a_lease_is_no_copy_of_itself() -> Result<()> {
    let etcd = Cluster::single().await?;
    let named = etcd.member(0).endpoint().replace("127.0.0.1", "localhost");
    let route = format!("/registry/events={named}");
    let args = ["--upstream", &etcd.member(0).endpoint(), "--route", &route];
    let seawall = SeawallProcess::builder().binary(binary()).args(args).start().await?;
    let mut client = connect(&seawall.endpoint()?).await?;
    let mut id = 4711;
    // Seawall has to have asked both who they are.
    eventually(DEADLINE, "a lease that stays", async || {
        id += 1;
        let options = LeaseGrantOptions::new().with_id(id);
        client.lease_grant(TTL, Some(options)).await?;
        let (granted, _) = lease(&mut client, id).await?;
        ensure!(granted == TTL, "it was revoked");
        Ok(())
    })
    .await?;
    Ok(())
}

/// A lease that a transaction names with each of its puts was asked for and granted as many times.
#[tokio::test]
async fn a_lease_of_many_puts_is_granted_once() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    let id = client.lease_grant(TTL, None).await?.id();
    let puts: Vec<_> =
        (0..100).map(|n| TxnOp::put(format!("{EVENT}{n}"), "v", leased(id))).collect();
    client.txn(Txn::new().and_then(puts)).await?;
    for (cluster, method) in [(&routed.main, "LeaseTimeToLive"), (&routed.events, "LeaseGrant")] {
        let metrics = cluster.member(0).metrics().await?;
        let mut started = metrics.lines().filter(|line| {
            line.starts_with("grpc_server_started_total")
                && line.contains(&format!("grpc_method=\"{method}\""))
        });
        ensure!(started.all(|line| line.ends_with(" 1")), "{method} was called more often");
    }
    Ok(())
}
