//! The mirror's store, held byte for byte against the etcd that filled it.

// A part of it is used here.
#[allow(dead_code)]
#[path = "conformance/client.rs"]
mod client;

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use client::{Call, Client, Status};
use prost::Message;
use rand::{Rng, SeedableRng, rngs::StdRng};
use seawall::{
    etcd::{
        key_range::KeyRange,
        method::Method,
        proto::{
            etcdserverpb::{
                DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
                RangeRequest, RangeResponse, RangeStreamResponse, RequestOp, TxnRequest,
                WatchCreateRequest, WatchRequest, WatchResponse, request_op::Request,
                watch_request::RequestUnion,
            },
            mvccpb::{Event, KeyValue, event::EventType},
        },
        wire,
    },
    grpc,
    mirror::{Batch, Change, Found, Kind, Limits, Object, Store, Tier, Watcher, Writer},
};
use seawall_testkit::Cluster;
use std::sync::Arc;
use tonic::Code;

const KEYS: u32 = 40;
const LIMITS: Limits = Limits { events: 100_000, bytes: 1 << 30 };

/// Small enough for several chunks of every answer.
const CHUNK: usize = 1000;

/// An etcd, and the mirror of what it holds and has held since a revision.
struct Stage {
    etcd: Cluster,
    client: Client,
    random: StdRng,
    store: Arc<Store>,
    loaded: i64,
}

impl Stage {
    /// The feed begins before the load, and goes on after it.
    async fn start(seed: u64) -> Result<Self> {
        let etcd = Cluster::single().await?;
        let client = Client::connect(etcd.member(0).address()).await?;
        let mut random = StdRng::seed_from_u64(seed);
        change(&client, &mut random, 40).await?;
        let mut feed = watch(&client, everything_watched()).await?;
        change(&client, &mut random, 40).await?;
        let page = RangeResponse::decode(unary(&client, Method::Range, &everything()).await?)?;
        let loaded = page.header.context("a header")?.revision;
        change(&client, &mut random, 150).await?;
        let mut writer = Writer::load(page.kvs.iter().map(object), loaded, Tier::Value, LIMITS);
        feed_until(&mut feed, &mut writer, revision(&client).await?).await?;
        Ok(Self { store: writer.store().clone(), etcd, client, random, loaded })
    }

    /// The newest revision.
    fn revision(&self) -> i64 {
        self.store.snapshot().revision
    }

    /// What the mirror has in the place of etcd.
    fn found(&self, request: &RangeRequest) -> Result<Option<Found>> {
        let revision = if request.revision > 0 { request.revision } else { self.revision() };
        let found = Found::of(&*self.store.at(revision)?, request);
        let without_leases = self.etcd.binaries().version() >= (3, 7);
        Ok(found.filter(|found| !(without_leases && found.shows_leases_of_keys())))
    }
}

fn everything() -> RangeRequest {
    let all = Bytes::from_static(b"\0");
    RangeRequest { key: all.clone(), range_end: all, ..RangeRequest::default() }
}

fn everything_watched() -> WatchCreateRequest {
    let all = Bytes::from_static(b"\0");
    WatchCreateRequest { key: all.clone(), range_end: all, ..WatchCreateRequest::default() }
}

fn key(number: u32) -> Bytes {
    format!("/s/{number:02}").into()
}

fn object(kv: &KeyValue) -> Object {
    Object::parse(&kv.encode_to_vec()).expect("a key-value")
}

async fn unary(client: &Client, method: Method, request: &impl Message) -> Result<Bytes> {
    let reply = client.unary(method.path(), &[], &request.encode_to_vec()).await?;
    let ok = matches!(reply.status, Status::Grpc { code: Code::Ok, .. });
    ensure!(ok, "{method:?}: {}", reply.status);
    reply.messages.into_iter().next().context("no message")
}

async fn revision(client: &Client) -> Result<i64> {
    let request = RangeRequest { count_only: true, ..everything() };
    let answer = RangeResponse::decode(unary(client, Method::Range, &request).await?)?;
    Ok(answer.header.context("a header")?.revision)
}

