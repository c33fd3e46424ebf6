//! The same script at etcd itself and through Seawall, and what came of it compared.

use crate::{
    client::{self, Call, Client, Head, Reply, Status},
    operator, schema,
};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::future::join_all;
use prost_reflect::MethodDescriptor;
use seawall_testkit::{Binaries, Cluster, Etcdctl, SeawallProcess, eventually};
use std::{cell::RefCell, env, fmt, path::PathBuf, rc::Rc};

/// Keys below this lie in the second cluster of a Seawall that has two.
pub(crate) const ROUTED: &str = "/registry/events";

/// All keys of a mirrored arena lie here.
const COLLECTION: &str = "/registry/things";

/// A server to talk to, fresh at the start, with all that is behind it.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) client: Client,
    pub(crate) endpoint: String,
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) seawall: Option<SeawallProcess>,
}

impl Target {
    async fn etcd(extra: &[&str]) -> Result<Self> {
        let cluster = cluster(extra).await?;
        let client = Client::connect(cluster.member(0).address()).await?;
        let endpoint = cluster.member(0).endpoint();
        Ok(Self { name: "etcd", client, endpoint, clusters: vec![cluster], seawall: None })
    }

    async fn seawall(extra: &[&str]) -> Result<Self> {
        Self::behind("seawall", vec![cluster(extra).await?]).await
    }

    async fn routed(extra: &[&str]) -> Result<Self> {
        let (main, events) = tokio::try_join!(cluster(extra), cluster(extra))?;
        Self::behind("seawall with two clusters", vec![main, events]).await
    }

    /// Seawall in front of these, the first of which is the default one.
    pub(crate) async fn behind(name: &'static str, clusters: Vec<Cluster>) -> Result<Self> {
        let mut args = vec!["--upstream".to_owned(), clusters[0].endpoints().join(",")];
        for cluster in &clusters[1..] {
            args.extend(["--route".into(), format!("{ROUTED}={}", cluster.endpoints().join(","))]);
        }
        let seawall = SeawallProcess::builder().binary(binary()).args(args).start().await?;
        let client = Client::connect(seawall.address("main")?).await?;
        let endpoint = seawall.endpoint()?;
        Ok(Self { name, client, endpoint, clusters, seawall: Some(seawall) })
    }

    /// etcdctl as a user types it.
    pub(crate) fn etcdctl(&self) -> Etcdctl {
        Etcdctl::new(self.clusters[0].binaries(), [&self.endpoint])
    }
}

async fn cluster(extra: &[&str]) -> Result<Cluster> {
    Cluster::builder().extra_args(extra.iter().copied()).start().await
}

/// What `SEAWALL_BIN` names, or what was built with this suite.
pub(crate) fn binary() -> PathBuf {
    env::var_os("SEAWALL_BIN").map_or_else(|| env!("CARGO_BIN_EXE_seawall").into(), PathBuf::from)
}

/// The targets of one module's scripts, which run one after the other on the same servers.
pub(crate) struct Arena {
    pub(crate) targets: Vec<Target>,
    /// What comes before all keys that begin with a slash.
    below: &'static str,
    differences: RefCell<Vec<String>>,
}

impl Arena {
    /// etcd, Seawall in front of one cluster, and in front of two.
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// With these flags of etcd.
    pub(crate) async fn start_with(extra: &[&str]) -> Result<Self> {
        let (etcd, seawall, routed) =
            tokio::try_join!(Target::etcd(extra), Target::seawall(extra), Target::routed(extra))?;
        Ok(Self::of(vec![etcd, seawall, routed]))
    }

    pub(crate) fn of(targets: Vec<Target>) -> Self {
        Self { targets, below: "", differences: RefCell::default() }
    }

    /// etcd, and Seawall in front of one cluster, whose keys all lie in a collection that it holds.
    pub(crate) async fn mirrored() -> Result<Self> {
        let (etcd, seawall) = tokio::try_join!(Target::etcd(&[]), Target::seawall(&[]))?;
        let arena = Self { below: COLLECTION, ..Self::of(vec![etcd, seawall]) };
        arena.check("the first key", async |t| t.ok("KV/Put", "key: '/'").await.map(drop)).await;
        eventually(client::DEADLINE, "lists to be answered from memory", async || {
            let list = format!("key: '{COLLECTION}/' range_end: '{COLLECTION}0'");
            let session =
                Session { target: &arena.targets[1], below: "", transcript: Rc::default() };
            session.quietly("KV/Range", &list).await?;
            ensure!(arena.metric("seawall_mirror_answers_total").await? > 0.0, "none was");
            Ok(())
        })
        .await?;
        Ok(arena)
    }

    /// Of Seawall before one cluster.
    pub(crate) async fn metric(&self, name: &str) -> Result<f64> {
        let seawall = self.targets[1].seawall.as_ref().context("no Seawall")?;
        operator::metric(seawall.admin()?, name).await
    }

