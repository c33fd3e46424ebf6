//! Asks again what Seawall has recorded.

mod watches;

pub(crate) use watches::Watched;

use crate::{
    client::{
        Channel, Connection, Dial, Failure, RangeScan,
        etcd::{
            self, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse,
            PutRequest, PutResponse, RangeRequest,
        },
    },
    measure::{Apart, Figures, Loop, Operation, Precision, Schedule, run_at},
};
use anyhow::{Context, Result};
use bytes::Bytes;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

/// A line of a record, as far as it is asked again.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Call {
    at_us: u64,
    #[serde(default)]
    method: String,
    shape: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    range_end: String,
    #[serde(default)]
    value_bytes: usize,
    #[serde(default)]
    limit: i64,
    /// The number of a watch, from 1 on, and that of the first one on its stream.
    #[serde(default)]
    watch: u64,
    #[serde(default)]
    stream: u64,
    /// How many revisions of the past a watch begins with.
    #[serde(default)]
    past_revisions: i64,
    /// That this is the end of a watch.
    #[serde(default)]
    ended: bool,
    /// Of a watch how long it lasted, 0 as long as it has not ended.
    took_us: u64,
}

impl Call {
    /// A lease can be granted again, but neither renewed nor revoked.
    fn kind(&self) -> Option<Kind> {
        Kind::of(&self.shape).filter(|kind| *kind != Kind::Lease || self.method == "LeaseGrant")
    }

    fn key(&self) -> Bytes {
        Bytes::copy_from_slice(self.key.as_bytes())
    }

    fn range(&self, kind: Kind) -> RangeRequest {
        RangeRequest {
            key: self.key(),
            range_end: Bytes::copy_from_slice(self.range_end.as_bytes()),
            count_only: kind == Kind::Count,
            keys_only: kind == Kind::Keys,
            limit: match kind {
                Kind::Page(limit) if self.limit == 0 => limit,
                _ => self.limit,
            },
            ..RangeRequest::default()
        }
    }
}

/// What calls of one shape took when they were recorded, and when they were asked again.
pub(crate) struct Replayed {
    pub(crate) shape: String,
    pub(crate) recorded_ms: [f64; 2],
    pub(crate) figures: Figures,
}

/// What came of a record.
pub(crate) struct Outcome {
    pub(crate) shapes: Vec<Replayed>,
    /// None where no watch was recorded.
    pub(crate) watched: Option<Watched>,
    /// How many of each shape were not asked again.
    pub(crate) left_out: BTreeMap<String, usize>,
}

/// How a record is asked again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// 2 is twice as fast as it was recorded.
    pub(crate) speed: f64,
    /// Whether keys are written, which belong to somebody where the record is of a real cluster.
    pub(crate) writes: bool,
}

/// More of one shape at once wait in the client.
const IN_FLIGHT: usize = 256;
const CONNECTIONS: usize = 8;

/// What a page is asked with where the record is of a Seawall that put down no limits.
const PAGE_LIMIT: i64 = 500;
const BULK_LIMIT: i64 = 10_000;

pub(crate) fn read(text: &str) -> Result<Vec<Call>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parsed = lines.map(|(index, line)| {
        serde_json::from_str(line).with_context(|| format!("line {} is no call", index + 1))
    });
    let mut calls = parsed.collect::<Result<Vec<Call>>>()?;
    calls.sort_by_key(|call| call.at_us);
    let ends = calls.iter().filter(|call| call.ended).map(|end| (end.watch, end.took_us));
    let mut lasted: HashMap<_, _> = ends.collect();
    for watch in calls.iter_mut().filter(|call| call.watch > 0 && !call.ended) {
        watch.took_us = lasted.remove(&watch.watch).unwrap_or_default();
    }
    // Nobody waits for the first.
    let begin = calls.first().map_or(0, |first| first.at_us);
    calls.iter_mut().for_each(|call| call.at_us -= begin);
    Ok(calls)
}

/// Asks for everything at its time, each shape and each stream of watches by itself.
pub(crate) async fn replay(calls: Vec<Call>, dial: &Dial, manner: Manner) -> Result<Outcome> {
    let lasts = calls.last().map_or(0, |last| last.at_us);
    let lasts = Duration::from_micros(lasts).div_f64(manner.speed);
    let (mut by_shape, mut left_out) = (BTreeMap::<String, Vec<Call>>::new(), BTreeMap::new());
    let mut watches = Vec::new();
    for call in calls.into_iter().filter(|call| !call.ended) {
        if call.watch > 0 {
            watches.push(call);
        } else if call.kind().is_some_and(|kind| manner.writes || !kind.writes()) {
            by_shape.entry(call.shape.clone()).or_default().push(call);
        } else {
            *left_out.entry(call.shape).or_default() += 1;
        }
    }
    let epoch = Instant::now();
    let has_watches = !watches.is_empty();
    let (shapes, watched) = tokio::try_join!(
        ask_shapes(by_shape, dial, manner, epoch),
        watches::replay(watches, dial, manner, (epoch, lasts)),
    )?;
    Ok(Outcome { shapes, watched: has_watches.then_some(watched), left_out })
}