/// Puts, updates, deletes, transactions, and leases that come and go.
async fn change(client: &Client, random: &mut StdRng, times: usize) -> Result<()> {
    let mut lease = random.random_range(1..i64::MAX);
    unary(client, Method::LeaseGrant, &LeaseGrantRequest { ttl: 9000, id: lease }).await?;
    for _ in 0..times {
        match random.random_range(0..20) {
            0 => {
                unary(client, Method::LeaseRevoke, &LeaseRevokeRequest { id: lease }).await?;
                lease = random.random_range(1..i64::MAX);
                let grant = LeaseGrantRequest { ttl: 9000, id: lease };
                unary(client, Method::LeaseGrant, &grant).await?;
            }
            1 => {
                let (first, number) = (random.random_range(0..KEYS), random.random_range(0..4));
                let range_end = key(first + number);
                let request = DeleteRangeRequest { key: key(first), range_end, prev_kv: false };
                unary(client, Method::DeleteRange, &request).await?;
            }
            2..8 => drop(unary(client, Method::Txn, &transaction(random, lease)).await?),
            _ => drop(unary(client, Method::Put, &put(random, random_key, lease)).await?),
        }
    }
    Ok(())
}

fn random_key(random: &mut StdRng) -> Bytes {
    key(random.random_range(0..KEYS))
}

fn put(random: &mut StdRng, key: impl Fn(&mut StdRng) -> Bytes, lease: i64) -> PutRequest {
    let size = match random.random_range(0..20) {
        0 => random.random_range(60_000..80_000),
        1 => 0,
        _ => random.random_range(1..200),
    };
    let value = vec![random.random_range(b'a'..b'z'); size].into();
    let lease = if random.random_bool(0.3) { lease } else { 0 };
    PutRequest { key: key(random), value, lease, ..PutRequest::default() }
}

/// Some keys, each of them at most once.
fn transaction(random: &mut StdRng, lease: i64) -> TxnRequest {
    let first = random.random_range(0..KEYS);
    let ops = (0..random.random_range(1..5)).map(|step| {
        let key = key((first + 7 * step) % KEYS);
        let request = match random.random_bool(0.7) {
            true => Request::RequestPut(put(random, |_| key.clone(), lease)),
            false => Request::RequestDeleteRange(DeleteRangeRequest { key, ..Default::default() }),
        };
        RequestOp { request: Some(request) }
    });
    TxnRequest { success: ops.collect(), ..TxnRequest::default() }
}

/// A stream with one watcher, which etcd has created.
async fn watch(client: &Client, create: WatchCreateRequest) -> Result<Call> {
    let mut call = client.call(Method::Watch.path(), &[]).await?;
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    call.send(&request.encode_to_vec())?;
    let created = WatchResponse::decode(call.message().await?.context("no answer")?)?;
    ensure!(created.created && !created.canceled, "{created:?}");
    Ok(call)
}

/// Applies what a watcher of everything is told, up to a revision.
async fn feed_until(feed: &mut Call, writer: &mut Writer, revision: i64) -> Result<()> {
    while writer.store().snapshot().revision < revision {
        let message = feed.message().await?.context("the feed has ended")?;
        let changes =
            WatchResponse::decode(message)?.events.iter().map(changed).collect::<Vec<_>>();
        writer.apply(changes);
    }
    Ok(())
}

fn changed(event: &Event) -> Change {
    let kind = match event.r#type() {
        EventType::Put => Kind::Put,
        EventType::Delete => Kind::Delete,
    };
    Change { kind, object: object(event.kv.as_ref().expect("a key-value")) }
}

/// The bytes of the header that etcd's answer bears.
fn header(message: &[u8]) -> Result<&[u8]> {
    let field = wire::fields(message).next().context("an empty message")??;
    ensure!(field.number == 1, "no header");
    Ok(field.value.bytes())
}

