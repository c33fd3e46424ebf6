//! What stands between a load and etcd, held against what etcd itself says.

mod coalescing;
mod crowd;
mod deletes;
mod exactness;
mod guards;
mod identities;
mod leaving;
mod limits;
mod merging;
mod overload;
mod paging;
mod rules;
mod scripted;
mod streams;
mod turns;

// Each of the test programs that share them uses a part.
#[allow(dead_code)]
#[path = "../conformance/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "../failover/operator.rs"]
mod operator;
#[allow(dead_code)]
#[path = "../abuse/raw.rs"]
mod raw;

use anyhow::{Context, Result, bail, ensure};
use client::{Client, Status};
use prost::Message;
use seawall::etcd::{
    method::Method,
    proto::etcdserverpb::{
        CompactionRequest, CompactionResponse, Compare, DeleteRangeRequest, DeleteRangeResponse,
        PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
    },
};
use seawall_testkit::{Cluster, SeawallProcess, eventually};
use std::{
    env,
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use tokio::net::TcpSocket;
use tonic::Code;

/// One etcd behind one Seawall.
struct Stage {
    etcd: Cluster,
    seawall: SeawallProcess,
    config: PathBuf,
}

impl Stage {
    /// `protection` is the YAML below that key.
    async fn start(protection: &str) -> Result<Self> {
        Self::of(Cluster::single().await?, protection).await
    }

    async fn of(etcd: Cluster, protection: &str) -> Result<Self> {
        let endpoints = etcd.endpoints();
        Self::at(etcd, &endpoints, protection).await
    }

    /// Where etcd is reached at other addresses than its own.
    async fn at(etcd: Cluster, endpoints: &[String], protection: &str) -> Result<Self> {
        let config = etcd.dir().join("seawall.yaml");
        fs::write(&config, text(endpoints, protection))?;
        let seawall = seawall(&config).await?;
        Ok(Self { etcd, seawall, config })
    }

    /// Another one before the same etcd, which has learnt nothing yet.
    async fn another(&self) -> Result<SeawallProcess> {
        seawall(&self.config).await
    }

    /// Changes the configuration and waits until it is taken over.
    async fn reload(&self, protection: &str) -> Result<()> {
        let before = self.reloads();
        fs::write(&self.config, text(&self.etcd.endpoints(), protection))?;
        self.seawall.reload()?;
        eventually(client::DEADLINE, "a reload", async || {
            ensure!(self.reloads() > before, "seawall logged {:?}", self.seawall.log().last());
            Ok(())
        })
        .await
    }

    fn reloads(&self) -> usize {
        let log = self.seawall.log();
        log.iter().filter(|line| line.message() == "configuration reloaded").count()
    }

    async fn through(&self) -> Result<Kv> {
        Kv::connect(self.seawall.address("main")?).await
    }

    async fn direct(&self) -> Result<Kv> {
        Kv::connect(self.etcd.member(0).address()).await
    }
}

async fn seawall(config: &Path) -> Result<SeawallProcess> {
    seawall_with(["--config".as_ref(), config.as_os_str()]).await
}

async fn seawall_with(
    args: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<SeawallProcess> {
    let binary = env::var_os("SEAWALL_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_seawall").into(), PathBuf::from);
    SeawallProcess::builder().binary(binary).args(args).start().await
}

fn text(endpoints: &[String], protection: &str) -> String {
    let indented: String = protection.lines().map(|line| format!("  {line}\n")).collect();
    let endpoints = endpoints.join(", ");
    // So that it is never empty.
    let mode = if protection.starts_with("mode:") { "" } else { "  mode: enforce\n" };
    // What is answered from memory needs no protection.
    let clusters =
        format!("clusters: {{main: {{endpoints: [{endpoints}]}}}}\nmirror: {{mode: off}}\n");
    format!("{clusters}protection:\n{mode}{indented}")
}

/// A client of etcd's that shows what came back.
struct Kv {
    client: Client,
    metadata: Vec<(String, String)>,
}

/// What etcd or Seawall says instead of an answer.
#[derive(Debug)]
struct Refused {
    code: Code,
    text: String,
}

type Answer<T> = Result<T, Refused>;

impl Kv {
    async fn connect(address: SocketAddr) -> Result<Self> {
        Ok(Self { client: Client::connect(address).await?, metadata: Vec::new() })
    }

    async fn connect_from(source: [u8; 4], address: SocketAddr) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        let client = Client::on(socket.connect(address).await?, client::WINDOW).await?;
        Ok(Self { client, metadata: Vec::new() })
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.metadata.push((name.into(), value.into()));
        self
    }

    async fn ask<T: Message + Default>(
        &self,
        method: Method,
        request: &impl Message,
    ) -> Result<Answer<T>> {
        let metadata: Vec<_> = self.metadata.iter().map(|(k, v)| (&k[..], &v[..])).collect();
        let reply = self.client.unary(method.path(), &metadata, &request.encode_to_vec()).await?;
        match reply.status {
            Status::Grpc { code: Code::Ok, .. } => {
                let message = reply.messages.first().context("no message")?;
                Ok(Ok(T::decode(message.clone())?))
            }
            Status::Grpc { code, message, .. } => Ok(Err(Refused { code, text: message })),
            Status::Reset(reason) => bail!("reset: {reason}"),
        }
    }

    async fn range(&self, request: &RangeRequest) -> Result<Answer<RangeResponse>> {
        self.ask(Method::Range, request).await
    }

    async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<Answer<PutResponse>> {
        let (key, value) = (key.to_owned().into(), value.into().into());
        self.ask(Method::Put, &PutRequest { key, value, ..PutRequest::default() }).await
    }

    /// As Kubernetes creates an object.
    async fn create(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<Answer<TxnResponse>> {
        self.ask(Method::Txn, &put_if(key, 0, value.into())).await
    }

    async fn delete(&self, key: &str, range_end: &str) -> Result<Answer<DeleteRangeResponse>> {
        self.ask(Method::DeleteRange, &delete(key, range_end)).await
    }

    async fn compact(&self, revision: i64) -> Result<()> {
        let request = CompactionRequest { revision, physical: true };
        let compacted: Answer<CompactionResponse> = self.ask(Method::Compact, &request).await?;
        compacted.ok().context("not compacted").map(drop)
    }

    async fn revision(&self) -> Result<i64> {
        let request = RangeRequest { key: "\0".into(), ..RangeRequest::default() };
        let answer = self.range(&request).await?.ok().context("no revision")?;
        Ok(answer.header.context("no header")?.revision)
    }
}

fn delete(key: &str, range_end: &str) -> DeleteRangeRequest {
    let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
    DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() }
}

/// Puts a key if it was last changed at `revision`.
fn put_if(key: &str, revision: i64, value: Vec<u8>) -> TxnRequest {
    let key = bytes::Bytes::from(key.to_owned());
    let compare = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Compare::default()
    };
    let put = PutRequest { key, value: value.into(), ..PutRequest::default() };
    TxnRequest {
        compare: vec![compare],
        success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
        ..TxnRequest::default()
    }
}

fn list(prefix: &str) -> RangeRequest {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix") += 1;
    RangeRequest { key: prefix.to_owned().into(), range_end: end.into(), ..RangeRequest::default() }
}
