//! Too much of what costs the sender little: frames of control, heads, connections, watchers.

use crate::{
    DEADLINE, Victim,
    connections::{PREFACE, SETTINGS, frame, noise},
    operator,
};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use etcd_client::Client;
use prost::Message;
use seawall::{
    etcd::{
        method::Method,
        proto::etcdserverpb::{
            WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
        },
    },
    grpc::encode,
};
use seawall_testkit::eventually;
use std::{fs, time::Duration};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet, time::timeout};

/// What a flood may have it hold, whatever its length.
const GROWTH_MAX: u64 = 48 << 20;

/// A server that takes nothing for so long does not want more.
const TAKEN_MAX: Duration = Duration::from_millis(500);

impl Victim {
    /// Memory that it holds more than before.
    async fn holds_little(&self, what: &str, before: u64) -> Result<()> {
        self.serves().await?;
        let growth = self.seawall.usage()?.rss_bytes.saturating_sub(before);
        ensure!(growth < GROWTH_MAX, "{} MiB more after {what}", growth >> 20);
        Ok(())
    }
}

/// Says something over and over and never listens. The connection, and how much was taken.
async fn pours(
    victim: &Victim,
    first: &[u8],
    again: &[u8],
    bytes: usize,
) -> Result<(TcpStream, usize)> {
    let mut stream = TcpStream::connect(victim.address()?).await?;
    stream.write_all(&[PREFACE, SETTINGS, first].concat()).await?;
    let batch = again.repeat((64 << 10) / again.len());
    let mut taken = 0;
    while taken < bytes {
        match timeout(TAKEN_MAX, stream.write_all(&batch)).await {
            Ok(Ok(())) => taken += batch.len(),
            // It is full, or has had enough.
            Ok(Err(_)) | Err(_) => break,
        }
    }
    Ok((stream, taken))
}

