//! Answers from memory, held against what etcd itself says.

mod faults;
mod kv;
mod reads;
mod returns;
mod streams;
mod twins;
mod watches;

// Each of the test programs that share them uses a part.
#[allow(dead_code)]
#[path = "../conformance/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "../failover/operator.rs"]
mod operator;

use anyhow::{Result, ensure};
use client::DEADLINE;
use kv::{Kv, list};
use seawall::etcd::proto::etcdserverpb::RangeRequest;
use seawall_testkit::{Cluster, SeawallProcess, eventually};
use std::{env, fs, path::PathBuf};

/// One etcd cluster behind one Seawall.
struct Stage {
    // Before its etcd, which it would miss otherwise.
    seawall: SeawallProcess,
    etcd: Cluster,
}

impl Stage {
    /// `mirror` is the YAML below that key.
    async fn start(mirror: &str) -> Result<Self> {
        Self::of(Cluster::single().await?, mirror).await
    }

    async fn of(etcd: Cluster, mirror: &str) -> Result<Self> {
        let seawall = seawall(&etcd, &etcd.endpoints(), mirror).await?;
        Ok(Self { seawall, etcd })
    }

    /// `protection` is the YAML in the braces of that key.
    async fn protected(protection: &str) -> Result<Self> {
        let etcd = Cluster::single().await?;
        let endpoints = etcd.endpoints().join(", ");
        let clusters = format!("clusters: {{main: {{endpoints: [{endpoints}]}}}}\n");
        let rest = format!("mirror: {{mode: enforce}}\nprotection: {{{protection}}}\n");
        let seawall = configured(&etcd, &(clusters + &rest)).await?;
        Ok(Self { seawall, etcd })
    }

    async fn through(&self) -> Result<Kv> {
        Kv::connect(self.seawall.address("main")?).await
    }

    async fn direct(&self) -> Result<Kv> {
        Kv::connect(self.etcd.member(0).address()).await
    }

    /// Of Seawall, summed over its labels.
    async fn metric(&self, name: &str) -> Result<f64> {
        operator::metric(self.seawall.admin()?, name).await
    }

    /// How many reads were answered from memory.
    async fn answers(&self) -> Result<f64> {
        self.metric("seawall_mirror_answers_total").await
    }

    /// Waits until lists below this prefix are answered from memory.
    async fn warm(&self, prefix: &str) -> Result<()> {
        warm(&self.seawall, &list(prefix)).await
    }
}

/// Seawall before these endpoints of a cluster, all of whose reads may be answered from memory.
async fn seawall(etcd: &Cluster, endpoints: &[String], mirror: &str) -> Result<SeawallProcess> {
    seawall_by(etcd, endpoints, "", mirror).await
}

/// The same, where more is to be said of the cluster.
async fn seawall_by(
    etcd: &Cluster,
    endpoints: &[String],
    more: &str,
    mirror: &str,
) -> Result<SeawallProcess> {
    let indented: String = mirror.lines().map(|line| format!("  {line}\n")).collect();
    let endpoints = endpoints.join(", ");
    let clusters = format!("clusters: {{main: {{endpoints: [{endpoints}]{more}}}}}\n");
    configured(etcd, &format!("{clusters}mirror:\n  mode: enforce\n{indented}")).await
}

/// Seawall before a cluster by a configuration file of this text.
async fn configured(etcd: &Cluster, text: &str) -> Result<SeawallProcess> {
    let binary = env::var_os("SEAWALL_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_seawall").into(), PathBuf::from);
    // Several may stand before one cluster.
    let number = fs::read_dir(etcd.dir())?.count();
    let config = etcd.dir().join(format!("seawall-{number}.yaml"));
    fs::write(&config, text)?;
    SeawallProcess::builder()
        .binary(binary)
        .args(["--config".as_ref(), config.as_os_str()])
        .start()
        .await
}

/// Waits until this is answered from memory.
async fn warm(seawall: &SeawallProcess, request: &RangeRequest) -> Result<()> {
    let kv = Kv::connect(seawall.address("main")?).await?;
    let answers = async || operator::metric(seawall.admin()?, "seawall_mirror_answers_total").await;
    eventually(DEADLINE, "an answer from memory", async || {
        let before = answers().await?;
        let answer = kv.range(request).await?;
        ensure!(answers().await? > before, "it came from etcd: {:?}", answer.err());
        Ok(())
    })
    .await
}
