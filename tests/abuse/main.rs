//! Clients that break the rules, by accident or on purpose, harm nobody but themselves.

mod calls;
mod connections;
mod crowds;
mod floods;
mod frames;
mod large;
// Each of the test programs that share it uses a part.
#[allow(dead_code)]
#[path = "../failover/operator.rs"]
mod operator;
// Each of the test programs that share it uses a part.
#[allow(dead_code)]
mod raw;
mod soak;

use anyhow::{Context, Result, ensure};
use etcd_client::Client;
use raw::Connection;
use seawall_testkit::{Cluster, SeawallProcess, eventually};
use std::{env, fs, net::SocketAddr, path::PathBuf, time::Duration};
use tokio::time::timeout;

/// Generous, for machines that build something else at the same time.
const DEADLINE: Duration = Duration::from_secs(60);

/// A Seawall that is to be abused, and what it held before.
struct Victim {
    cluster: Cluster,
    seawall: SeawallProcess,
    descriptors_before: usize,
    watchers_before: i64,
}

impl Victim {
    async fn new() -> Result<Self> {
        Self::with("").await
    }

    /// `protection` is the YAML of that key, on one line.
    async fn with(protection: &str) -> Result<Self> {
        Self::configured(&format!("protection: {{{protection}}}")).await
    }

    async fn configured(text: &str) -> Result<Self> {
        Self::start(text, &[]).await
    }

    /// `text` is its configuration but for its etcd, and `args` are what else it is told.
    async fn start(text: &str, args: &[&str]) -> Result<Self> {
        let cluster = Cluster::single().await?;
        let config = cluster.dir().join("seawall.yaml");
        fs::write(&config, text)?;
        let binary = env::var_os("SEAWALL_BIN")
            .map_or_else(|| env!("CARGO_BIN_EXE_seawall").into(), PathBuf::from);
        let seawall = SeawallProcess::builder()
            .binary(binary)
            .args(["--upstream", &cluster.endpoints().join(",")])
            .args(["--config".as_ref(), config.as_os_str()])
            .args(args)
            .start()
            .await?;
        let mut victim = Self { cluster, seawall, descriptors_before: 0, watchers_before: 0 };
        victim.serves().await?;
        victim.descriptors_before = eventually(DEADLINE, "rest", async || {
            victim.at_rest().await?;
            victim.descriptors().await
        })
        .await?;
        victim.watchers_before = watchers(&victim.cluster).await?;
        Ok(victim)
    }

    fn address(&self) -> Result<SocketAddr> {
        self.seawall.address("main")
    }

    async fn connect(&self) -> Result<Connection> {
        Connection::open(self.address()?).await
    }

    /// Somebody else is served.
    async fn serves(&self) -> Result<()> {
        let serving = async {
            let mut client = Client::connect([self.seawall.endpoint()?], None).await?;
            client.put("/others", "served", None).await?;
            let found = client.get("/others", None).await?;
            ensure!(found.kvs().len() == 1, "it is not there: {found:?}");
            anyhow::Ok(())
        };
        timeout(DEADLINE, serving).await.context("others are not served")?
    }

    /// It serves, has not panicked, and holds nothing of those who abused it. Call when they have
    /// gone.
    async fn is_unharmed(&self) -> Result<()> {
        self.serves().await?;
        let log = self.seawall.log();
        let panicked = log.iter().find(|line| line.message().contains("panicked"));
        ensure!(panicked.is_none(), "it has panicked: {panicked:?}");
        eventually(DEADLINE, "nothing to be left of them", async || {
            self.at_rest().await?;
            let descriptors = self.descriptors().await?;
            let before = self.descriptors_before;
            ensure!(descriptors <= before, "{descriptors} descriptors, {before} before");
            let (watchers, before) = (watchers(&self.cluster).await?, self.watchers_before);
            ensure!(watchers <= before, "{watchers} watchers at etcd, {before} before");
            Ok(())
        })
        .await
    }

    /// No client is connected and no call is open, neither here nor on its way to etcd.
    async fn at_rest(&self) -> Result<()> {
        let admin = self.seawall.admin()?;
        for gauge in ["seawall_requests_open", "seawall_listener_connections"] {
            let value = operator::metric(admin, gauge).await?;
            ensure!(value == 0.0, "{gauge} is {value}");
        }
        let open = open_at_etcd(&self.cluster).await?;
        ensure!(open == FEED, "{open} streams are open at etcd");
        Ok(())
    }

    /// Open files but for connections to etcd, which are kept.
    async fn descriptors(&self) -> Result<usize> {
        let upstream = operator::metric(self.seawall.admin()?, "seawall_upstream_connections");
        let upstream = upstream.await? as usize;
        let open = fs::read_dir(format!("/proc/{}/fd", self.seawall.pid()))?.count();
        open.checked_sub(upstream).context("more connections than files")
    }
}

/// Watchers that etcd holds.
async fn watchers(cluster: &Cluster) -> Result<i64> {
    let metrics = cluster.member(0).metrics().await?;
    let value =
        metrics.lines().find_map(|line| line.strip_prefix("etcd_debugging_mvcc_watcher_total "));
    Ok(value.context("etcd counts its watchers")?.parse::<f64>()? as i64)
}

/// Streams that Seawall has open at etcd on its own behalf: the mirror's watch.
const FEED: i64 = 1;

/// Watch and lease streams, which end only when somebody ends them.
async fn open_at_etcd(cluster: &Cluster) -> Result<i64> {
    let metrics = cluster.member(0).metrics().await?;
    let sum = |name: &str| -> i64 {
        let streams = metrics.lines().filter(|line| {
            let bidi = line.contains("\"Watch\"") || line.contains("\"LeaseKeepAlive\"");
            line.starts_with(name) && bidi
        });
        streams.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as i64
    };
    Ok(sum("grpc_server_started_total") - sum("grpc_server_handled_total"))
}
