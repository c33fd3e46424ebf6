//! Watchers and their fragments.

use crate::{
    CHUNK, LIMITS, Stage, everything_watched, feed_until, header, key, random_range, unary,
    unframed, watch,
};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use prost::Message;
use rand::Rng;
use seawall::{
    etcd::{
        key_range::KeyRange,
        method::Method,
        proto::etcdserverpb::{
            PutRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchResponse,
            request_op::Request,
        },
        wire,
    },
    mirror::{Batch, Object, Tier, Watcher, Writer},
};

/// The bytes of the events in a response.
fn events(message: &Bytes) -> Result<Vec<Bytes>> {
    const EVENTS: u32 = 11;
    let mut found = Vec::new();
    for field in wire::fields(message) {
        let field = field?;
        if field.number == EVENTS {
            found.push(message.slice_ref(field.raw));
        }
    }
    Ok(found)
}

/// All that the mirror has for such a watcher, in responses with etcd's header.
fn polled(stage: &Stage, request: &WatchCreateRequest) -> Result<Vec<Batch>> {
    let (newest, mut batches) = (stage.revision(), Vec::new());
    let mut watcher = Watcher::new(request, newest);
    while watcher.is_behind(newest) {
        batches.extend(stage.store.history(|history| watcher.poll(history, newest, CHUNK))?);
    }
    Ok(batches)
}

fn responses(batch: Batch, header: &[u8]) -> Result<Vec<Bytes>> {
    let messages = batch.messages(header, 0).into_iter().map(|mut message| {
        let length = message.length();
        unframed(std::iter::from_fn(|| message.next_chunk(CHUNK)), length)
    });
    messages.collect()
}

#[tokio::test]
async fn watchers_are_told_the_bytes_that_etcd_sends() -> Result<()> {
    let mut stage = Stage::start(3).await?;
    let (loaded, newest) = (stage.loaded, stage.revision());
    for _ in 0..60 {
        let range = random_range(&mut stage.random, loaded, newest);
        if KeyRange::of(range.key.clone(), range.range_end.clone()).is_empty() {
            continue;
        }
        let filters = (0..2).filter(|_| stage.random.random_bool(0.3)).collect();
        let request = WatchCreateRequest {
            key: range.key,
            range_end: range.range_end,
            start_revision: stage.random.random_range(loaded + 1..=newest),
            filters,
            prev_kv: stage.random.random_bool(0.5),
            ..WatchCreateRequest::default()
        };
        let mut ours = Vec::new();
        for batch in polled(&stage, &request)? {
            for response in responses(batch, b"")? {
                ours.extend(events(&response)?);
            }
        }
        let (mut theirs, mut call) = (Vec::new(), watch(&stage.client, request.clone()).await?);
        while theirs.len() < ours.len() {
            theirs.extend(events(&call.message().await?.context("the watch has ended")?)?);
        }
        ensure!(ours == theirs, "{request:?}");
    }
    Ok(())
}

/// Live ones, since those that etcd has kept for a new watcher it may send in one piece.
#[tokio::test]
async fn fragments_are_those_of_etcd() -> Result<()> {
    let mut stage = Stage::start(4).await?;
    let mut feed = watch(&stage.client, everything_watched()).await?;
    let request = WatchCreateRequest { prev_kv: true, fragment: true, ..everything_watched() };
    let start_revision = stage.revision() + 1;
    let mut call = watch(&stage.client, request.clone()).await?;
    let mut writer = Writer::load(
        stage.store.snapshot().objects.from_rank(0).map(|object| Object::clone(object)),
        stage.revision(),
        Tier::Value,
        LIMITS,
    );
    for letter in [b'a', b'b', b'c'] {
        let put = |number| PutRequest {
            key: key(number),
            value: vec![letter; 450_000].into(),
            ..PutRequest::default()
        };
        let op = |number| RequestOp { request: Some(Request::RequestPut(put(number))) };
        let txn = TxnRequest { success: (0..3).map(op).collect(), ..TxnRequest::default() };
        unary(&stage.client, Method::Txn, &txn).await?;
    }
    feed_until(&mut feed, &mut writer, start_revision + 2).await?;
    stage.store = writer.store().clone();
    let request = WatchCreateRequest { start_revision, ..request };
    for batch in polled(&stage, &request)? {
        let mut theirs = vec![call.message().await?.context("the watch has ended")?];
        while WatchResponse::decode(theirs[theirs.len() - 1].clone())?.fragment {
            theirs.push(call.message().await?.context("the watch has ended")?);
        }
        let revision = batch.revision;
        let ours = responses(batch, header(&theirs[0])?)?;
        ensure!(ours == theirs, "at {revision}: {} and {} responses", ours.len(), theirs.len());
        if revision > start_revision && ours.len() < 2 {
            bail!("no fragments at {revision}");
        }
    }
    Ok(())
}