    /// Plays `script` at every target and compares all that it saw with what it saw at the first.
    pub(crate) async fn check(&self, name: &str, script: impl AsyncFn(&Session<'_>) -> Result<()>) {
        self.play(name, &self.targets.iter().collect::<Vec<_>>(), script).await;
    }

    /// The same where one cluster holds all keys. What several clusters make of it is their own,
    /// and their revisions are others after that.
    pub(crate) async fn check_single(
        &self,
        name: &str,
        script: impl AsyncFn(&Session<'_>) -> Result<()>,
    ) {
        let single = self.targets.iter().filter(|target| target.clusters.len() == 1);
        self.play(name, &single.collect::<Vec<_>>(), script).await;
    }

    async fn play(
        &self,
        name: &str,
        targets: &[&Target],
        script: impl AsyncFn(&Session<'_>) -> Result<()>,
    ) {
        let played = join_all(targets.iter().map(async |target| {
            let session = Session { target, below: self.below, transcript: Rc::default() };
            if let Err(error) = script(&session).await {
                session.note("the script failed", &format!("{error:#}"));
            }
            session.transcript.take()
        }));
        let transcripts = played.await;
        let mut differences = self.differences.borrow_mut();
        let (etcd, others) = transcripts.split_first().expect("there is a target");
        if let Some(failed) = etcd.iter().find(|entry| entry.what == "the script failed") {
            differences.push(format!("{name}, {}: {failed}", targets[0].name));
        }
        for (target, transcript) in targets[1..].iter().zip(others) {
            compare(&format!("{name}, {}", target.name), etcd, transcript, &mut differences);
        }
    }

    /// # Errors
    ///
    /// With every difference that there was.
    pub(crate) fn verdict(self) -> Result<()> {
        let differences = self.differences.into_inner();
        ensure!(differences.is_empty(), "answers differ\n\n{}", differences.join("\n\n"));
        Ok(())
    }
}

/// A difference makes others after it: the first few tell enough.
const TOLD: usize = 3;

fn compare(name: &str, expected: &[Entry], got: &[Entry], differences: &mut Vec<String>) {
    let unequal = expected.iter().zip(got).filter(|(expected, got)| expected != got);
    for (expected, got) in unequal.take(TOLD) {
        let told = format!("{name}:\n  expected {expected}\n  got      {got}");
        differences.push(told);
    }
    let longer = if got.len() > expected.len() { got } else { expected };
    if let Some(first) = longer.get(got.len().min(expected.len())) {
        let (got, expected) = (got.len(), expected.len());
        differences
            .push(format!("{name}: {got} steps, expected {expected}; without equal: {first}"));
    }
}

/// One step of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    what: String,
    seen: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.seen)
    }
}

type Transcript = Rc<RefCell<Vec<Entry>>>;

/// A script's run at one target.
pub(crate) struct Session<'t> {
    pub(crate) target: &'t Target,
    below: &'static str,
    transcript: Transcript,
}

impl Session<'_> {
    /// The bytes of a request.
    fn encode(&self, method: &MethodDescriptor, request: &str) -> Result<Bytes> {
        encode(method, self.below, request)
    }

    /// Calls a method, `KV/Range` for instance, with a request in text, and notes the whole answer.
    pub(crate) async fn call(&self, method: &str, request: &str) -> Result<Reply> {
        self.call_with(method, &[], request).await
    }

    pub(crate) async fn call_with(
        &self,
        method: &str,
        metadata: &[(&str, &str)],
        request: &str,
    ) -> Result<Reply> {
        let what = format!("{method} {{{}}} {metadata:?}", abridged(request));
        self.call_named(what, method, metadata, request).await
    }

    /// Calls with a token, which is another one each time.
    pub(crate) async fn call_as(
        &self,
        method: &str,
        token: &[(&str, &str)],
        request: &str,
    ) -> Result<Reply> {
        let what = format!("{method} {{{}}}", abridged(request));
        self.call_named(what, method, token, request).await
    }

    async fn call_named(
        &self,
        what: String,
        method: &str,
        metadata: &[(&str, &str)],
        request: &str,
    ) -> Result<Reply> {
        let known = schema::method(method)?;
        let message = self.encode(&known, request)?;
        let path = schema::path(&known);
        let reply = self.target.client.unary(&path, metadata, &message).await;
        let reply = reply.with_context(|| what.clone())?;
        self.note(&what, &describe(&known, &reply)?);
        Ok(reply)
    }

    /// Calls, and fails the script unless the answer is OK.
    pub(crate) async fn ok(&self, method: &str, request: &str) -> Result<Bytes> {
        let mut reply = self.call(method, request).await?;
        match (&reply.status, reply.messages.pop()) {
            (Status::Grpc { code: tonic::Code::Ok, .. }, Some(message)) => Ok(message),
            (status, _) => bail!("{method} {{{}}}: {status:?}", abridged(request)),
        }
    }

    /// Calls without a note, for what is not the same each time.
    pub(crate) async fn quietly(&self, method: &str, request: &str) -> Result<Bytes> {
        let known = schema::method(method)?;
        let message = self.encode(&known, request)?;
        let mut reply = self.target.client.unary(&schema::path(&known), &[], &message).await?;
        let message = reply.messages.pop();
        message.with_context(|| format!("{method} {{{}}}: {}", abridged(request), reply.status))
    }

    /// Opens a call of which both sides stay open.
    pub(crate) async fn open(&self, method: &str) -> Result<Stream> {
        self.open_with(method, &[]).await
    }

    pub(crate) async fn open_with(
        &self,
        method: &str,
        metadata: &[(&str, &str)],
    ) -> Result<Stream> {
        let known = schema::method(method)?;
        let call = self.target.client.call(&schema::path(&known), metadata).await?;
        let (below, transcript) = (self.below, self.transcript.clone());
        Ok(Stream { method: known, call, below, transcript })
    }

    /// Makes a fact a part of the comparison.
    pub(crate) fn note(&self, what: &str, seen: &str) {
        note(&self.transcript, what, seen);
    }

    /// The version line of etcd.
    pub(crate) fn version(&self) -> (u32, u32) {
        self.target.clusters[0].binaries().version()
    }
}

