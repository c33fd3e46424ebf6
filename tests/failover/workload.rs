//! Clients that write, read, watch and hold leases, and remember what they were told.

use crate::{
    DEADLINE,
    history::{END, Event},
};
use anyhow::{Context, Result, ensure};
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn,
    TxnOp, WatchOptions,
};
use seawall_testkit::eventually;
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

const WRITERS: usize = 3;
const INCREMENTERS: usize = 2;
const READERS: usize = 2;

/// Pause between the calls of one client.
const PACE: Duration = Duration::from_millis(10);

/// A client gives a call up after this long.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) const KEPT: &str = "/lease/kept";
const KEPT_TTL: Duration = Duration::from_secs(8);
/// Several attempts fit into the time to live.
const KEEP_ALIVE_PACE: Duration = Duration::from_millis(400);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(1500);

pub(crate) const DROPPED: &str = "/lease/dropped";
/// Longer than the other's, which so would have expired had it not been kept alive.
pub(crate) const DROPPED_TTL: Duration = Duration::from_secs(9);

/// What a client knows of a write after its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Acknowledged at this revision.
    Applied(i64),
    /// A transaction whose comparison failed.
    Refused,
    /// The call failed, which says nothing about the write.
    Unknown,
}

#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) tag: String,
    pub(crate) outcome: Outcome,
}

/// All that the clients remember.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) puts: Vec<Write>,
    pub(crate) increments: Vec<Write>,
    pub(crate) watched_from: i64,
    /// What the watch delivered, and when.
    pub(crate) seen: Vec<(Event, Instant)>,
    pub(crate) stale: Vec<String>,
    /// When the lease that nobody keeps alive was asked for.
    pub(crate) dropped_granted: Instant,
}

/// Calls of one client.
#[derive(Debug)]
struct Tally {
    name: String,
    good: AtomicU64,
    failed: AtomicU64,
}

/// Revisions that were acknowledged: no later read may be older.
#[derive(Debug, Default)]
struct Floor {
    store: AtomicI64,
    counter: AtomicI64,
}

/// Running clients.
#[derive(Debug)]
pub(crate) struct Workload {
    stop: CancellationToken,
    tallies: Vec<Arc<Tally>>,
    writers: Vec<JoinHandle<Vec<Write>>>,
    incrementers: Vec<JoinHandle<Vec<Write>>>,
    readers: Vec<JoinHandle<Vec<String>>>,
    watcher: JoinHandle<Result<Vec<(Event, Instant)>>>,
    keeper: JoinHandle<Result<()>>,
    record: Record,
}

impl Workload {
    /// Starts them all; each has a connection of its own.
    pub(crate) async fn start(endpoint: &str) -> Result<Self> {
        let (stop, floor) = (CancellationToken::new(), Arc::new(Floor::default()));
        let mut tallies = Vec::new();
        let mut tally = |name: String| {
            let tally =
                Arc::new(Tally { name, good: AtomicU64::new(0), failed: AtomicU64::new(0) });
            tallies.push(tally.clone());
            tally
        };
        let mut client = connect(endpoint).await?;
        let start = client.get("/", None).await?;
        let watched_from = start.header().context("a header")?.revision() + 1;
        let kept = lease(&mut client, KEPT, KEPT_TTL).await?;
        let dropped_granted = Instant::now();
        lease(&mut client, DROPPED, DROPPED_TTL).await?;

        let (mut writers, mut incrementers, mut readers) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..WRITERS {
            let worker = Worker::new(endpoint, tally(format!("writer {index}")), &stop, &floor);
            writers.push(tokio::spawn(worker.await?.write(index)));
        }
        for index in 0..INCREMENTERS {
            let worker =
                Worker::new(endpoint, tally(format!("incrementer {index}")), &stop, &floor);
            incrementers.push(tokio::spawn(worker.await?.increment(index)));
        }
        for index in 0..READERS {
            let worker = Worker::new(endpoint, tally(format!("reader {index}")), &stop, &floor);
            readers.push(tokio::spawn(worker.await?.read()));
        }
        let watcher = Worker::new(endpoint, tally("watcher".into()), &stop, &floor).await?;
        let keeper = Worker::new(endpoint, tally("keeper".into()), &stop, &floor).await?;
        Ok(Self {
            watcher: tokio::spawn(watcher.watch(watched_from)),
            keeper: tokio::spawn(keeper.keep_alive(kept)),
            stop,
            tallies,
            writers,
            incrementers,
            readers,
            record: Record {
                puts: Vec::new(),
                increments: Vec::new(),
                watched_from,
                seen: Vec::new(),
                stale: Vec::new(),
                dropped_granted,
            },
        })
    }

