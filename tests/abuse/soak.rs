//! Clients that come and go for a long time leave nothing behind.

use crate::{DEADLINE, Victim};
use anyhow::{Result, ensure};
use etcd_client::{Client, GetOptions, PutOptions, WatchOptions};
use seawall_testkit::eventually;
use std::{env, fs, time::Duration};
use tokio::{task::JoinSet, time::Instant};

/// As many clients are there at a time.
const CLIENTS: usize = 8;

/// What the allocator and full caches may hold more than after the first rounds.
const GROWTH_MAX: u64 = 24 << 20;

/// Rounds after which everything that is kept is there.
const WARM: usize = 3;

/// Seconds that a lease lives without renewals: far longer than a visit on any machine.
const LEASE: i64 = 3600;

/// Writes, reads, watches and leases of a client that comes and goes.
async fn visit(endpoint: String, number: usize) -> Result<()> {
    let mut client = Client::connect([endpoint], None).await?;
    let prefix = format!("/registry/soaked-{}/", number % 4);
    let lease = client.lease_grant(LEASE, None).await?.id();
    let watching = WatchOptions::new().with_prefix();
    let mut watches = Vec::new();
    for _ in 0..10 {
        watches.push(client.watch(prefix.as_str(), Some(watching.clone())).await?);
    }
    for n in 0..30 {
        let key = format!("{prefix}default/{}", n % 10);
        let leased = PutOptions::new().with_lease(lease);
        client.put(key.as_str(), vec![b'x'; 2048], Some(leased)).await?;
        client.get(key.as_str(), None).await?;
        let list = GetOptions::new().with_prefix();
        client.get(prefix.as_str(), Some(list)).await?;
    }
    // As they come: all of them see the first write at the latest when all are there.
    for watch in &mut watches {
        ensure!(watch.message().await?.is_some(), "a watch has ended");
    }
    // Some give up what they hold, the others just go.
    if number.is_multiple_of(2) {
        client.lease_revoke(lease).await?;
    }
    Ok(())
}

async fn round(victim: &Victim, round: usize) -> Result<()> {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(visit(victim.seawall.endpoint()?, round * CLIENTS + number));
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok(())
}

/// What is held while nobody is there.
#[derive(Debug)]
struct Held {
    rss: u64,
    descriptors: usize,
    threads: usize,
}

impl Held {
    async fn by(victim: &Victim) -> Result<Self> {
        let threads = fs::read_dir(format!("/proc/{}/task", victim.seawall.pid()))?.count();
        let descriptors = eventually(DEADLINE, "rest", async || {
            victim.at_rest().await?;
            victim.descriptors().await
        });
        let rss = victim.seawall.usage()?.rss_bytes;
        Ok(Self { rss, descriptors: descriptors.await?, threads })
    }
}

async fn soak(more: impl Fn(usize) -> bool) -> Result<()> {
    // What is remembered of the past is full after the first rounds, or nearly so.
    let victim = Victim::configured("mirror: {history: 1MiB}").await?;
    for number in 0..WARM {
        round(&victim, number).await?;
    }
    let before = Held::by(&victim).await?;
    let mut rounds = WARM;
    while more(rounds - WARM) {
        round(&victim, rounds).await?;
        rounds += 1;
    }
    let after = Held::by(&victim).await?;
    eprintln!("{rounds} rounds: {before:?}, {after:?}");
    let growth = after.rss.saturating_sub(before.rss);
    ensure!(growth < GROWTH_MAX, "{} MiB more are resident", growth >> 20);
    ensure!(after.descriptors <= before.descriptors, "{after:?}, {before:?} before");
    ensure!(after.threads <= before.threads, "{after:?}, {before:?} before");
    victim.is_unharmed().await
}

#[tokio::test]
async fn clients_that_come_and_go_leave_nothing() -> Result<()> {
    soak(|rounds| rounds < 10).await
}

/// As long as the environment says: `make soak`.
#[tokio::test]
#[ignore = "takes DURATION: use `make soak`"]
async fn long() -> Result<()> {
    let seconds = env::var("DURATION").map_or(Ok(1800), |text| text.parse())?;
    let end = Instant::now() + Duration::from_secs(seconds);
    soak(|_| Instant::now() < end).await
}
