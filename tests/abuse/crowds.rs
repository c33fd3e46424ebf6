//! Too much of what is allowed.

use crate::{DEADLINE, Victim, raw};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use etcd_client::Client;
use h2::{Reason, client};
use seawall::{
    etcd::{
        method::Method,
        proto::etcdserverpb::{
            LeaseKeepAliveRequest, RangeRequest, WatchCreateRequest, WatchRequest, WatchResponse,
            watch_request::RequestUnion,
        },
    },
    grpc::encode,
};
use std::future::poll_fn;
use tokio::{net::TcpStream, time::timeout};

pub(crate) fn watch(key: String) -> Bytes {
    let create = WatchCreateRequest { key: key.into(), ..WatchCreateRequest::default() };
    encode(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) })
}

fn everything_below(prefix: &'static str, end: &'static str) -> Bytes {
    let range =
        RangeRequest { key: prefix.into(), range_end: end.into(), ..RangeRequest::default() };
    encode(&range)
}

#[tokio::test]
async fn streams_that_are_reset_at_once_leave_nothing() -> Result<()> {
    const STREAMS: usize = 5000;
    let victim = Victim::new().await?;
    let mut connection = victim.connect().await?;
    let mut connections = 1;
    for n in 0..STREAMS {
        // The server may have had enough of this connection.
        let mut call = match connection.call(Method::Watch.path()).await {
            Ok(call) => call,
            Err(_) => {
                connections += 1;
                connection = victim.connect().await?;
                connection.call(Method::Watch.path()).await?
            }
        };
        if n % 2 == 0 {
            call.sending.send_data(watch(format!("/reset/{n}")), false).ok();
        }
        call.sending.send_reset(Reason::CANCEL);
    }
    eprintln!("{STREAMS} streams were reset on {connections} connections");
    victim.serves().await?;
    drop(connection);
    victim.is_unharmed().await
}

#[tokio::test]
async fn a_thousand_watches_leave_nothing() -> Result<()> {
    const WATCHES: usize = 1000;
    let victim = Victim::new().await?;
    let mut connection = victim.connect().await?;
    let mut answers = Vec::new();
    for n in 0..WATCHES {
        let mut call = connection.call(Method::Watch.path()).await?;
        call.sending.send_data(watch(format!("/watched/{n}")), false)?;
        let mut answer = call.answer().await?;
        let created = answer.message().await?.context("the watch has ended")?;
        let created: WatchResponse = prost::Message::decode(created)?;
        ensure!(created.created, "{created:?}");
        // One half is reset, the other one goes with the connection.
        if n % 2 == 0 {
            answer.sending.send_reset(Reason::CANCEL);
        } else {
            answers.push(answer);
        }
    }
    victim.serves().await?;
    drop((answers, connection));
    victim.is_unharmed().await
}

/// Each of them took a place among the short calls for as long as its client lived, and when none was
/// left every write waited for 5 s and failed.
#[tokio::test]
async fn keep_alives_that_stay_open_stand_in_the_way_of_no_write() -> Result<()> {
    const LIGHT: usize = 8;
    let lanes = format!("{{light: {{connections_max: 2, streams_max: {}}}}}", LIGHT / 2);
    let text = format!("workers: 1\nclusters: {{main: {{lanes: {lanes}}}}}\n");
    let victim = Victim::configured(&text).await?;
    let mut client = Client::connect(victim.cluster.endpoints(), None).await?;
    let id = client.lease_grant(600, None).await?.id();
    let mut connection = victim.connect().await?;
    let mut open = Vec::new();
    for _ in 0..=LIGHT {
        let mut call = connection.call(Method::LeaseKeepAlive.path()).await?;
        call.sending.send_data(encode(&LeaseKeepAliveRequest { id }), false)?;
        let mut answer = call.answer().await?;
        answer.message().await?.context("the keep-alive has ended")?;
        open.push(answer);
    }
    victim.serves().await?;
    drop((open, connection));
    victim.is_unharmed().await
}

