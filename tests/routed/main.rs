//! Prefixes on a second cluster, as `docs/routing.md` promises: what clients see is held against
//! what each etcd holds.

mod concurrency;
mod etcdctl;
mod kv;
mod leases;
mod maintenance;
mod outage;
mod watches;

use anyhow::{Context, Result};
use etcd_client::{Client, ConnectOptions, Error, GetOptions};
use seawall_testkit::{Cluster, SeawallProcess};
use std::{env, path::PathBuf, time::Duration};
use tonic::Status;

/// Generous, for machines that build something else at the same time.
const DEADLINE: Duration = Duration::from_secs(60);

/// Two clusters behind one Seawall, which sends `/registry/events` to the second.
struct Routed {
    main: Cluster,
    events: Cluster,
    seawall: SeawallProcess,
}

impl Routed {
    async fn start() -> Result<Self> {
        let (main, events) = tokio::try_join!(Cluster::single(), Cluster::single())?;
        Self::of(main, events).await
    }

    async fn of(main: Cluster, events: Cluster) -> Result<Self> {
        let seawall = seawall(&main, &events).await?;
        Ok(Self { main, events, seawall })
    }

    async fn client(&self) -> Result<Client> {
        connect(&self.seawall.endpoint()?).await
    }

    /// Clients of each etcd: the default cluster, and the one of events.
    async fn direct(&self) -> Result<(Client, Client)> {
        Ok((direct(&self.main).await?, direct(&self.events).await?))
    }
}

async fn seawall(main: &Cluster, events: &Cluster) -> Result<SeawallProcess> {
    let route = format!("/registry/events={}", events.endpoints().join(","));
    let upstream = main.endpoints().join(",");
    let builder = SeawallProcess::builder().binary(binary());
    builder.args(["--upstream", &upstream, "--route", &route]).start().await
}

fn binary() -> PathBuf {
    env::var_os("SEAWALL_BIN").map_or_else(|| env!("CARGO_BIN_EXE_seawall").into(), PathBuf::from)
}

async fn direct(cluster: &Cluster) -> Result<Client> {
    connect(&cluster.member(0).endpoint()).await
}

async fn connect(endpoint: &str) -> Result<Client> {
    let options = ConnectOptions::new().with_timeout(DEADLINE);
    Ok(Client::connect([endpoint], Some(options)).await?)
}

/// All keys, in their order.
async fn keys(client: &mut Client) -> Result<Vec<String>> {
    let options = GetOptions::new().with_all_keys().with_keys_only();
    let found = client.get("", Some(options)).await?;
    let keys = found.kvs().iter().map(|kv| Ok(kv.key_str()?.to_owned()));
    keys.collect()
}

/// The status of a call that must not succeed.
fn refusal<T>(answer: Result<T, Error>) -> Result<Status> {
    match answer.err().context("the call succeeds")? {
        Error::GRpcStatus(status) => Ok(status),
        other => Err(other.into()),
    }
}
