//! Watches of a record: opened again at their times, on as many streams, and kept open as long.

use super::{Call, Manner};
use crate::{
    client::{
        Connection, Dial, Failure, RangeScan, Stream,
        etcd::{
            self, RangeRequest, WatchCancelRequest, WatchCreateRequest, WatchRequest, WatchResponse,
        },
    },
    measure::{Apart, Figures, Outcome, Tally},
};
use anyhow::Result;
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};

/// Far above what any watcher takes, so that only what hangs is given up.
const CREATED_MAX: Duration = Duration::from_secs(60);

/// What came of the watches of a record.
pub(crate) struct Watched {
    /// Of their being created.
    pub(crate) figures: Figures,
    pub(crate) events: u64,
}

/// What all streams have counted.
struct Heard {
    created: Tally,
    events: u64,
}

/// When watches begin and end.
struct Times {
    epoch: Instant,
    /// When a replay is over, and all watches with it that were still open when recording ended.
    end: Instant,
    speed: f64,
}

/// Opens watches on a thread of their own, stream by stream, until the time `lasts` is over.
pub(super) async fn replay(
    watches: Vec<Call>,
    dial: &Dial,
    manner: Manner,
    (epoch, lasts): (Instant, Duration),
) -> Result<Watched> {
    let thread = Arc::new(Apart::start("bench-watch")?);
    let heard = Arc::new(Mutex::new(Heard { created: Tally::new(epoch), events: 0 }));
    let times = Arc::new(Times { epoch, end: epoch + lasts, speed: manner.speed });
    let mut streams = BTreeMap::<u64, VecDeque<Call>>::new();
    for watch in watches {
        streams.entry(watch.stream).or_default().push_back(watch);
    }
    let mut running = JoinSet::new();
    for (n, waiting) in streams.into_values().enumerate() {
        let (dial, times) = (dial.clone(), Arc::clone(&times));
        let (heard, thread) = (Arc::clone(&heard), Arc::clone(&thread));
        running.spawn(async move { thread.run(follow(n, waiting, dial, times, heard)).await });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    let heard = heard.lock();
    Ok(Watched { figures: heard.created.figures(), events: heard.events })
}

/// One stream from its first watch to the end of its last.
async fn follow(
    n: usize,
    waiting: VecDeque<Call>,
    dial: Dial,
    times: Arc<Times>,
    heard: Arc<Mutex<Heard>>,
) -> Result<()> {
    let Some(first) = waiting.front() else { return Ok(()) };
    sleep_until(times.at(first.at_us)).await;
    let mut follower =
        Follower { waiting, creating: VecDeque::new(), open: HashMap::new(), times, heard };
    let followed = match dial.open(n).await {
        Ok(connection) => follower.listen(&connection).await,
        Err(_) => Err(Failure::Lost("no connection".to_owned())),
    };
    if let Err(failure) = followed {
        let intended = follower.creating.pop_front().map(|watch| watch.at_us);
        let intended = intended.map_or_else(Instant::now, |at_us| follower.times.at(at_us));
        follower.count(intended, &Err(failure));
    }
    Ok(())
}

/// The watches of one stream.
struct Follower {
    /// Those whose time has not come.
    waiting: VecDeque<Call>,
    /// Those that were asked for, in the order in which they are answered.
    creating: VecDeque<Call>,
    /// When each is to end, by its id.
    open: HashMap<i64, Instant>,
    times: Arc<Times>,
    heard: Arc<Mutex<Heard>>,
}

impl Follower {
    async fn listen(&mut self, connection: &Connection) -> Result<(), Failure> {
        let mut stream = connection.stream(etcd::WATCH).await?;
        while let Some(next) = self.next_step() {
            // Also where events come without an end.
            if Instant::now() < next
                && let Ok(response) = timeout_at(next, stream.next::<WatchResponse>()).await
            {
                self.hear(&response?)?;
                continue;
            }
            let now = Instant::now();
            if self.creating.front().is_some_and(|watch| self.times.patience(watch) <= now) {
                return Err(Failure::Timeout);
            }
            self.end_those_due(&mut stream, now)?;
            while self.waiting.front().is_some_and(|watch| self.times.at(watch.at_us) <= now)
                && let Some(watch) = self.waiting.pop_front()
            {
                let create_request = Some(created(&watch, connection).await?);
                self.creating.push_back(watch);
                stream.send(&WatchRequest { create_request, cancel_request: None })?;
            }
        }
        Ok(())
    }

    /// When there is something to do other than to listen; none if nothing is left.
    fn next_step(&self) -> Option<Instant> {
        let begins = self.waiting.front().map(|watch| self.times.at(watch.at_us));
        let answered = self.creating.front().map(|watch| self.times.patience(watch));
        begins.into_iter().chain(answered).chain(self.open.values().copied()).min()
    }

    fn end_those_due(&mut self, stream: &mut Stream, now: Instant) -> Result<(), Failure> {
        for (watch_id, _) in self.open.extract_if(|_, ends| *ends <= now) {
            let cancel_request = Some(WatchCancelRequest { watch_id });
            stream.send(&WatchRequest { create_request: None, cancel_request })?;
        }
        Ok(())
    }

    fn hear(&mut self, response: &WatchResponse) -> Result<(), Failure> {
        if response.created {
            let watch = self.creating.pop_front();
            let watch = watch.ok_or(Failure::Wrong("a watcher that nobody asked for"))?;
            let result = if response.canceled { Err(refused()) } else { Ok(0) };
            self.count(self.times.at(watch.at_us), &result);
            if result.is_ok() {
                self.open.insert(response.watch_id, self.times.end_of(&watch));
            }
        } else if response.canceled && self.open.remove(&response.watch_id).is_some() {
            // Else we asked for that.
            let lost = match response.compact_revision {
                0 => refused(),
                _ => Failure::Lost("what a watcher was to hear was compacted".to_owned()),
            };
            self.count(Instant::now(), &Err(lost));
        }
        self.heard.lock().events += response.events.len() as u64;
        Ok(())
    }

    fn count(&self, intended: Instant, result: &Result<u64, Failure>) {
        let took = intended.elapsed();
        let outcome = Outcome { intended, took, result, is_timed: false };
        self.heard.lock().created.record(&outcome);
    }
}

fn refused() -> Failure {
    Failure::Lost("a watcher was cancelled".to_owned())
}

/// The request, with as much of the past as it had then.
async fn created(watch: &Call, connection: &Connection) -> Result<WatchCreateRequest, Failure> {
    let key = Bytes::copy_from_slice(watch.key.as_bytes());
    let start_revision = match watch.past_revisions {
        0 => 0,
        past => {
            let now = RangeRequest { count_only: true, ..RangeRequest::of_key(watch.key.clone()) };
            let now = connection.call::<RangeScan>(etcd::RANGE, &now).await?.revision;
            (now + 1 - past).max(1)
        }
    };
    let range_end = Bytes::copy_from_slice(watch.range_end.as_bytes());
    Ok(WatchCreateRequest { key, range_end, start_revision, prev_kv: false })
}

impl Times {
    fn at(&self, at_us: u64) -> Instant {
        self.epoch + Duration::from_micros(at_us).div_f64(self.speed)
    }

    /// How long to wait for a watch to be created.
    fn patience(&self, watch: &Call) -> Instant {
        self.at(watch.at_us) + CREATED_MAX
    }

    fn end_of(&self, watch: &Call) -> Instant {
        match watch.took_us {
            0 => self.end,
            took => self.at(watch.at_us + took),
        }
    }
}