#[tokio::test]
async fn clients_that_stop_reading_cost_little() -> Result<()> {
    const VALUES: usize = 100;
    // What may be held, and what a proxy that holds nothing takes: less than half of it in a release,
    // and more in a debug build. All three answers together are 300 MiB.
    const RSS_MAX: u64 = (64 + 96) << 20;
    let victim = Victim::with("memory: 64MiB").await?;
    let mut direct = Client::connect(victim.cluster.endpoints(), None).await?;
    let value = vec![b'x'; 1 << 20];
    for n in 0..VALUES {
        direct.put(format!("/large/{n:03}"), value.clone(), None).await?;
    }

    // One whose window stays closed, ...
    let mut slow = victim.connect().await?;
    let mut call = slow.call(Method::Range.path()).await?;
    call.sending.send_data(everything_below("/large/", "/large0"), true)?;
    let slow_answer = call.answer().await?;
    // ... and one with a wide window that does not read its socket.
    let mut deaf = Deaf::asks(&victim).await?;
    deaf.hears_the_head().await?;

    for _ in 0..20 {
        victim.serves().await?;
        let rss = victim.seawall.usage()?.rss_bytes;
        ensure!(rss < RSS_MAX, "{} MiB are resident", rss >> 20);
    }
    // The one that reads gets it all.
    let mut reader = victim.connect().await?;
    let mut call = reader.call(Method::Range.path()).await?;
    call.sending.send_data(everything_below("/large/", "/large0"), true)?;
    let mut answer = call.answer().await?;
    let length = timeout(DEADLINE, async {
        let mut length = 0;
        while let Some(data) = answer.body.data().await.transpose()? {
            length += data.len();
            answer.body.flow_control().release_capacity(data.len())?;
        }
        anyhow::Ok(length)
    });
    let length = length.await.context("the reader waits")??;
    ensure!(length > VALUES * value.len(), "only {length} bytes came");
    let peak = victim.seawall.usage()?.peak_rss_bytes;
    eprintln!("{} MiB were resident at most", peak >> 20);
    ensure!(peak < RSS_MAX, "{} MiB were resident", peak >> 20);

    drop((slow_answer, slow, deaf, answer, reader));
    victim.is_unharmed().await
}

/// Each answer that nobody read was held, in no budget: a client with 400 reads of a megabyte had 400
/// MiB taken.
#[tokio::test]
async fn objects_that_nobody_reads_cost_little() -> Result<()> {
    const READS: usize = 300;
    const RSS_MAX: u64 = (64 + 96) << 20;
    let victim = Victim::with("memory: 64MiB").await?;
    let mut direct = Client::connect(victim.cluster.endpoints(), None).await?;
    direct.put("/large", vec![b'x'; 1 << 20], None).await?;
    let get = encode(&RangeRequest { key: "/large".into(), ..RangeRequest::default() });
    let mut slow = victim.connect().await?;
    let mut answers = Vec::new();
    for _ in 0..READS {
        let mut call = slow.call(Method::Range.path()).await?;
        call.sending.send_data(get.clone(), true)?;
        // One after the other, so that none shares another's.
        answers.push(call.answer().await?);
    }
    victim.serves().await?;
    let peak = victim.seawall.usage()?.peak_rss_bytes;
    eprintln!("{} MiB were resident at most", peak >> 20);
    ensure!(peak < RSS_MAX, "{} MiB were resident", peak >> 20);
    drop((answers, slow));
    victim.is_unharmed().await
}

/// A client that does not read what was sent to it.
pub(crate) struct Deaf {
    connection: client::Connection<TcpStream, Bytes>,
    answer: client::ResponseFuture,
    _requests: client::SendRequest<Bytes>,
}

impl Deaf {
    pub(crate) async fn asks(victim: &Victim) -> Result<Self> {
        const WINDOW: u32 = (1 << 31) - 1;
        let stream = TcpStream::connect(victim.address()?).await?;
        let handshake = client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(stream);
        let (mut requests, connection) = handshake.await?;
        let (answer, mut sending) =
            requests.send_request(raw::request(Method::Range.path())?, false)?;
        sending.send_data(everything_below("/large/", "/large0"), true)?;
        Ok(Self { connection, answer, _requests: requests })
    }

    /// Reads no further than the head of the answer.
    pub(crate) async fn hears_the_head(&mut self) -> Result<()> {
        let head = poll_fn(|cx| {
            use std::{future::Future, pin::Pin};
            if let std::task::Poll::Ready(ended) = Pin::new(&mut self.connection).poll(cx) {
                ended.expect("the connection stays");
            }
            Pin::new(&mut self.answer).poll(cx)
        });
        timeout(DEADLINE, head).await.context("no answer")??;
        Ok(())
    }
}
