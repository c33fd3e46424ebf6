//! Random clients, random faults, and whether clients were told the truth.
//!
//! Clients of every kind go through two Seawalls and directly to two etcd clusters, while faults
//! come in an order that a seed decides. What they were told is held against what each etcd says
//! has happened: see `check` for the rules, and `docs/robustness.md` for how to run it.

mod caller;
mod check;
mod failpoints;
mod follow;
mod history;
mod map;
#[cfg(feature = "sabotage")]
mod proof;
mod report;
mod run;
mod stage;
mod traffic;
mod truth;
mod watching;

// Each of the test programs that share them uses a part.
#[allow(dead_code)]
#[path = "../conformance/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "../failover/operator.rs"]
mod operator;

use anyhow::Result;
use run::Plan;
use std::{env, time::Duration};
use tokio::sync::Mutex;

/// Runs follow each other: their clients and servers are enough for a machine.
static ONE: Mutex<()> = Mutex::const_new(());

/// What a short run takes, most of it faults.
const SHORT: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn clusters_of_one_member() -> Result<()> {
    let _alone = ONE.lock().await;
    Plan { members: 1, ..Plan::of(1, SHORT)? }.run().await
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_of_three_members() -> Result<()> {
    let _alone = ONE.lock().await;
    Plan { members: 3, ..Plan::of(2, SHORT)? }.run().await
}

/// As long as the environment says: `make robustness`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes DURATION: use `make robustness`"]
async fn long() -> Result<()> {
    let number =
        |name: &str, default| env::var(name).map_or(Ok(default), |text| text.parse::<u64>());
    let (mut seed, duration) = (number("SEED", 1)?, Duration::from_secs(number("DURATION", 300)?));
    let end = tokio::time::Instant::now() + duration;
    // One history after the other, each small enough to be checked in seconds.
    while tokio::time::Instant::now() < end {
        let members = number("MEMBERS", if seed.is_multiple_of(2) { 3 } else { 1 })?;
        let round = duration.min(Duration::from_secs(60));
        Plan { members: members.try_into()?, ..Plan::of(seed, round)? }.run().await?;
        seed += 1;
    }
    Ok(())
}