#[tokio::test]
async fn control_frames_that_are_poured_in_are_not_gathered() -> Result<()> {
    const BYTES: usize = 8 << 20;
    let victim = Victim::new().await?;
    let before = victim.seawall.usage()?.rss_bytes;
    // A gRPC head that is complete, on the first stream.
    let head = frame(1, 4, 1, &[0x83, 0x84, 0x86]);
    let cases: [(&str, &[u8], Vec<u8>); 7] = [
        ("PING", &[], frame(6, 0, 0, &[7; 8])),
        ("SETTINGS", &[], frame(4, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("PRIORITY", &[], frame(2, 0, 3, &[0, 0, 0, 0, 1])),
        ("WINDOW_UPDATE", &head, frame(8, 0, 1, &[0, 0, 0, 1])),
        ("empty DATA", &head, frame(0, 0, 1, &[])),
        ("frames of no known kind", &[], frame(0x77, 0, 0, &noise(100))),
        ("RST_STREAM", &head, frame(3, 0, 1, &[0, 0, 0, 8])),
    ];
    let mut open = Vec::new();
    for (what, first, again) in &cases {
        let (stream, taken) = pours(&victim, first, again, BYTES).await?;
        eprintln!("{what}: {} KiB were taken", taken >> 10);
        open.push(stream);
        victim.holds_little(what, before).await?;
    }
    drop(open);
    victim.is_unharmed().await
}

#[tokio::test]
async fn a_head_without_end_is_not_gathered() -> Result<()> {
    let victim = Victim::new().await?;
    let before = victim.seawall.usage()?.rss_bytes;
    // A literal header of 16 KB, not to be remembered, in each frame.
    let field = [&[0, 1, b'x', 0x7f, 0x80, 0x7d][..], &[b'v'; 127 + 125 * 128]].concat();
    let starts = frame(1, 0, 1, &[0x83, 0x84, 0x86]);
    for (what, again) in [
        ("CONTINUATION with headers", frame(9, 0, 1, &field[..field.len().min(16_000)])),
        ("empty CONTINUATION", frame(9, 0, 1, &[])),
    ] {
        let (stream, taken) = pours(&victim, &starts, &again, 32 << 20).await?;
        eprintln!("{what}: {} KiB were taken", taken >> 10);
        victim.holds_little(what, before).await?;
        drop(stream);
    }
    victim.is_unharmed().await
}

#[tokio::test]
async fn a_message_without_end_is_refused() -> Result<()> {
    let victim = Victim::new().await?;
    let before = victim.seawall.usage()?.rss_bytes;
    for method in [Method::Put, Method::Watch, Method::Txn] {
        let mut connection = victim.connect().await?;
        let mut call = connection.call(method.path()).await?;
        // Its length is 2 GiB less one byte, says its prefix.
        let mut piece = vec![0, 0x7f, 0xff, 0xff, 0xff];
        piece.resize(1 << 20, 0);
        for _ in 0..16 {
            // Fails when it has been refused.
            if call.sending.send_data(piece.clone().into(), false).is_err() {
                break;
            }
        }
        let refused = call.answer().await?.status().await?;
        ensure!(refused.0 != 0, "{method:?} was taken");
        victim.holds_little("a message without end", before).await?;
    }
    victim.is_unharmed().await
}

#[tokio::test]
async fn connections_that_say_little_or_nothing_cost_little() -> Result<()> {
    const CONNECTIONS: usize = 600;
    let victim = Victim::new().await?;
    let before = victim.seawall.usage()?.rss_bytes;
    let mut open = Vec::new();
    for n in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(victim.address()?).await?;
        // One byte more of the preface than the one before.
        stream.write_all(&PREFACE[..n % PREFACE.len()]).await?;
        open.push(stream);
    }
    victim.holds_little("so many connections", before).await?;
    let descriptors = fs::read_dir(format!("/proc/{}/fd", victim.seawall.pid()))?.count();
    ensure!(descriptors < CONNECTIONS + 100, "{descriptors} descriptors are open");
    drop(open);
    victim.is_unharmed().await
}

#[tokio::test]
async fn ten_thousand_watchers_on_one_stream_cost_little() -> Result<()> {
    const WATCHERS: usize = 10_000;
    /// Asked for before the first of them is there.
    const PIPELINED: usize = 100;
    /// What one of them may take.
    const BYTES_EACH: u64 = 4 << 10;
    let victim = Victim::new().await?;
    let mut direct = Client::connect(victim.cluster.endpoints(), None).await?;
    direct.put("/registry/pods/default/a", "", None).await?;
    warm(&victim).await?;
    let before = victim.seawall.usage()?.rss_bytes;
    let mut connection = victim.connect().await?;
    let mut call = connection.call(Method::Watch.path()).await?;
    call.sending.send_data(watch("/registry/pods/default/a"), false)?;
    let mut answer = call.answer().await?;
    let creating = async {
        for number in 1..=WATCHERS {
            // A connection on which too much waits to be read is closed.
            if number % PIPELINED == 1 {
                for _ in 0..PIPELINED.min(WATCHERS - number) {
                    answer.sending.send_data(watch("/registry/pods/default/a"), false)?;
                }
            }
            let created = answer.message().await?.context("the stream has ended")?;
            let created = WatchResponse::decode(created)?;
            ensure!(created.created && !created.canceled, "{created:?}");
        }
        anyhow::Ok(())
    };
    timeout(5 * DEADLINE, creating).await.context("they are not all created")??;
    victim.serves().await?;
    let growth = victim.seawall.usage()?.rss_bytes.saturating_sub(before);
    eprintln!("{} bytes for each watcher", growth / WATCHERS as u64);
    ensure!(growth < WATCHERS as u64 * BYTES_EACH, "{} MiB more", growth >> 20);
    drop((answer, connection));
    victim.is_unharmed().await
}

/// Events of a few bytes for many watchers that read nothing filled what h2 lets wait in small frames,
/// long before any window. It ended the connection to etcd, and with it the watchers of others.
#[tokio::test]
async fn slow_watchers_of_small_events_end_nobody_elses_watch() -> Result<()> {
    const SLOW: usize = 60;
    const EVENTS: usize = 2000;
    let victim = Victim::new().await?;
    let mut direct = Client::connect(victim.cluster.endpoints(), None).await?;
    let mut slow = victim.connect().await?;
    let mut held = Vec::new();
    for _ in 0..SLOW {
        let mut call = slow.call(Method::Watch.path()).await?;
        call.sending.send_data(watch("/w"), false)?;
        held.push(call.answer().await?);
    }
    // Several, so that one at least shares their connections to etcd.
    let mut readers = JoinSet::new();
    for _ in 0..4 {
        let mut connection = victim.connect().await?;
        let mut call = connection.call(Method::Watch.path()).await?;
        call.sending.send_data(watch("/w"), false)?;
        let mut reader = call.answer().await?;
        let created = reader.message().await?.context("its stream has ended")?;
        ensure!(WatchResponse::decode(created)?.created, "it is not created");
        readers.spawn(async move {
            let mut seen = 0;
            while seen < EVENTS {
                let message = reader.message().await;
                let message = message?.with_context(|| format!("its stream ended at {seen}"))?;
                seen += WatchResponse::decode(message)?.events.len();
            }
            // Not before everything has come.
            drop(connection);
            anyhow::Ok(())
        });
    }
    for _ in 0..EVENTS {
        direct.put("/w", "", None).await?;
    }
    while let Some(read) = timeout(DEADLINE, readers.join_next()).await.context("held up")? {
        read??;
    }
    drop((held, slow));
    victim.is_unharmed().await
}

fn watch(key: &'static str) -> Bytes {
    let create = WatchCreateRequest { key: key.into(), ..WatchCreateRequest::default() };
    encode(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) })
}

/// Waits until the pods are answered from memory.
async fn warm(victim: &Victim) -> Result<()> {
    let mut through = Client::connect([victim.seawall.endpoint()?], None).await?;
    let admin = victim.seawall.admin()?;
    eventually(DEADLINE, "an answer from memory", async || {
        let options = etcd_client::GetOptions::new().with_prefix();
        through.get("/registry/pods/", Some(options)).await?;
        let answers = operator::metric(admin, "seawall_mirror_answers_total").await?;
        ensure!(answers > 0.0, "it came from etcd");
        Ok(())
    })
    .await
}
