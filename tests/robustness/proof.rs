//! The suite finds out a Seawall that is wrong: each of these was built to break one promise.

use crate::{ONE, SHORT, run::Plan};
use anyhow::{Result, ensure};
use seawall::sabotage::Sabotage;

/// Runs until it is found out at the latest.
const RUNS_MAX: u64 = 16;

/// The rules of which one at least has to be broken by it.
fn rules(sabotage: Sabotage) -> &'static [&'static str] {
    match sabotage {
        Sabotage::JoinSent | Sabotage::SkipProbe => &["linearizable"],
        Sabotage::OvertakeEvents => &["Bookmarkable"],
        Sabotage::ForgetLease => &["lease never early"],
        Sabotage::RepeatWrite => &["unknown write at most once", "refused write never happens"],
    }
}

async fn is_found_out(sabotage: Sabotage) -> Result<()> {
    let _alone = ONE.lock().await;
    let mut broken = Default::default();
    for seed in 1..=RUNS_MAX {
        // A write can be sent again only where there is another member.
        let plan = Plan { members: 3, sabotage: Some(sabotage), ..Plan::of(seed, SHORT)? };
        broken = plan.broken_rules().await?;
        eprintln!("{sabotage:?}, run {seed}: {broken:?}");
        if rules(sabotage).iter().any(|rule| broken.contains(rule)) {
            return Ok(());
        }
    }
    ensure!(false, "{sabotage:?} has broken {broken:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn naive_single_flight() -> Result<()> {
    is_found_out(Sabotage::JoinSent).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_without_probe() -> Result<()> {
    is_found_out(Sabotage::SkipProbe).await
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_ahead_of_events() -> Result<()> {
    is_found_out(Sabotage::OvertakeEvents).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_forgotten() -> Result<()> {
    is_found_out(Sabotage::ForgetLease).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_sent_again() -> Result<()> {
    is_found_out(Sabotage::RepeatWrite).await
}