async fn ask_shapes(
    by_shape: BTreeMap<String, Vec<Call>>,
    dial: &Dial,
    manner: Manner,
    epoch: Instant,
) -> Result<Vec<Replayed>> {
    // Small answers wait for no large ones.
    let threads = [Arc::new(Apart::start("bench-light")?), Arc::new(Apart::start("bench-heavy")?)];
    let mut running = JoinSet::new();
    for (shape, calls) in by_shape {
        let heavy = Kind::of(&shape) == Some(Kind::Range);
        let (thread, dial) = (Arc::clone(&threads[usize::from(heavy)]), dial.clone());
        running
            .spawn(async move { thread.run(ask_shape(shape, calls, dial, manner, epoch)).await });
    }
    let mut replayed = Vec::new();
    while let Some(done) = running.join_next().await {
        replayed.push(done??);
    }
    replayed.sort_by(|one: &Replayed, other| one.shape.cmp(&other.shape));
    Ok(replayed)
}

async fn ask_shape(
    shape: String,
    calls: Vec<Call>,
    dial: Dial,
    manner: Manner,
    epoch: Instant,
) -> Result<Replayed> {
    let kind = Kind::of(&shape).context("a shape that is not asked again")?;
    let recorded_ms = recorded(&calls);
    let at = |call: &Call| Duration::from_micros(call.at_us).div_f64(manner.speed);
    let times: Vec<_> = calls.iter().map(at).collect();
    let (calls, next) = (Arc::new(calls), Arc::new(AtomicUsize::new(0)));
    let mut loops: Vec<Loop<Again>> = Vec::new();
    for n in 0..IN_FLIGHT.min(calls.len()) {
        let channel = match loops.get(n % CONNECTIONS) {
            Some(shared) if n >= CONNECTIONS => shared.channel.clone(),
            _ => Channel::open(&dial, n).await?,
        };
        let (calls, next) = (Arc::clone(&calls), Arc::clone(&next));
        loops.push(Loop { channel, operation: Again { kind, calls, next } });
    }
    let lasts = times.last().copied().unwrap_or_default();
    let schedule = Schedule { lasts, times_failures: true, precision: Precision::Milliseconds };
    let (_, tally) = run_at(loops, times.into_iter(), schedule, epoch).await?;
    Ok(Replayed { shape, recorded_ms, figures: tally.figures() })
}

/// The median and the slowest hundredth, in milliseconds.
fn recorded(calls: &[Call]) -> [f64; 2] {
    let mut took: Vec<_> = calls.iter().map(|call| call.took_us).collect();
    took.sort_unstable();
    [0.5, 0.99].map(|quantile| {
        let index = ((took.len() as f64 * quantile).ceil() as usize).saturating_sub(1);
        took.get(index).map_or(0.0, |micros| *micros as f64 / 1000.0)
    })
}

/// How calls of a shape are asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One key.
    Get,
    Count,
    Keys,
    Page(i64),
    /// A list that comes as it comes.
    Range,
    /// Any write that puts a key, without its compare: the revisions were others.
    Put,
    Delete,
    Lease,
}

impl Kind {
    /// None for what cannot be asked again or must not: compaction, maintenance, streams.
    fn of(shape: &str) -> Option<Self> {
        Some(match shape {
            "get" | "current_revision" | "health" => Self::Get,
            "count" => Self::Count,
            "keys" => Self::Keys,
            "page" => Self::Page(PAGE_LIMIT),
            "bulk_page" | "check_page" => Self::Page(BULK_LIMIT),
            "list" | "sorted_list" => Self::Range,
            "put" | "create" | "update" => Self::Put,
            "delete" => Self::Delete,
            "lease" => Self::Lease,
            _ => return None,
        })
    }

    fn writes(self) -> bool {
        matches!(self, Self::Put | Self::Delete)
    }
}

/// Asks for one call after the other of a shape, together with others.
struct Again {
    kind: Kind,
    calls: Arc<Vec<Call>>,
    next: Arc<AtomicUsize>,
}

impl Operation for Again {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let call = self.calls.get(index).ok_or(Failure::Wrong("more calls than were recorded"))?;
        let request = match self.kind {
            Kind::Put => return put(connection, call).await,
            Kind::Delete => return delete(connection, call).await,
            Kind::Lease => return grant(connection).await,
            range => call.range(range),
        };
        Ok(connection.call::<RangeScan>(etcd::RANGE, &request).await?.message_bytes)
    }
}

