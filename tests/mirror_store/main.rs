//! The mirror's store, held byte for byte against the etcd that filled it.

mod changes;
mod ranges;
mod watches;

// A part of it is used here.
#[allow(dead_code)]
#[path = "../conformance/client.rs"]
mod client;

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use changes::{change, random_key};
use client::{Call, Client, Status};
use prost::Message;
use rand::{Rng, SeedableRng, rngs::StdRng};
use seawall::{
    etcd::{
        method::Method,
        proto::{
            etcdserverpb::{
                RangeRequest, RangeResponse, WatchCreateRequest, WatchRequest, WatchResponse,
                watch_request::RequestUnion,
            },
            mvccpb::{Event, KeyValue, event::EventType},
        },
        wire,
    },
    grpc,
    mirror::{Change, Found, Kind, Limits, Object, Store, Tier, Writer},
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