fn unframed(chunks: impl Iterator<Item = Bytes>, length: usize) -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    chunks.for_each(|chunk| bytes.put(chunk));
    ensure!(bytes.len() == length, "{} bytes instead of {length}", bytes.len());
    let message = grpc::Message::from_framed(bytes.freeze());
    ensure!(grpc::frame(&message.payload()) == message.framed(), "another length in the frame");
    Ok(message.payload())
}

fn random_range(random: &mut StdRng, loaded: i64, newest: i64) -> RangeRequest {
    let range_end = match random.random_range(0..6) {
        0 => Bytes::new(),
        1 => Bytes::from_static(b"\0"),
        2 => random_key(random),
        _ => Bytes::from_static(b"/s0"),
    };
    let sorted = random.random_bool(0.5);
    let bound = |random: &mut StdRng| match random.random_bool(0.15) {
        true => random.random_range(-1..newest),
        false => 0,
    };
    RangeRequest {
        key: random_key(random),
        range_end,
        limit: if random.random_bool(0.5) { random.random_range(-1..12) } else { 0 },
        revision: if random.random_bool(0.5) { random.random_range(loaded..=newest) } else { 0 },
        sort_order: if sorted { random.random_range(0..3) } else { 0 },
        sort_target: if sorted { random.random_range(0..5) } else { 0 },
        serializable: random.random_bool(0.5),
        keys_only: random.random_bool(0.3),
        count_only: random.random_bool(0.1),
        min_mod_revision: bound(random),
        max_mod_revision: bound(random),
        min_create_revision: bound(random),
        max_create_revision: bound(random),
    }
}

#[tokio::test]
async fn ranges_have_the_bytes_that_etcd_sends() -> Result<()> {
    let mut stage = Stage::start(1).await?;
    let (loaded, newest) = (stage.loaded, stage.revision());
    let mut answered = 0;
    for _ in 0..600 {
        let request = random_range(&mut stage.random, loaded, newest);
        let theirs = unary(&stage.client, Method::Range, &request).await?;
        let Some(found) = stage.found(&request)? else {
            ensure!(request.sort_target != 0 || request.keys_only, "not answered: {request:?}");
            continue;
        };
        answered += 1;
        let mut response = found.response(header(&theirs)?).context("too long")?;
        let length = response.length();
        let ours = unframed(std::iter::from_fn(|| response.next_chunk(CHUNK)), length)?;
        ensure!(ours == theirs, "{request:?}");
    }
    ensure!(answered > 300, "only {answered} were answered");
    Ok(())
}

#[tokio::test]
async fn streamed_ranges_are_what_etcd_streams() -> Result<()> {
    let mut stage = Stage::start(2).await?;
    if stage.etcd.binaries().version() < (3, 7) {
        return Ok(());
    }
    let (loaded, newest) = (stage.loaded, stage.revision());
    for _ in 0..100 {
        let random = random_range(&mut stage.random, loaded, newest);
        let request = RangeRequest {
            key: random.key,
            range_end: random.range_end,
            limit: random.limit,
            revision: random.revision,
            keys_only: random.keys_only,
            count_only: random.count_only,
            ..RangeRequest::default()
        };
        let Some(found) = stage.found(&request)? else { continue };
        let path = Method::RangeStream.path();
        let reply = stage.client.unary(path, &[], &request.encode_to_vec()).await?;
        let theirs = merged(&reply.messages)?;
        let header = theirs.header.context("no header")?.encode_to_vec();
        let mut stream = found.stream(&header);
        let pieces = std::iter::from_fn(|| stream.next_message(CHUNK));
        let messages = pieces.map(|pieces| {
            let length = pieces.iter().map(Bytes::len).sum();
            unframed(pieces.into_iter(), length)
        });
        let ours = merged(&messages.collect::<Result<Vec<_>>>()?)?;
        ensure!(ours == theirs, "{request:?}");
    }
    Ok(())
}

/// One answer of all that a stream has sent.
fn merged(messages: &[Bytes]) -> Result<RangeResponse> {
    let mut whole = RangeStreamResponse::default();
    for message in messages {
        whole.merge(message.clone())?;
    }
    whole.range_response.context("nothing was sent")
}

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