async fn put(connection: &Connection, call: &Call) -> Result<u64, Failure> {
    let value = vec![b'v'; call.value_bytes].into();
    let request = PutRequest { key: call.key(), value, lease: 0 };
    connection.unary::<PutResponse>(etcd::PUT, &request).await?;
    Ok(call.value_bytes as u64)
}

async fn delete(connection: &Connection, call: &Call) -> Result<u64, Failure> {
    let request = DeleteRangeRequest { key: call.key() };
    connection.unary::<DeleteRangeResponse>(etcd::DELETE_RANGE, &request).await?;
    Ok(0)
}

async fn grant(connection: &Connection) -> Result<u64, Failure> {
    let request = LeaseGrantRequest { ttl: 60 };
    connection.unary::<LeaseGrantResponse>(etcd::LEASE_GRANT, &request).await?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;
    use seawall_testkit::{Cluster, eventually};

    const RECORD: &str = r#"{"at_us":2000000,"shape":"list","key":"/registry/pods/","range_end":"/registry/pods0","took_us":90000,"client":"a"}
{"at_us":1000000,"shape":"update","key":"/registry/pods/a","value_bytes":400,"took_us":2000,"keys":1}
{"at_us":0,"shape":"update","key":"/registry/pods/b","value_bytes":400,"took_us":4000}"#;

    #[test]
    fn a_record_is_read_in_the_order_of_arrival() -> Result<()> {
        let calls = read(RECORD)?;
        assert_eq!(
            calls.iter().map(|call| call.at_us).collect::<Vec<_>>(),
            [0, 1_000_000, 2_000_000]
        );
        assert_eq!(recorded(&calls[..2]), [2.0, 4.0]);
        let wrong = read("{}").expect_err("it says nothing");
        assert_eq!(wrong.to_string(), "line 1 is no call");
        Ok(())
    }

    /// Two watches on one stream, of which only the first has ended, and a page.
    const WATCHES: &str = r#"{"at_us":0,"shape":"watch","key":"/a/","range_end":"/a0","watch":4,"stream":4,"past_revisions":1,"took_us":0}
{"at_us":100000,"shape":"watch","key":"/a/","range_end":"/a0","watch":5,"stream":4,"took_us":0}
{"at_us":250000,"method":"Watch","shape":"watch","watch":4,"stream":4,"ended":true,"took_us":250000}
{"at_us":300000,"shape":"page","key":"/a/","range_end":"/a0","limit":2,"took_us":50}"#;

    #[test]
    fn a_watch_lasts_as_long_as_its_end_says_and_a_page_has_its_limit() -> Result<()> {
        let calls = read(WATCHES)?;
        assert_eq!(calls.iter().map(|call| call.took_us).collect::<Vec<_>>()[..2], [250_000, 0]);
        let page = calls.last().context("it is there")?;
        assert_eq!(page.range(Kind::Page(PAGE_LIMIT)).limit, 2);
        let without = Call { limit: 0, ..page.clone() };
        assert_eq!(without.range(Kind::Page(PAGE_LIMIT)).limit, PAGE_LIMIT);
        assert_eq!(without.range(Kind::Count).limit, 0);
        Ok(())
    }

    #[tokio::test]
    async fn watches_are_opened_again_from_as_far_back() -> Result<()> {
        let cluster = Cluster::single().await?;
        let dial = Dial::plain([cluster.member(0).address()]);
        let value = Bytes::from_static(b"1");
        let put = PutRequest { key: "/a/1".into(), value, lease: 0 };
        dial.open(0).await?.unary::<PutResponse>(etcd::PUT, &put).await?;
        let manner = Manner { speed: 2.0, writes: false };
        // On a machine that is busy a watch may be over before its event has come.
        eventually(Duration::from_secs(60), "the event of the past to come", async || {
            let outcome = replay(read(WATCHES)?, &dial, manner).await?;
            assert!(outcome.left_out.is_empty() && outcome.shapes.len() == 1);
            let Watched { figures, events } = outcome.watched.context("there are watches")?;
            assert_eq!((figures.operations, figures.error_count()), (2, 0), "{figures:?}");
            ensure!(events == 1, "{events} have come");
            Ok(())
        })
        .await
    }

    #[test]
    fn nothing_is_written_unless_it_is_asked_for() {
        assert!(Kind::of("update").is_some_and(Kind::writes));
        assert!(Kind::of("lease").is_some_and(|kind| !kind.writes()));
        for never in ["compact", "snapshot", "admin", "delete_range", "watch"] {
            assert_eq!(Kind::of(never), None);
        }
    }
}
