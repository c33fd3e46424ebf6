//! Another process in the place of one that serves.

use crate::{
    Args, DEADLINE, builder,
    client::{Client, Status},
    configure, operator,
};
use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use prost::Message;
use seawall::etcd::{
    method::Method,
    proto::etcdserverpb::{
        PutRequest, PutResponse, RangeRequest, WatchCreateRequest, WatchRequest, WatchResponse,
        watch_request::RequestUnion,
    },
};
use seawall_testkit::{Cluster, LogLine, SeawallProcess, eventually};
use serde_json::Value;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const WRITERS: usize = 4;

/// Written when nobody writes any more.
const LAST: &str = "/load/last";

/// A process that a Seawall has started, and that ends with the test.
struct Successor(Pid);

impl Drop for Successor {
    fn drop(&mut self) {
        // Fails when it has ended by itself.
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

/// The `number`th successor that the log tells of.
async fn successor(seawall: &SeawallProcess, number: usize) -> Result<Successor> {
    let is_it = |line: &&LogLine| line.message() == "a successor has taken over";
    let pid = eventually(DEADLINE, "a successor", async || {
        let log = seawall.log();
        let line = log.iter().filter(is_it).nth(number).context("none yet")?.clone();
        line.field("pid").and_then(|pid| pid.as_i64()).context("no pid")
    });
    Ok(Successor(Pid::from_raw(pid.await?.try_into()?)))
}

/// Clients that write without a pause and one that watches.
struct Load {
    address: SocketAddr,
    stop: CancellationToken,
    written: Arc<AtomicU64>,
    writers: Vec<JoinHandle<Result<Vec<i64>>>>,
    watcher: JoinHandle<Result<Vec<i64>>>,
}

impl Load {
    async fn start(address: SocketAddr) -> Result<Self> {
        let stop = CancellationToken::new();
        let written = Arc::<AtomicU64>::default();
        // Written before anything else, so that the watch knows where to begin.
        let first = put(&Client::connect(address).await?, "/first").await??;
        let writers = (0..WRITERS)
            .map(|number| tokio::spawn(write(address, number, stop.clone(), written.clone())));
        let writers = writers.collect();
        let watcher = tokio::spawn(watch(address, first + 1));
        Ok(Self { address, stop, written, writers, watcher })
    }

    /// Waits for writes that begin from now on.
    async fn goes_on(&self) -> Result<()> {
        let before = self.written.load(SeqCst);
        eventually(DEADLINE, "more writes", async || {
            ensure!(self.written.load(SeqCst) > before + 100, "they stand still");
            ensure!(!self.writers.iter().any(JoinHandle::is_finished), "a writer has failed");
            Ok(())
        })
        .await
    }

    /// Compares what was seen with what was written.
    async fn verify(self) -> Result<()> {
        self.stop.cancel();
        let mut written = Vec::new();
        for writer in self.writers {
            written.extend(writer.await??);
        }
        written.push(put(&Client::connect(self.address).await?, LAST).await??);
        written.sort_unstable();
        let seen = self.watcher.await??;
        ensure!(seen == written, "{} were written and {} seen", written.len(), seen.len());
        Ok(())
    }
}

/// A call that was not sent may be sent to another; one that was sent must be answered.
pub(crate) async fn put(client: &Client, key: &str) -> Result<Result<i64>> {
    let request = PutRequest { key: key.to_owned().into(), ..PutRequest::default() };
    let Ok(mut call) = client.call(Method::Put.path(), &[]).await else {
        bail!("the connection takes no more calls");
    };
    Ok(async {
        call.send(&request.encode_to_vec())?;
        call.close()?;
        let reply = call.rest().await?;
        match &reply.status {
            Status::Grpc { code: tonic::Code::Ok, .. } => {}
            status => bail!("{key}: {status}"),
        }
        let answer = PutResponse::decode(reply.messages.first().context("no answer")?.clone())?;
        Ok(answer.header.context("no header")?.revision)
    }
    .await)
}

async fn write(
    address: SocketAddr,
    number: usize,
    stop: CancellationToken,
    written: Arc<AtomicU64>,
) -> Result<Vec<i64>> {
    let mut client = Client::connect(address).await?;
    let mut revisions = Vec::new();
    while !stop.is_cancelled() {
        let key = format!("/load/{number}/{}", revisions.len());
        match put(&client, &key).await {
            Ok(answered) => {
                let revision = answered.context("a write that was sent has failed")?;
                revisions.push(revision);
                written.fetch_add(1, SeqCst);
            }
            // Not once is a connection refused.
            Err(_) => client = Client::connect(address).await.context("no new connection")?,
        }
    }
    Ok(revisions)
}

/// The revisions of all writes, each once; a watch that ends goes on where it was.
async fn watch(address: SocketAddr, mut from: i64) -> Result<Vec<i64>> {
    let mut seen = Vec::new();
    loop {
        let client = Client::connect(address).await.context("no connection to watch on")?;
        let create = WatchCreateRequest {
            key: "/load/".into(),
            range_end: "/load0".into(),
            start_revision: from,
            ..WatchCreateRequest::default()
        };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // One that takes no more calls is as good as one that ends at once.
        let Ok(mut call) = client.call(Method::Watch.path(), &[]).await else { continue };
        call.send(&create.encode_to_vec())?;
        while let Some(message) = call.message().await? {
            let answer = WatchResponse::decode(message)?;
            ensure!(!answer.canceled, "{answer:?}");
            for kv in answer.events.iter().filter_map(|event| event.kv.as_ref()) {
                seen.push(kv.mod_revision);
                from = kv.mod_revision + 1;
                if kv.key == LAST {
                    return Ok(seen);
                }
            }
        }
    }
}

#[tokio::test]
async fn nobody_notices_an_upgrade() -> Result<()> {
    let cluster = Cluster::single().await?;
    let upstream = cluster.member(0).endpoint();
    let seawall = builder().args(["--upstream", &upstream]).start().await?;
    let load = Load::start(seawall.address("main")?).await?;
    load.goes_on().await?;

    kill(Pid::from_raw(seawall.pid().try_into()?), Signal::SIGUSR2)?;
    let second = successor(&seawall, 0).await?;
    let status = seawall.wait(DEADLINE).await?;
    ensure!(status.success(), "it ends with {status}");
    load.goes_on().await?;
    ensure!(operator::get(seawall.admin()?, "/readyz").await?.0 == 200, "it is not ready");

    // What took over can be taken over from.
    kill(second.0, Signal::SIGUSR2)?;
    let third = successor(&seawall, 1).await?;
    ensure!(third.0 != second.0);
    load.goes_on().await?;
    load.verify().await
}

/// Somebody was right to switch it, and need not notice that the program was exchanged.
#[tokio::test]
async fn what_was_switched_by_hand_stays_switched() -> Result<()> {
    let cluster = Cluster::single().await?;
    let text = "clusters: {main: {endpoints: [{main}]}}
protection: {rules: [{name: office, match: {prefixes: [/office]}, deny: true}]}
";
    let seawall = builder().arg("--config", &configure(&cluster, text)?).start().await?;
    let admin = seawall.admin()?;
    list(&Client::connect(seawall.address("main")?).await?, "/registry/pods/").await?;
    operator::post(admin, "/mirror/main?collection=/registry/pods&mode=off").await?;
    for switch in ["read_only?mode=on", "mirror?mode=observe", "rules.office?mode=off"] {
        operator::post(admin, &format!("/protection/{switch}")).await?;
    }

    kill(Pid::from_raw(seawall.pid().try_into()?), Signal::SIGUSR2)?;
    let _second = successor(&seawall, 0).await?;
    ensure!(seawall.wait(DEADLINE).await?.success());
    let ask = async |path: &str| -> Result<Value> {
        Ok(serde_json::from_str(&operator::get(admin, path).await?.1)?)
    };
    let protections = ask("/protection").await?["protections"].take();
    let switched = protections.as_array().into_iter().flatten().filter_map(|standing| {
        let name = standing["protection"].as_str().filter(|_| standing["switched"] == true)?;
        Some((name, standing["mode"].as_str()?))
    });
    let expected = [("read_only", "enforce"), ("mirror", "observe"), ("rules.office", "off")];
    assert_eq!(switched.collect::<Vec<_>>(), expected);
    let collection = ask("/mirror/main").await?["collections"][0].take();
    ensure!(collection["collection"] == "/registry/pods", "{collection}");
    ensure!(collection["why"] == "switched off by hand", "{collection}");

    let log = seawall.log();
    let audited = log.iter().filter(|line| line.text("event") == Some("switch_taken_over"));
    let told =
        audited.filter_map(|line| line.text("protection").or_else(|| line.text("collection")));
    assert_eq!(told.collect::<Vec<_>>(), ["mirror", "read_only", "rules.office", "/registry/pods"]);
    Ok(())
}

async fn list(client: &Client, prefix: &str) -> Result<()> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().context("a prefix")? += 1;
    let request = RangeRequest {
        key: prefix.to_owned().into(),
        range_end: end.into(),
        ..RangeRequest::default()
    };
    let reply = client.unary(Method::Range.path(), &[], &request.encode_to_vec()).await?;
    ensure!(matches!(reply.status, Status::Grpc { code: tonic::Code::Ok, .. }), "{}", reply.status);
    Ok(())
}

#[tokio::test]
async fn a_successor_that_does_not_come_up_changes_nothing() -> Result<()> {
    const FAILED: &str = "no successor has taken over: this process goes on";
    let cluster = Cluster::single().await?;
    let text = "clusters: {main: {endpoints: [{main}]}}\n";
    let file = configure(&cluster, text)?;
    let seawall = builder().arg("--config", &file).start().await?;
    let client = Client::connect(seawall.address("main")?).await?;
    configure(&cluster, &format!("{text}wrong: 1\n"))?;
    kill(Pid::from_raw(seawall.pid().try_into()?), Signal::SIGUSR2)?;
    seawall.log_contains(DEADLINE, "a failure", |line| line.message() == FAILED).await?;
    put(&client, "/k").await??;
    ensure!(operator::get(seawall.admin()?, "/readyz").await?.0 == 200, "it is not ready");
    Ok(())
}
