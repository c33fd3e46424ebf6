//! Clients of every kind, each with a seed of its own.

mod compaction;
mod crowd;
mod kubernetes;
mod leases;
mod plain;
mod watchers;

use crate::{
    caller::Caller,
    follow::Followed,
    history::{Answer, Change, Owner, Range, Recorder, Request, Via},
    map::Map,
};
use anyhow::{Context, Result};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Few keys, so that clients meet.
const KEYS: usize = 10;

/// Below each of these, keys are written.
pub(crate) const PREFIXES: [&str; 3] =
    ["/plain/", "/registry/pods/default/", "/registry/events/default/"];

/// Who read the same key at each Seawall.
const CROWD: usize = 6;

const PATHS: [Via; 3] = [Via::Seawall(0), Via::Seawall(1), Via::Direct];

/// The last key below each prefix, written past Seawall when all other clients have stopped.
const LAST: &str = "zz-last";

/// Everything that watchers are to be told was told after this.
const CATCH_UP_MAX: Duration = Duration::from_secs(120);

/// What every client has.
pub(crate) struct Client {
    caller: Caller,
    random: StdRng,
    stop: CancellationToken,
    /// Values written so far: each is told apart from all others of the run.
    values: usize,
}

impl Client {
    /// Pauses between calls; false when it is to stop.
    async fn goes_on(&mut self, pause_max: u64) -> bool {
        let pause = Duration::from_millis(self.random.random_range(1..=pause_max));
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = sleep(pause) => true,
        }
    }

    fn value(&mut self) -> String {
        self.values += 1;
        format!("{}/{}", self.caller.client, self.values)
    }

    fn put(&mut self) -> Change {
        Change::Put { value: self.value(), lease: 0 }
    }

    fn key_below(&mut self, prefix: &str) -> String {
        format!("{prefix}{}", self.random.random_range(0..KEYS))
    }

    /// A read, and the revision in its header.
    async fn read(&mut self, range: Range, revision: i64, limit: i64) -> Option<Answer> {
        let read =
            Request::Range { range, revision, serializable: false, limit, count_only: false };
        self.caller.call(read).await
    }
}

/// All clients of a run.
pub(crate) struct Traffic {
    stop: CancellationToken,
    clients: JoinSet<()>,
    watchers: JoinSet<Result<()>>,
    last: Client,
}

impl Traffic {
    /// Starts clients on every path.
    pub(crate) fn start(
        seed: u64,
        map: &Arc<Map>,
        recorder: &Arc<Recorder>,
        followed: &BTreeMap<Owner, Arc<Followed>>,
    ) -> Self {
        let stop = CancellationToken::new();
        let mut number = 0;
        let mut client = |via| {
            number += 1;
            Client {
                caller: Caller::new(number, via, map, recorder),
                random: StdRng::seed_from_u64(seed.wrapping_mul(1000) + number as u64),
                stop: stop.clone(),
                values: 0,
            }
        };
        let (mut clients, mut watchers) = (JoinSet::new(), JoinSet::new());
        for via in PATHS {
            // Most go through Seawall.
            for _ in 0..if via == Via::Direct { 1 } else { 2 } {
                clients.spawn(plain::run(client(via)));
                clients.spawn(kubernetes::run(client(via)));
            }
            for prefix in PREFIXES {
                watchers.spawn(watchers::run(client(via), prefix));
            }
        }
        for via in [Via::Seawall(0), Via::Seawall(1)] {
            clients.spawn(leases::run(client(via)));
            for _ in 0..CROWD {
                clients.spawn(crowd::run(client(via)));
            }
        }
        clients.spawn(compaction::run(client(Via::Seawall(0)), followed.clone()));
        let last = client(Via::Direct);
        Self { stop, clients, watchers, last }
    }

    /// Stops the clients, and then the watchers, when they have been told everything.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.stop.cancel();
        while let Some(client) = self.clients.join_next().await {
            client?;
        }
        for prefix in PREFIXES {
            let change = self.last.put();
            let write = Request::Write { key: format!("{prefix}{LAST}"), change };
            self.last.caller.call(write).await.context("the last write was not acknowledged")?;
        }
        let all = async {
            while let Some(watcher) = self.watchers.join_next().await {
                watcher??;
            }
            anyhow::Ok(())
        };
        timeout(CATCH_UP_MAX, all).await.context("a watcher was not told everything")?
    }
}
