//! Watchers that Seawall serves, each beside one at etcd itself that was asked for the same.

use crate::{
    Stage,
    client::Client,
    watches::{PODS, Watching},
};
use anyhow::{Context, Result, ensure};
use prost::Message;
use rand::{Rng, SeedableRng, rngs::StdRng};
use seawall::etcd::{
    method::Method,
    proto::etcdserverpb::{
        DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, WatchCreateRequest,
        request_op::Request,
    },
};
use std::{collections::BTreeMap, time::Duration};
use tokio::{task::JoinSet, time::timeout};

pub(crate) const WATCHERS: usize = 40;

const WRITERS: u64 = 3;

/// Transactions of each writer.
const WRITES: usize = 250;

/// Before progress is asked for again, since etcd drops such requests as it likes.
const PATIENCE: Duration = Duration::from_millis(200);

fn key(random: &mut StdRng) -> String {
    format!("{PODS}default/{:02}", random.random_range(0..30))
}

fn watcher(random: &mut StdRng, start_revision: i64) -> WatchCreateRequest {
    let range_end = match random.random_range(0..3) {
        0 => String::new(),
        1 => format!("{PODS}default0"),
        _ => "/registry/pods0".to_owned(),
    };
    WatchCreateRequest {
        key: key(random).into(),
        range_end: range_end.into(),
        start_revision,
        filters: (0..2).filter(|_| random.random_bool(0.2)).collect(),
        prev_kv: random.random_bool(0.5),
        fragment: random.random_bool(0.3),
        ..WatchCreateRequest::default()
    }
}

/// A transaction of one to three operations on different keys.
fn txn(random: &mut StdRng) -> TxnRequest {
    let keys: std::collections::BTreeSet<_> =
        (0..random.random_range(1..4)).map(|_| key(random)).collect();
    let op = |key: String| {
        let key = key.into();
        let request = match random.random_bool(0.7) {
            true => {
                let value = vec![b'v'; random.random_range(0..200)].into();
                Request::RequestPut(PutRequest { key, value, ..PutRequest::default() })
            }
            false => Request::RequestDeleteRange(DeleteRangeRequest {
                key,
                ..DeleteRangeRequest::default()
            }),
        };
        RequestOp { request: Some(request) }
    };
    TxnRequest { success: keys.into_iter().map(op).collect(), ..TxnRequest::default() }
}

/// The events of each watcher, up to a revision that all are told to have reached.
async fn events(
    mut watching: Watching,
    revision: i64,
) -> Result<BTreeMap<i64, Vec<(i64, Vec<u8>)>>> {
    let mut events: BTreeMap<i64, Vec<(i64, Vec<u8>)>> = BTreeMap::new();
    let mut reached: BTreeMap<i64, i64> = BTreeMap::new();
    loop {
        let all = (0..WATCHERS as i64).all(|id| reached.get(&id).is_some_and(|at| *at >= revision));
        if all {
            return Ok(events);
        }
        let Ok(response) = timeout(PATIENCE, watching.next()).await else {
            watching.ask_progress()?;
            continue;
        };
        let response = response?;
        ensure!(!response.canceled, "{response:?}");
        let id = response.watch_id;
        if response.events.is_empty() {
            let at = response.header.context("no header")?.revision;
            let ids = if id == -1 { 0..WATCHERS as i64 } else { id..id + 1 };
            reached.extend(ids.map(|id| (id, at)));
        }
        for event in &response.events {
            let kv = event.kv.as_ref().context("no kv")?;
            let told = reached.get(&id).copied().unwrap_or(0);
            ensure!(kv.mod_revision > told, "{kv:?} comes after progress to {told}");
            events.entry(id).or_default().push((kv.mod_revision, event.encode_to_vec()));
        }
    }
}

async fn compare(seed: u64, disturb: impl AsyncFn(&Stage) -> Result<()>) -> Result<Stage> {
    compare_at(Stage::start("").await?, seed, disturb).await
}

pub(crate) async fn compare_at(
    stage: Stage,
    seed: u64,
    disturb: impl AsyncFn(&Stage) -> Result<()>,
) -> Result<Stage> {
    let direct = stage.direct().await?;
    direct.put(&format!("{PODS}default/00"), "").await?;
    stage.warm(PODS).await?;
    let mut random = StdRng::seed_from_u64(seed);
    let start = direct.revision().await? + 1;
    let mut ours = Watching::open(&stage).await?;
    let mut theirs = Watching::over(Client::connect(stage.etcd.member(0).address()).await?).await?;
    for _ in 0..WATCHERS {
        let request = watcher(&mut random, start);
        let ids = (ours.create(request.clone()).await?, theirs.create(request).await?);
        ensure!(ids.0 == ids.1, "other ids: {ids:?}");
    }
    ensure!(stage.watchers().await? == WATCHERS as f64, "some are not served from memory");
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let (kv, mut random) = (stage.through().await?, StdRng::seed_from_u64(seed + number));
        writers.spawn(async move {
            for _ in 0..WRITES {
                let written = kv.bytes(Method::Txn, &txn(&mut random)).await?;
                ensure!(written.is_ok(), "{written:?}");
            }
            Ok(())
        });
    }
    disturb(&stage).await?;
    while let Some(written) = writers.join_next().await {
        written??;
    }
    let last = direct.revision().await?;
    let (ours, theirs) = tokio::try_join!(events(ours, last), events(theirs, last))?;
    for (id, theirs) in &theirs {
        let ours = ours.get(id).map_or(&[][..], |events| &events[..]);
        ensure!(ours == &theirs[..], "{id}: {} events, not {}", ours.len(), theirs.len());
    }
    ensure!(ours.len() == theirs.len(), "events that etcd does not have");
    Ok(stage)
}

#[tokio::test]
async fn watchers_see_what_those_of_etcd_see() -> Result<()> {
    let stage = compare(1, async |_| Ok(())).await?;
    ensure!(stage.handovers().await? == 0.0, "some left memory");
    Ok(())
}

/// In the midst of it they go on at etcd.
#[tokio::test]
async fn watchers_that_leave_memory_miss_nothing() -> Result<()> {
    let switch = "/mirror/main?collection=/registry/pods&mode=off";
    let stage = compare(2, async |stage| stage.switch(switch).await).await?;
    ensure!(stage.handovers().await? == WATCHERS as f64, "not all left memory");
    Ok(())
}
