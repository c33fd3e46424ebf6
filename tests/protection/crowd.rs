//! Nobody reads less than what was acknowledged, or read by anybody, before.

use crate::{Kv, Stage, list};
use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use seawall::etcd::proto::etcdserverpb::{RangeRequest, RangeResponse};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};

const READERS: usize = 200;
const CONNECTIONS: usize = 16;
const READS: usize = 5;
const WRITERS: usize = 3;

/// What was acknowledged, or answered, of one writer: the number of its last write.
#[derive(Default)]
struct Floor([AtomicI64; WRITERS]);

impl Floor {
    fn now(&self) -> [i64; WRITERS] {
        std::array::from_fn(|writer| self.0[writer].load(SeqCst))
    }

    fn raise(&self, writer: usize, number: i64) {
        self.0[writer].fetch_max(number, SeqCst);
    }
}

fn counter(writer: usize) -> String {
    format!("/registry/pods/a/counter-{writer}")
}

/// Writes its counter and a new key each time, so that it shows in values and in the count.
async fn write(kv: &Kv, writer: usize, floor: &Floor, done: &AtomicBool) -> Result<()> {
    let mut number = 0;
    while !done.load(SeqCst) {
        number += 1;
        let key = format!("/registry/pods/b/{writer}-{number:05}");
        kv.put(&key, "").await?.ok().context("a put is refused")?;
        kv.put(&counter(writer), format!("{number}")).await?.ok().context("a put is refused")?;
        floor.raise(writer, number);
    }
    Ok(())
}

/// The counters in `answer`, by their writers.
fn counters(answer: &RangeResponse) -> impl Iterator<Item = (usize, i64)> + '_ {
    answer.kvs.iter().filter_map(|kv| {
        let key = std::str::from_utf8(&kv.key).ok()?;
        let writer = key.strip_prefix("/registry/pods/a/counter-")?.parse().ok()?;
        let number = std::str::from_utf8(&kv.value).ok()?.parse().ok()?;
        Some((writer, number))
    })
}

async fn read(kv: &Kv, reader: usize, floor: &Floor) -> Result<()> {
    let own = reader % WRITERS;
    let get = RangeRequest { key: counter(own).into(), ..RangeRequest::default() };
    let count = RangeRequest { count_only: true, ..list("/registry/pods/b/") };
    for turn in 0..READS {
        let request = match (reader + turn) % 4 {
            0 => list("/registry/pods/"),
            1 => count.clone(),
            2 => list("/registry/pods/a/"),
            _ => get.clone(),
        };
        let before = floor.now();
        let answer = kv.range(&request).await?.ok().context("a read is refused")?;
        let least: i64 = before.iter().sum();
        ensure!(!request.count_only || answer.count >= least, "{} of {least}", answer.count);
        let mut found = 0;
        for (writer, number) in counters(&answer) {
            ensure!(number >= before[writer], "{request:?} is of {number}, after {before:?}");
            floor.raise(writer, number);
            found += 1;
        }
        let meant = match (request.count_only, request.range_end.is_empty()) {
            (true, _) => 0,
            (_, true) => usize::from(before[own] > 0),
            _ => before.iter().filter(|number| **number > 0).count(),
        };
        ensure!(found >= meant, "{request:?} has {found} counters, after {before:?}");
    }
    Ok(())
}

/// Two Seawalls and etcd itself, each read and written by some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_readers_never_goes_back() -> Result<()> {
    let stage = Stage::start("paging: {page_size: 64KiB}").await?;
    let another = stage.another().await?;
    let direct = stage.direct().await?;
    for number in 0..200 {
        let key = format!("/registry/pods/c/{number:03}");
        direct.put(&key, vec![b'v'; 1_500]).await?.ok().context("a put is refused")?;
    }
    let paths =
        [stage.seawall.address("main")?, another.address("main")?, stage.etcd.member(0).address()];
    let (floor, done) = (Floor::default(), AtomicBool::new(false));
    let writing = (0..WRITERS).map(|writer| {
        let (floor, done) = (&floor, &done);
        async move { write(&Kv::connect(paths[writer]).await?, writer, floor, done).await }
    });
    // Most of them through the Seawalls, some at etcd itself.
    let reading = async {
        let connections = (0..CONNECTIONS).map(|number| match number {
            0 => Kv::connect(paths[2]),
            _ => Kv::connect(paths[number % 2]),
        });
        let connections = try_join_all(connections).await?;
        let readers = (0..READERS).map(|reader| {
            let (kv, floor) = (&connections[reader % CONNECTIONS], &floor);
            async move { read(kv, reader, floor).await }
        });
        let read = try_join_all(readers).await.map(drop);
        done.store(true, SeqCst);
        read
    };
    let (written, read) = tokio::join!(try_join_all(writing), reading);
    read.and_then(|()| written.map(drop))
}
