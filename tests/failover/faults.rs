//! One fault each, under load.

use crate::{DEADLINE, history, operator, seawall, workload::Workload};
use anyhow::{Context, Result, ensure};
use seawall_testkit::{
    Cluster, ClusterBuilder, Fault, FaultProxy, SeawallProcess, eventually, has_own_disks, skipped,
};

/// Three members behind Seawall, each reached through a proxy that may fail.
struct Stage {
    cluster: Cluster,
    proxies: Vec<FaultProxy>,
    seawall: SeawallProcess,
}

impl Stage {
    async fn new(cluster: ClusterBuilder) -> Result<Self> {
        let cluster = cluster.members(3).start().await?;
        let mut proxies = Vec::new();
        for member in cluster.members() {
            proxies.push(FaultProxy::start(member.address()).await?);
        }
        let urls: Vec<_> =
            proxies.iter().map(|proxy| format!("http://{}", proxy.address())).collect();
        let seawall = seawall(&urls, &[]).await?;
        Ok(Self { cluster, proxies, seawall })
    }

    /// Some member that does not lead.
    async fn follower(&self) -> Result<usize> {
        let leader = self.cluster.leader().await?.index();
        Ok((leader + 1) % self.cluster.members().len())
    }

    /// Waits until Seawall has found this member to be in a state.
    async fn member_is(&self, index: usize, state: &str) -> Result<()> {
        let url = format!("http://{}", self.proxies[index].address());
        eventually(DEADLINE, "Seawall to see how the member is", async || {
            let found = operator::member_state(self.seawall.admin()?, &url).await?;
            ensure!(found == state, "it is {found}, not {state}");
            Ok(())
        })
        .await
    }

    /// The URL of some member that runs and has a quorum.
    async fn survivor(&self) -> Result<String> {
        self.cluster.serving().await?;
        let running = self.cluster.members().iter().find(|member| member.pid().is_some());
        Ok(running.context("no member runs")?.endpoint())
    }
}

/// Clients work before, during and after `fault`, and were told the truth.
async fn under_load(fault: impl AsyncFnOnce(&Stage, &Workload) -> Result<()>) -> Result<()> {
    of_under_load(Cluster::builder(), fault).await
}

async fn of_under_load(
    cluster: ClusterBuilder,
    fault: impl AsyncFnOnce(&Stage, &Workload) -> Result<()>,
) -> Result<()> {
    let stage = Stage::new(cluster).await?;
    let mut workload = Workload::start(&stage.seawall.endpoint()?).await?;
    workload.goes_on().await?;
    fault(&stage, &workload).await?;
    workload.goes_on().await?;
    let survivor = stage.survivor().await?;
    workload.lease_expires(survivor.clone()).await?;
    workload.stop().await?;
    let history = history::of(survivor).await?;
    history::verify(&workload.record().await?, &history)?;
    let panicked = stage.seawall.log().iter().any(|line| line.message().contains("panicked"));
    ensure!(!panicked, "Seawall has panicked");
    Ok(())
}

#[tokio::test]
async fn kill_of_the_leader() -> Result<()> {
    under_load(async |stage, workload| {
        let leader = stage.cluster.leader().await?;
        leader.kill().await?;
        workload.goes_on().await?;
        stage.member_is(leader.index(), "down").await?;
        // A dashboard showed two leaders until the dead one came back.
        eventually(DEADLINE, "one leader in the metrics", async || {
            let leaders =
                operator::metric(stage.seawall.admin()?, "seawall_upstream_leader").await?;
            ensure!(leaders == 1.0, "there are {leaders}");
            Ok(())
        })
        .await
    })
    .await
}

/// Room for the two logs that etcd lays out beforehand, and a little data.
const DISK_BYTES: u64 = 256 << 20;

#[tokio::test]
async fn full_disk_of_the_leader() -> Result<()> {
    if !has_own_disks() {
        return skipped("no disk was filled: there is no `unshare -rm` here");
    }
    let cluster = Cluster::builder().disk_bytes(DISK_BYTES);
    of_under_load(cluster, async |stage, workload| {
        let leader = stage.cluster.leader().await?;
        leader.fill_disk()?;
        eventually(DEADLINE, "etcd to end for want of room", async || {
            ensure!(leader.pid().is_none(), "it runs on");
            Ok(())
        })
        .await?;
        ensure!(leader.log()?.contains("no space left on device"), "it ended for another reason");
        workload.goes_on().await?;
        stage.member_is(leader.index(), "down").await
    })
    .await
}

#[tokio::test]
async fn kill_of_a_follower_and_its_restart() -> Result<()> {
    under_load(async |stage, workload| {
        let index = stage.follower().await?;
        let member = stage.cluster.member(index);
        member.kill().await?;
        workload.goes_on().await?;
        member.restart().await?;
        stage.member_is(index, "healthy").await
    })
    .await
}

#[tokio::test]
async fn pause_of_the_leader() -> Result<()> {
    under_load(async |stage, workload| {
        let leader = stage.cluster.leader().await?;
        leader.pause()?;
        workload.goes_on().await?;
        leader.resume()?;
        stage.member_is(leader.index(), "healthy").await
    })
    .await
}

#[tokio::test]
async fn pause_of_a_follower_takes_it_out() -> Result<()> {
    under_load(async |stage, workload| {
        let index = stage.follower().await?;
        stage.cluster.member(index).pause()?;
        stage.member_is(index, "down").await?;
        workload.goes_on().await?;
        stage.cluster.member(index).resume()?;
        stage.member_is(index, "healthy").await
    })
    .await
}

#[tokio::test]
async fn move_of_the_leader() -> Result<()> {
    under_load(async |stage, _| stage.cluster.move_leader(stage.follower().await?).await).await
}

#[tokio::test]
async fn partition_of_the_leader_from_its_peers() -> Result<()> {
    of_under_load(Cluster::builder().peer_proxies(), async |stage, workload| {
        let index = stage.cluster.leader().await?.index();
        stage.cluster.isolate(index)?;
        stage.member_is(index, "no_quorum").await?;
        workload.goes_on().await?;
        stage.cluster.heal();
        stage.member_is(index, "healthy").await
    })
    .await
}

#[tokio::test]
async fn blackhole_before_a_client_url() -> Result<()> {
    under_load(async |stage, workload| {
        let index = stage.cluster.leader().await?.index();
        stage.proxies[index].set(Fault::Blackhole);
        workload.goes_on().await?;
        stage.proxies[index].heal();
        stage.member_is(index, "healthy").await
    })
    .await
}

#[tokio::test]
async fn cut_of_all_connections() -> Result<()> {
    under_load(async |stage, _| {
        stage.proxies.iter().for_each(FaultProxy::cut);
        Ok(())
    })
    .await
}
