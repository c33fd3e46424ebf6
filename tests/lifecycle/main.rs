//! Starting, stopping, being told something new, and who may come in.

// Each of the test programs that share it uses a part.
#[allow(dead_code)]
#[path = "../conformance/client.rs"]
mod client;
mod health;
#[path = "../failover/history.rs"]
mod history;
// Each of the test programs that share it uses a part.
#[allow(dead_code)]
#[path = "../failover/operator.rs"]
mod operator;
mod passed;
// Each of the test programs that share it uses a part.
#[allow(dead_code)]
#[path = "../abuse/raw.rs"]
mod raw;
mod reaching;
mod record;
mod reload;
mod restart;
mod stop;
mod tls;
mod upgrade;
#[path = "../failover/workload.rs"]
mod workload;

use anyhow::Result;
use seawall_testkit::{Cluster, SeawallBuilder, SeawallProcess};
use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Generous, for machines that build something else at the same time.
const DEADLINE: Duration = Duration::from_secs(60);

fn builder() -> SeawallBuilder {
    let binary = env::var_os("SEAWALL_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_seawall").into(), PathBuf::from);
    SeawallProcess::builder().binary(binary)
}

/// Writes a configuration beside the data of `cluster`, where `{main}` stands for the URLs of the
/// cluster, and replaces the old one at once.
fn configure(cluster: &Cluster, text: &str) -> Result<PathBuf> {
    let file = cluster.dir().join("seawall.yaml");
    let staged = cluster.dir().join("seawall.yaml.new");
    fs::write(&staged, text.replace("{main}", &cluster.endpoints().join(", ")))?;
    fs::rename(&staged, &file)?;
    Ok(file)
}

/// Seawall with a configuration file; its ports are free ones.
async fn configured(file: &Path) -> Result<SeawallProcess> {
    builder().arg("--config", file).start().await
}

trait Args {
    fn arg(self, name: &str, value: &Path) -> Self;
}

impl Args for SeawallBuilder {
    fn arg(self, name: &str, value: &Path) -> Self {
        self.args([name.as_ref(), value.as_os_str()])
    }
}
