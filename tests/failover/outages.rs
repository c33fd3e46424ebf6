//! Members that cannot serve, and clusters of which none can.

use crate::{DEADLINE, operator, seawall};
use anyhow::{Context, Result, ensure};
use etcd_client::{Client, ConnectOptions, Error};
use seawall_testkit::{Cluster, SeawallProcess, eventually};
use std::time::Duration;
use tokio::time::timeout;
use tonic::{Code, Status};

/// A client's patience, above that of Seawall.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

async fn client(seawall: &SeawallProcess) -> Result<Client> {
    Ok(Client::connect([seawall.endpoint()?], None).await?)
}

/// The status that a put fails with.
async fn refusal(client: &mut Client, key: &str) -> Result<Status> {
    let put = timeout(CALL_TIMEOUT, client.put(key, "", None)).await.context("no answer")?;
    match put {
        Ok(_) => anyhow::bail!("{key} was put"),
        Err(Error::GRpcStatus(status)) => Ok(status),
        Err(error) => Err(error.into()),
    }
}

#[tokio::test]
async fn a_learner_gets_no_calls() -> Result<()> {
    let mut cluster = Cluster::single().await?;
    cluster.add_learner().await?;
    let seawall = seawall(&cluster.endpoints(), &[]).await?;
    let learner = cluster.member(1);
    eventually(DEADLINE, "Seawall to see the learner", async || {
        let state = operator::member_state(seawall.admin()?, &learner.endpoint()).await?;
        ensure!(state == "learner", "it is {state}");
        Ok(())
    })
    .await?;
    let mut client = client(&seawall).await?;
    // A learner refuses both.
    for n in 0..100 {
        client.put(format!("/learner/{n}"), "", None).await?;
        client.get(format!("/learner/{n}"), None).await?;
        client.watch(format!("/learner/{n}"), None).await?;
    }
    let metrics = learner.metrics().await?;
    for method in ["Put", "Watch"] {
        let mut started = metrics.lines().filter(|line| {
            line.starts_with("grpc_server_started_total")
                && line.contains(&format!("grpc_method=\"{method}\""))
        });
        ensure!(started.all(|line| line.ends_with(" 0")), "the learner got a {method}");
    }
    Ok(())
}

#[tokio::test]
async fn without_any_member_calls_fail_in_time_and_later_succeed() -> Result<()> {
    let cluster = Cluster::builder().members(3).start().await?;
    let seawall = seawall(&cluster.endpoints(), &[]).await?;
    let mut client = client(&seawall).await?;
    client.put("/before", "", None).await?;
    for member in cluster.members() {
        member.kill().await?;
    }
    let name = operator::status(seawall.admin()?).await?["listeners"][0]["default"].clone();
    let name = name.as_str().context("the default cluster has a name")?;
    eventually(DEADLINE, "a refusal that names the cluster", async || {
        let status = refusal(&mut client, "/during").await?;
        ensure!(status.code() == Code::Unavailable, "it is {status}");
        ensure!(status.message().contains(&format!("{name:?}")), "it is {status}");
        Ok(())
    })
    .await?;
    for member in cluster.members() {
        member.launch()?;
    }
    eventually(DEADLINE, "a put after the outage", async || {
        Ok(timeout(CALL_TIMEOUT, client.put("/after", "", None)).await??)
    })
    .await?;
    ensure!(client.get("/before", None).await?.count() == 1, "what was there has gone");
    Ok(())
}

/// Where etcd says at once that it has no leader, a read was made again at members that were gone: five
/// seconds later Seawall said that none could be reached.
#[tokio::test]
async fn what_the_last_member_says_is_what_clients_are_told() -> Result<()> {
    let cluster = Cluster::builder().members(3).start().await?;
    let seawall = seawall(&cluster.endpoints(), &[]).await?;
    let options = ConnectOptions::new().with_require_leader(true);
    let mut client = Client::connect([seawall.endpoint()?], Some(options)).await?;
    client.put("/before", "", None).await?;
    for member in &cluster.members()[1..] {
        member.kill().await?;
    }
    let mut read = async || {
        let get = timeout(CALL_TIMEOUT, client.get("/before", None)).await.context("no answer")?;
        let status = match get {
            Err(Error::GRpcStatus(status)) => status,
            other => anyhow::bail!("{other:?}"),
        };
        ensure!(status.code() == Code::Unavailable, "it is {status}");
        ensure!(status.message() == "etcdserver: no leader", "it is {status}");
        Ok(())
    };
    eventually(DEADLINE, "what etcd says without a leader", &mut read).await?;
    for member in &cluster.members()[1..] {
        eventually(DEADLINE, "Seawall to find out", async || {
            let state = operator::member_state(seawall.admin()?, &member.endpoint()).await?;
            ensure!(state == "down", "it is {state}");
            Ok(())
        })
        .await?;
    }
    read().await
}

#[tokio::test]
async fn a_secondary_cluster_harms_only_its_own_keys() -> Result<()> {
    let (main, events) = (Cluster::single().await?, Cluster::single().await?);
    let route = format!("/registry/events={}", events.member(0).endpoint());
    let seawall = seawall(&main.endpoints(), &["--route", &route]).await?;
    let mut client = client(&seawall).await?;
    client.put("/registry/events/default/a", "", None).await?;
    events.member(0).kill().await?;
    eventually(DEADLINE, "the refusal of an event", async || {
        let status = refusal(&mut client, "/registry/events/default/b").await?;
        ensure!(status.code() == Code::Unavailable, "it is {status}");
        Ok(())
    })
    .await?;
    for n in 0..20 {
        client.put(format!("/registry/pods/default/{n}"), "", None).await?;
    }
    let (code, text) = operator::get(seawall.admin()?, "/readyz").await?;
    ensure!(code == 200, "the default cluster is fine, yet: {text}");
    events.member(0).restart().await?;
    eventually(DEADLINE, "an event after the outage", async || {
        let put = client.put("/registry/events/default/c", "", None);
        Ok(timeout(CALL_TIMEOUT, put).await??)
    })
    .await?;
    Ok(())
}
