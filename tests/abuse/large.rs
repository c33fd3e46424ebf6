//! The same at full size, for minutes: `make abuse`.

use crate::{
    DEADLINE, Victim,
    crowds::{Deaf, watch},
    operator,
    raw::Connection,
};
use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use etcd_client::Client;
use h2::{
    RecvStream,
    server::{self, SendResponse},
};
use http::Request;
use prost::Message;
use seawall::{
    etcd::{
        method::Method,
        proto::{
            etcdserverpb::{
                RangeRequest, RangeResponse, ResponseHeader, StatusResponse, WatchResponse,
            },
            mvccpb::KeyValue,
        },
    },
    grpc::{self, Incoming, Outgoing},
};
use seawall_testkit::eventually;
use std::{fs, net::SocketAddr, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tonic::Status;

/// For a debug build on a machine that builds something else at the same time.
const PATIENCE: Duration = Duration::from_secs(900);

const MIB: u64 = 1 << 20;

/// What one moment of a test cost, for `docs/robustness.md`.
fn tell(victim: &Victim, when: &str) -> Result<u64> {
    let usage = victim.seawall.usage()?;
    let open = fs::read_dir(format!("/proc/{}/fd", victim.seawall.pid()))?.count();
    let (rss, peak) = (usage.rss_bytes / MIB, usage.peak_rss_bytes / MIB);
    eprintln!("{when}: {rss} MiB resident, {peak} MiB at most, {open} files");
    Ok(usage.rss_bytes)
}

#[tokio::test]
#[ignore = "takes minutes: use `make abuse`"]
async fn a_hundred_thousand_watchers_on_one_stream() -> Result<()> {
    const WATCHERS: usize = 100_000;
    const GROWTH_MAX: u64 = 200 * MIB;
    /// What an allocator keeps of them.
    const KEPT_MAX: u64 = 100 * MIB;
    let victim = Victim::new().await?;
    let before = tell(&victim, "before")?;
    let mut connection = victim.connect().await?;
    let mut call = connection.call(Method::Watch.path()).await?;
    let began = Instant::now();
    // As etcd's client does, it says no more before it has heard: a flood ends the connection.
    call.sending.send_data(watch("/watched/0".to_owned()), false)?;
    let mut answer = call.answer().await?;
    for n in 1..=WATCHERS {
        let created = next(&mut answer).await?;
        ensure!(created.created && !created.canceled, "{created:?}");
        if n < WATCHERS {
            answer.sending.send_data(watch(format!("/watched/{n}")), false)?;
        }
    }
    eprintln!("{WATCHERS} watchers were created in {:?}", began.elapsed());
    victim.serves().await?;
    let mut direct = Client::connect(victim.cluster.endpoints(), None).await?;
    for n in [0, WATCHERS / 2, WATCHERS - 1] {
        let key = format!("/watched/{n}");
        direct.put(key.as_str(), "v", None).await?;
        let told = next(&mut answer).await?;
        let kv = told.events.first().and_then(|event| event.kv.as_ref());
        ensure!(kv.is_some_and(|kv| kv.key == key), "{told:?}");
    }
    let growth = tell(&victim, "with them")?.saturating_sub(before);
    ensure!(growth < GROWTH_MAX, "{} MiB more are resident", growth / MIB);
    drop((answer, connection));
    victim.is_unharmed().await?;
    let kept = tell(&victim, "after them")?.saturating_sub(before);
    ensure!(kept < KEPT_MAX, "{} MiB more are resident", kept / MIB);
    Ok(())
}

async fn next(answer: &mut crate::raw::Answer) -> Result<WatchResponse> {
    let message = timeout(PATIENCE, answer.message()).await.context("no more comes")??;
    Ok(WatchResponse::decode(message.context("the stream has ended")?)?)
}

/// Three clients ask for 2 GiB. One opens no window, one does not read what was sent to it, and one
/// reads it all, while others are served.
#[tokio::test]
#[ignore = "takes minutes: use `make abuse`"]
async fn two_gigabytes_for_clients_that_stop_reading() -> Result<()> {
    const GROWTH_MAX: u64 = (64 + 96) * MIB;
    let route = format!("/large=http://{}", Large::start().await?);
    let victim = Victim::start("protection: {memory: 64MiB}", &["--route", &route]).await?;
    let before = tell(&victim, "before")?;
    let mut slow = victim.connect().await?;
    let slow_answer = ask(&mut slow).await?.answer().await?;
    let mut deaf = Deaf::asks(&victim).await?;
    deaf.hears_the_head().await?;
    let mut reader = victim.connect().await?;
    let mut answer = ask(&mut reader).await?.answer().await?;
    let reading = async {
        let mut length = 0;
        while let Some(data) = answer.body.data().await.transpose()? {
            length += data.len();
            answer.body.flow_control().release_capacity(data.len())?;
        }
        anyhow::Ok(length)
    };
    let serving = async {
        loop {
            victim.serves().await?;
            let rss = victim.seawall.usage()?.rss_bytes;
            ensure!(rss < before + GROWTH_MAX, "{} MiB are resident", rss / MIB);
        }
    };
    let began = Instant::now();
    let read = tokio::select! {
        read = timeout(PATIENCE, reading) => read.context("the reader waits")??,
        harmed = serving => return harmed,
    };
    eprintln!("{} MiB were read in {:?}", read as u64 / MIB, began.elapsed());
    ensure!(read == Large::length() + grpc::PREFIX_LEN, "{read} bytes came");
    let peak = victim.seawall.usage()?.peak_rss_bytes;
    tell(&victim, "with them")?;
    ensure!(peak < before + GROWTH_MAX, "{} MiB were resident", peak / MIB);
    drop((slow_answer, slow, deaf, answer, reader));
    victim.is_unharmed().await?;
    eventually(DEADLINE, "what was held to be given back", async || {
        let held = operator::metric(victim.seawall.admin()?, "seawall_held_bytes").await?;
        ensure!(held == 0.0, "{held} bytes are held");
        Ok(())
    })
    .await?;
    tell(&victim, "after them")?;
    Ok(())
}

async fn ask(connection: &mut Connection) -> Result<crate::raw::Call> {
    let mut call = connection.call(Method::Range.path()).await?;
    let (key, range_end) = ("/large/".into(), "/large0".into());
    let request = RangeRequest { key, range_end, ..RangeRequest::default() };
    call.sending.send_data(grpc::encode(&request), true)?;
    Ok(call)
}

/// An etcd whose one list is as large as an answer can be, and made as it is read.
struct Large;

impl Large {
    const KEYS: usize = 2048;

    async fn start() -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        // Ends with the test's runtime.
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::serve(stream));
            }
        });
        Ok(address)
    }

    async fn serve(stream: TcpStream) -> Result<()> {
        let mut connection = server::handshake(stream).await?;
        while let Some(call) = connection.accept().await {
            let (request, respond) = call?;
            tokio::spawn(Self::answer(request, respond));
        }
        Ok(())
    }

    async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<()> {
        let (head, body) = request.into_parts();
        let message = Incoming::new(body).message(MIB as usize).await?.context("no request")?;
        let mut out = Outgoing::new(respond.send_response(grpc::head(), false)?);
        if head.uri.path() == Method::Status.path() {
            let version = "3.6.0".to_owned();
            let header = Some(Self::header());
            let status = StatusResponse { header, version, leader: 1, ..Default::default() };
            out.send(grpc::encode(&status)).await?;
        } else if RangeRequest::decode(message.payload())?.range_end.is_empty() {
            let header = Some(Self::header());
            out.send(grpc::encode(&RangeResponse { header, ..Default::default() })).await?;
        } else {
            let mut prefix = BytesMut::new();
            grpc::put_prefix(Self::length(), &mut prefix);
            out.send(prefix.freeze()).await?;
            out.send(Self::frame().into()).await?;
            for number in 0..Self::KEYS {
                out.send(Self::object(number)).await?;
            }
        }
        Ok(out.finish(grpc::trailers(&Status::ok("")))?)
    }

    fn header() -> ResponseHeader {
        ResponseHeader { cluster_id: 1, member_id: 1, revision: 1, ..Default::default() }
    }

    /// All of the answer but its keys, which may follow.
    fn frame() -> Vec<u8> {
        let (header, count) = (Some(Self::header()), Self::KEYS as i64);
        RangeResponse { header, count, ..Default::default() }.encode_to_vec()
    }

    /// One of the keys as a field of the answer, a little below 1 MiB.
    fn object(number: usize) -> Bytes {
        let kv = KeyValue {
            key: format!("/large/{number:05}").into(),
            value: vec![b'x'; (1 << 20) - 64].into(),
            create_revision: 1,
            mod_revision: 1,
            version: 1,
            ..Default::default()
        };
        let mut field = BytesMut::new();
        field.put_u8(2 << 3 | 2);
        kv.encode_length_delimited(&mut field).expect("it grows");
        field.freeze()
    }

    fn length() -> usize {
        Self::frame().len() + Self::KEYS * Self::object(0).len()
    }
}
