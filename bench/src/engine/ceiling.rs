use crate::{
    client::{
        Channel, Connection, Dial, Failure, RangeScan,
        etcd::{
            self, KeyValue, PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader,
        },
        frame,
    },
    measure::{Apart, Loop, Operation, Until, run},
    result::Ceiling,
};
use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use std::time::Duration;
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};

const LASTS: Duration = Duration::from_secs(1);
const READS: usize = 64;
const LISTS: usize = 4;
const LIST_KEYS: usize = 4096;

/// Measures the client against a server that answers at once: what it gets there, no target can
/// exceed, and what comes near it is not the target's figure.
pub(crate) async fn ceiling() -> Result<Ceiling> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let dial = Dial::plain([listener.local_addr()?]);
    let (server, client) = (Apart::start("bench-server")?, Apart::start("bench-ceiling")?);
    let listener = listener.into_std()?;
    server.spawn(serve(listener));
    let reads = client.run(ask(dial.clone(), READS, Small)).await?;
    let lists = client.run(ask(dial, LISTS, Large)).await?;
    Ok(Ceiling { reads_per_second: reads.0, list_bytes_per_second: lists.1 })
}

async fn ask<O: Operation + Copy>(dial: Dial, loops: usize, operation: O) -> Result<(f64, f64)> {
    let mut all = Vec::new();
    for n in 0..loops {
        // Four connections, as most workloads have.
        let channel = match all.get(n % 4) {
            Some(Loop { channel, .. }) if n >= 4 => Channel::clone(channel),
            _ => Channel::open(&dial, n).await?,
        };
        all.push(Loop { channel, operation });
    }
    let (_, tally) = run(all, Until::Elapsed(LASTS), Instant::now()).await?;
    let figures = tally.figures();
    Ok((figures.per_second, figures.bytes_per_second))
}

#[derive(Clone, Copy)]
struct Small;

impl Operation for Small {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let request = PutRequest { key: "/registry/ceiling".into(), ..PutRequest::default() };
        connection.unary::<PutResponse>(etcd::PUT, &request).await.map(|_| 0)
    }
}

#[derive(Clone, Copy)]
struct Large;

impl Operation for Large {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let request = RangeRequest::of_key("/registry/ceiling");
        Ok(connection.call::<RangeScan>(etcd::RANGE, &request).await?.message_bytes)
    }
}

/// Answers every put at once, and every range with the same 8 MiB.
async fn serve(listener: std::net::TcpListener) {
    let listener = TcpListener::from_std(listener).expect("it belongs to no scheduler");
    let header = Some(ResponseHeader { revision: 1 });
    let small = frame(&PutResponse { header: header.clone() });
    let kv = |n: usize| KeyValue {
        key: format!("/registry/ceiling/{n:05}").into(),
        mod_revision: 1,
        value: vec![b'v'; 2048].into(),
    };
    let kvs = (0..LIST_KEYS).map(kv).collect();
    let large = frame(&RangeResponse { header, kvs, more: false, count: LIST_KEYS as i64 });
    // Ends with the thread.
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream, small.clone(), large.clone()));
    }
}

/// The client sees what fails here.
async fn answer(stream: TcpStream, small: Bytes, large: Bytes) {
    served(stream, &small, &large).await.ok();
}

async fn served(stream: TcpStream, small: &Bytes, large: &Bytes) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(call) = connection.accept().await {
        let (request, mut respond) = call?;
        let body = if request.uri().path() == etcd::PUT { small } else { large };
        let mut stream = respond.send_response(Response::new(()), false)?;
        stream.send_data(body.clone(), false)?;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        stream.send_trailers(trailers)?;
    }
    Ok(())
}
