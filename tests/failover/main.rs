//! Faults of etcd and of the network under load. What clients were told is held against what etcd
//! remembers.

mod faults;
mod history;
// Each of the test programs that share it uses a part.
#[allow(dead_code)]
mod operator;
mod outages;
mod workload;

use anyhow::Result;
use seawall_testkit::SeawallProcess;
use std::{env, path::PathBuf, time::Duration};

/// Generous, for machines that build something else at the same time.
const DEADLINE: Duration = Duration::from_secs(60);

/// Seawall in front of these URLs, and with these further flags.
async fn seawall(upstream: &[String], flags: &[&str]) -> Result<SeawallProcess> {
    SeawallProcess::builder()
        .binary(binary())
        .args(["--upstream", &upstream.join(",")])
        .args(flags)
        .start()
        .await
}

fn binary() -> PathBuf {
    env::var_os("SEAWALL_BIN").map_or_else(|| env!("CARGO_BIN_EXE_seawall").into(), PathBuf::from)
}