    /// Waits until every client has had a number of successes from now on.
    pub(crate) async fn goes_on(&self) -> Result<()> {
        const SUCCESSES: u64 = 3;
        let good = || self.tallies.iter().map(|tally| tally.good.load(SeqCst));
        let before: Vec<u64> = good().collect();
        eventually(DEADLINE, "every client to be served", async || {
            let mut stuck = self.tallies.iter().zip(&before);
            let stuck =
                stuck.find(|(tally, before)| tally.good.load(SeqCst) < **before + SUCCESSES);
            ensure!(stuck.is_none(), "not served: {stuck:?}");
            Ok(())
        })
        .await
    }

    /// Waits until the lease that nobody keeps alive has expired, as `endpoint` sees it.
    pub(crate) async fn lease_expires(&self, endpoint: String) -> Result<()> {
        let mut client = Client::connect([endpoint], None).await?;
        eventually(DEADLINE, "the lease to expire", async || {
            let found = client.get(DROPPED, None).await?;
            ensure!(found.kvs().is_empty(), "its key is still there");
            Ok(())
        })
        .await
    }

    /// Ends the clients except the watch, which ends with the last key of the history.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.stop.cancel();
        (&mut self.keeper).await??;
        self.record.puts = joined(&mut self.writers).await?;
        self.record.increments = joined(&mut self.incrementers).await?;
        self.record.stale = joined(&mut self.readers).await?;
        let (mut good, mut failed) = (0, 0);
        for tally in &self.tallies {
            good += tally.good.load(SeqCst);
            failed += tally.failed.load(SeqCst);
        }
        let share = failed as f64 * 100.0 / (good + failed) as f64;
        eprintln!("{good} calls succeeded, {failed} failed ({share:.2}%)");
        Ok(())
    }

    /// What the clients remember; needs them stopped and the last key written.
    pub(crate) async fn record(self) -> Result<Record> {
        let seen =
            timeout(DEADLINE, self.watcher).await.context("the watch misses the end")???;
        Ok(Record { seen, ..self.record })
    }
}

async fn joined<T>(tasks: &mut [JoinHandle<Vec<T>>]) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await?);
    }
    Ok(all)
}

async fn connect(endpoint: &str) -> Result<Client> {
    // As kube-apiserver does: a member that lost its leader ends the watch.
    let options = ConnectOptions::new().with_require_leader(true);
    Ok(Client::connect([endpoint], Some(options)).await?)
}

/// Grants a lease and attaches a key to it.
async fn lease(client: &mut Client, key: &str, ttl: Duration) -> Result<i64> {
    let id = client.lease_grant(ttl.as_secs().try_into()?, None).await?.id();
    client.put(key, "", Some(PutOptions::new().with_lease(id))).await?;
    Ok(id)
}

/// One client.
struct Worker {
    client: Client,
    tally: Arc<Tally>,
    stop: CancellationToken,
    floor: Arc<Floor>,
}

impl Worker {
    async fn new(
        endpoint: &str,
        tally: Arc<Tally>,
        stop: &CancellationToken,
        floor: &Arc<Floor>,
    ) -> Result<Self> {
        let client = connect(endpoint).await?;
        Ok(Self { client, tally, stop: stop.clone(), floor: floor.clone() })
    }

