//! Another Seawall in the place of one that stopped.

use crate::{DEADLINE, builder, history, operator, workload::Workload};
use anyhow::{Context, Result, ensure};
use etcd_client::{Client, PutOptions};
use seawall_testkit::{Cluster, SeawallProcess, eventually};
use std::net::SocketAddr;

/// Starts it at this address.
async fn at(address: SocketAddr, flags: &[&str]) -> Result<SeawallProcess> {
    let listen = address.to_string();
    let builder = builder().listeners_from_config().args(["--listen", &listen]).args(flags);
    builder.start().await
}

/// Stops it and starts it again.
async fn again(seawall: SeawallProcess, flags: &[&str]) -> Result<SeawallProcess> {
    let address = seawall.address("main")?;
    seawall.terminate()?;
    let status = seawall.wait(DEADLINE).await?;
    ensure!(status.code() == Some(0), "it ends with {status}");
    at(address, flags).await
}

#[tokio::test]
async fn clients_go_on_after_a_restart() -> Result<()> {
    let cluster = Cluster::single().await?;
    let upstream = cluster.member(0).endpoint();
    let flags = ["--upstream", upstream.as_str()];
    let mut seawall = at("127.0.0.1:0".parse()?, &flags).await?;
    let mut workload = Workload::start(&seawall.endpoint()?).await?;
    workload.goes_on().await?;
    seawall = again(seawall, &flags).await?;
    workload.goes_on().await?;
    workload.lease_expires(upstream.clone()).await?;
    workload.stop().await?;
    let history = history::of(upstream).await?;
    history::verify(&workload.record().await?, &history)?;
    ensure!(operator::get(seawall.admin()?, "/readyz").await?.0 == 200, "it is not ready");
    Ok(())
}

#[tokio::test]
async fn a_lease_on_two_clusters_is_kept_alive_after_a_restart() -> Result<()> {
    const TTL: i64 = 20;
    let (main, events) = (Cluster::single().await?, Cluster::single().await?);
    let (upstream, second) = (main.member(0).endpoint(), events.member(0).endpoint());
    let route = format!("/registry/events={second}");
    let flags = ["--upstream", &upstream, "--route", &route];
    let seawall = at("127.0.0.1:0".parse()?, &flags).await?;
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    let id = client.lease_grant(TTL, None).await?.id();
    let leased = || Some(PutOptions::new().with_lease(id));
    client.put("/registry/pods/a", "", leased()).await?;
    client.put("/registry/events/a", "", leased()).await?;

    let _seawall = again(seawall, &flags).await?;
    for (name, endpoint) in [("default", upstream), ("second", second)] {
        let mut direct = Client::connect([&endpoint], None).await?;
        let mut remaining =
            async || -> Result<i64> { Ok(direct.lease_time_to_live(id, None).await?.ttl()) };
        let worn = eventually(DEADLINE, "some of the lease's time to pass", async || {
            let ttl = remaining().await?;
            ensure!(ttl <= TTL - 3, "{ttl} s are left");
            Ok(ttl)
        })
        .await?;
        ensure!(worn > 0, "the lease on the {name} cluster has expired");
        let (mut keeper, mut answers) = client.lease_keep_alive(id).await?;
        keeper.keep_alive().await?;
        let kept = answers.message().await?.context("no answer to a keep-alive")?;
        ensure!(kept.ttl() == TTL, "{kept:?}");
        eventually(DEADLINE, "the lease to be renewed", async || {
            let ttl = remaining().await?;
            ensure!(ttl > worn, "{ttl} s are left on the {name} cluster");
            Ok(())
        })
        .await?;
    }
    Ok(())
}