/// The version line under test, for scripts that not every version can play.
pub(crate) fn version() -> Result<(u32, u32)> {
    Ok(Binaries::selected()?.version())
}

fn encode(method: &MethodDescriptor, below: &str, request: &str) -> Result<Bytes> {
    schema::encode(method.input(), &request.replace("'/", &format!("'{below}/")))
}

fn note(transcript: &Transcript, what: &str, seen: &str) {
    transcript.borrow_mut().push(Entry { what: what.into(), seen: seen.into() });
}

/// A call that is open, such as a watch.
pub(crate) struct Stream {
    method: MethodDescriptor,
    call: Call,
    below: &'static str,
    transcript: Transcript,
}

impl Stream {
    pub(crate) fn send(&mut self, request: &str) -> Result<()> {
        note(&self.transcript, "send", request);
        self.call.send(&encode(&self.method, self.below, request)?)
    }

    pub(crate) fn send_bytes(&mut self, message: &[u8]) -> Result<()> {
        self.call.send(message)
    }

    pub(crate) fn close(&mut self) -> Result<()> {
        self.call.close()
    }

    /// Takes the next message and notes it.
    pub(crate) async fn next(&mut self) -> Result<Bytes> {
        let message = self.message().await?;
        note(&self.transcript, "message", &schema::show(self.method.output(), &message)?);
        Ok(message)
    }

    /// Takes the next message without a note.
    pub(crate) async fn message(&mut self) -> Result<Bytes> {
        match self.call.message().await? {
            Some(message) => Ok(message),
            None => bail!("the stream has ended: {:?}", self.call.status().await?),
        }
    }

    /// Takes messages whose order is nobody's promise, and notes them in one of their own.
    pub(crate) async fn next_in_any_order(&mut self, count: usize) -> Result<Vec<Bytes>> {
        let mut taken = Vec::new();
        for _ in 0..count {
            let message = self.message().await?;
            taken.push((schema::show(self.method.output(), &message)?, message));
        }
        taken.sort();
        for (shown, _) in &taken {
            note(&self.transcript, "message", shown);
        }
        Ok(taken.into_iter().map(|(_, message)| message).collect())
    }

    /// Takes all that is left and notes with which code it ended. Words about malformed bytes are
    /// those of a decoder, and differ from one to the next.
    pub(crate) async fn end(self) -> Result<()> {
        let reply = self.call.rest().await?;
        note(&self.transcript, "ended", &format!("{:?}", reply.status.code()));
        Ok(())
    }

    /// Takes all that is left without a note.
    pub(crate) async fn quiet_rest(self) -> Result<Reply> {
        self.call.rest().await
    }

    /// Takes all that is left and notes it.
    pub(crate) async fn rest(self) -> Result<Reply> {
        let reply = self.call.rest().await?;
        note(&self.transcript, "the rest", &describe(&self.method, &reply)?);
        Ok(reply)
    }
}

fn describe(method: &MethodDescriptor, reply: &Reply) -> Result<String> {
    let messages = reply.messages.iter().map(|message| schema::show(method.output(), message));
    let messages = messages.collect::<Result<Vec<_>>>()?;
    Ok(format!("{} {messages:?} {}", head(&reply.head), reply.status))
}

/// What the answer's head says, without what gRPC lets a server choose.
pub(crate) fn head(head: &Head) -> String {
    let kind =
        head.headers.get("content-type").map(|kind| String::from_utf8_lossy(kind.as_bytes()));
    format!("{} {}", head.status.as_u16(), kind.unwrap_or_default())
}

/// Enough of a request to know it again.
pub(crate) fn abridged(text: &str) -> String {
    if text.len() <= 400 { text.into() } else { format!("{:.400}... of {}", text, text.len()) }
}