    /// Puts keys that nobody else puts.
    async fn write(mut self, index: usize) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut ticks = ticks(PACE);
        while self.goes_on(&mut ticks).await {
            let tag = format!("/unique/{index}/{}", writes.len());
            let put = called(&self.tally, self.client.put(tag.as_str(), "", None)).await;
            let revision = put.and_then(|put| Some(put.header()?.revision()));
            let outcome = revision.map_or(Outcome::Unknown, Outcome::Applied);
            self.floor.store.fetch_max(revision.unwrap_or_default(), SeqCst);
            writes.push(Write { tag, outcome });
        }
        writes
    }

    /// Raises a shared counter by compare and swap.
    async fn increment(mut self, index: usize) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut ticks = ticks(PACE);
        while self.goes_on(&mut ticks).await {
            let Some(found) = called(&self.tally, self.client.get("/counter", None)).await else {
                continue;
            };
            let kv = found.kvs().first();
            let count = kv.and_then(|kv| kv.value_str().ok()?.split(' ').next()?.parse().ok());
            let (count, revision) =
                (count.unwrap_or(0_usize), kv.map_or(0, |kv| kv.mod_revision()));
            let tag = format!("{index}/{}", writes.len());
            let value = format!("{} {tag}", count + 1);
            let unchanged = Compare::mod_revision("/counter", CompareOp::Equal, revision);
            let swap = Txn::new().when([unchanged]).and_then([TxnOp::put("/counter", value, None)]);
            let outcome = match called(&self.tally, self.client.txn(swap)).await {
                Some(done) if done.succeeded() => {
                    let revision = done.header().map_or(0, |header| header.revision());
                    self.floor.store.fetch_max(revision, SeqCst);
                    self.floor.counter.fetch_max(revision, SeqCst);
                    Outcome::Applied(revision)
                }
                Some(_) => Outcome::Refused,
                None => Outcome::Unknown,
            };
            writes.push(Write { tag, outcome });
        }
        writes
    }

    /// Reads, and tells of answers older than what was acknowledged before.
    async fn read(mut self) -> Vec<String> {
        let mut stale = Vec::new();
        let mut ticks = ticks(PACE);
        while self.goes_on(&mut ticks).await {
            let (store, counter) = (self.floor.store.load(SeqCst), self.floor.counter.load(SeqCst));
            let Some(found) = called(&self.tally, self.client.get("/counter", None)).await else {
                continue;
            };
            let revision = found.header().map_or(0, |header| header.revision());
            let changed = found.kvs().first().map_or(0, |kv| kv.mod_revision());
            if revision < store || changed < counter {
                stale.push(format!(
                    "at {revision}, of {changed}, after {store} and {counter} were acknowledged"
                ));
            }
        }
        stale
    }

    /// Watches up to the last key, going on after the last revision where a watch breaks off.
    async fn watch(mut self, from: i64) -> Result<Vec<(Event, Instant)>> {
        let (mut next, mut seen) = (from, Vec::new());
        loop {
            let options = WatchOptions::new().with_prefix().with_start_revision(next);
            let Some(mut stream) = called(&self.tally, self.client.watch("/", Some(options))).await
            else {
                continue;
            };
            // An error ends this stream, and the next one goes on.
            while let Ok(Some(response)) = stream.message().await {
                ensure!(response.compact_revision() == 0, "nobody compacts: {response:?}");
                for event in response.events() {
                    let event = Event::of(event)?;
                    self.tally.good.fetch_add(1, SeqCst);
                    next = event.revision + 1;
                    let last = event.key == END;
                    seen.push((event, Instant::now()));
                    if last {
                        return Ok(seen);
                    }
                }
                if response.canceled() {
                    break;
                }
            }
            self.tally.failed.fetch_add(1, SeqCst);
        }
    }

    /// Keeps a lease alive, on a new stream after an error.
    async fn keep_alive(mut self, id: i64) -> Result<()> {
        let mut stream: Option<(LeaseKeeper, LeaseKeepAliveStream)> = None;
        let mut ticks = ticks(KEEP_ALIVE_PACE);
        while self.goes_on(&mut ticks).await {
            let kept = async {
                let (keeper, answers) = match &mut stream {
                    Some(open) => open,
                    None => stream.insert(self.client.lease_keep_alive(id).await?),
                };
                keeper.keep_alive().await?;
                answers.message().await?.context("the stream has ended")
            };
            match timeout(KEEP_ALIVE_TIMEOUT, kept).await {
                Ok(Ok(answer)) => {
                    ensure!(answer.ttl() > 0, "the lease that is kept alive has expired");
                    self.tally.good.fetch_add(1, SeqCst);
                }
                Ok(Err(_)) | Err(_) => {
                    self.tally.failed.fetch_add(1, SeqCst);
                    stream = None;
                }
            }
        }
        Ok(())
    }

    async fn goes_on(&self, ticks: &mut tokio::time::Interval) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            _ = ticks.tick() => true,
        }
    }
}

fn ticks(pace: Duration) -> tokio::time::Interval {
    let mut ticks = interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Counts a call; `None` when it failed.
async fn called<T>(
    tally: &Tally,
    call: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Option<T> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(answer)) => {
            tally.good.fetch_add(1, SeqCst);
            Some(answer)
        }
        Ok(Err(error)) => {
            eprintln!("{}: {error}", tally.name);
            tally.failed.fetch_add(1, SeqCst);
            None
        }
        Err(_) => {
            eprintln!("{}: given up", tally.name);
            tally.failed.fetch_add(1, SeqCst);
            None
        }
    }
}
