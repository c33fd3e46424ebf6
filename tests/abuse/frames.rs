//! Frames of HTTP/2 at random, most of which make sense and many not where they come.

use crate::{
    Victim,
    connections::{PREFACE, SETTINGS, frame},
};
use anyhow::Result;
use rand::{Rng, SeedableRng, rngs::StdRng};
use seawall::{
    etcd::{
        method::Method,
        proto::etcdserverpb::{
            PutRequest, RangeRequest, WatchCreateRequest, WatchRequest, watch_request::RequestUnion,
        },
    },
    grpc::encode,
};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const CONNECTIONS: u64 = 300;

/// A client that has said all it wants listens for so long to what is said to it.
const LISTENS: Duration = Duration::from_millis(20);

/// The head of a gRPC call, without any compression.
fn head(method: Method) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    // POST, http, then literals: `:path`, `content-type` and `te`.
    let start: &[u8] = &[0x83, 0x86, 0x04];
    let grpc = [&[0x0f, 0x10][..], &text("application/grpc")].concat();
    let te = [&[0x00][..], &text("te"), &text("trailers")].concat();
    [start, &text(method.path()), &grpc, &te].concat()
}

fn message(random: &mut StdRng) -> Vec<u8> {
    let key = &b"/registry/pods/a"[..];
    let framed = match random.random_range(0..3) {
        0 => encode(&RangeRequest { key: key.into(), ..RangeRequest::default() }),
        1 => encode(&PutRequest { key: key.into(), ..PutRequest::default() }),
        _ => {
            let create = WatchCreateRequest { key: key.into(), ..WatchCreateRequest::default() };
            encode(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) })
        }
    };
    framed.to_vec()
}

fn any_frame(random: &mut StdRng) -> Vec<u8> {
    const METHODS: [Method; 4] =
        [Method::Range, Method::Put, Method::Watch, Method::LeaseKeepAlive];
    const HEADERS: u8 = 1;
    const DATA: u8 = 0;
    const END_HEADERS: u8 = 4;
    let end = u8::from(random.random_bool(0.3));
    // Mostly those of a client, rising.
    let stream = match random.random_bool(0.9) {
        true => 2 * random.random_range(0..8) + 1,
        false => random.random_range(0..20),
    };
    let (kind, flags, mut payload) = match random.random_range(0..10) {
        0..3 => (HEADERS, END_HEADERS | end, head(METHODS[random.random_range(0..METHODS.len())])),
        3..6 => (DATA, end, message(random)),
        _ => {
            let mut payload = vec![0; random.random_range(0..24)];
            random.fill(&mut payload[..]);
            (random.random_range(0..11), random.random(), payload)
        }
    };
    if random.random_bool(0.1) && !payload.is_empty() {
        let at = random.random_range(0..payload.len());
        payload[at] = random.random();
    }
    frame(kind, flags, stream, &payload)
}

#[tokio::test]
async fn frames_at_random_harm_nobody() -> Result<()> {
    let victim = Victim::new().await?;
    for seed in 0..CONNECTIONS {
        let mut random = StdRng::seed_from_u64(seed);
        let mut stream = TcpStream::connect(victim.address()?).await?;
        let mut said = [PREFACE, SETTINGS].concat();
        for _ in 0..random.random_range(1..40) {
            said.extend(any_frame(&mut random));
        }
        // It may have had enough before it has heard all.
        stream.write_all(&said).await.ok();
        let mut heard = Vec::new();
        timeout(LISTENS, stream.read_to_end(&mut heard)).await.ok();
        if seed % 50 == 0 {
            victim.serves().await?;
        }
    }
    victim.is_unharmed().await
}
