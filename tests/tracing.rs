//! Traces of calls, as a collector gets them and as etcd does.

use anyhow::{Context, Result, ensure};
use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, server};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    trace::v1::Span,
};
use parking_lot::Mutex;
use prost::Message;
use seawall::{
    etcd::{
        method::Method,
        proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader, StatusResponse},
    },
    grpc,
};
use seawall_testkit::{SeawallProcess, eventually};
use std::{env, fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tonic::Status;

#[allow(dead_code)] // Each of the test programs that share it uses a part.
#[path = "conformance/client.rs"]
mod client;

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

const DEADLINE: Duration = Duration::from_secs(60);

/// The key that is asked for; Seawall itself asks for others.
const KEY: &str = "/registry/secrets/kube-system/canary7f3a";

/// A server that is an etcd and a collector, and remembers what it was told.
#[derive(Debug, Clone, Default)]
struct Scripted {
    spans: Arc<Mutex<Vec<Span>>>,
    /// Of each read of the key.
    parents: Arc<Mutex<Vec<Option<String>>>>,
}

impl Scripted {
    async fn start(&self) -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let this = self.clone();
        // Ends with the test's runtime.
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(this.clone().serve(stream));
            }
        });
        Ok(address)
    }

    async fn serve(self, stream: TcpStream) -> Result<()> {
        let mut connection = server::handshake(stream).await?;
        while let Some(call) = connection.accept().await {
            let (request, mut respond) = call?;
            let this = self.clone();
            // The connection goes on meanwhile.
            tokio::spawn(async move {
                let answer = this.answer(request).await?;
                let mut body = respond.send_response(grpc::head(), false)?;
                body.send_data(answer, false)?;
                anyhow::Ok(body.send_trailers(grpc::trailers(&Status::ok("")))?)
            });
        }
        Ok(())
    }

    async fn answer(&self, request: http::Request<RecvStream>) -> Result<Bytes> {
        let (head, body) = request.into_parts();
        let header =
            Some(ResponseHeader { cluster_id: 1, member_id: 1, revision: 1, ..Default::default() });
        if head.uri.path() == EXPORT {
            let export = ExportTraceServiceRequest::decode(message(body).await?)?;
            let scopes = export.resource_spans.into_iter().flat_map(|it| it.scope_spans);
            self.spans.lock().extend(scopes.flat_map(|it| it.spans));
            return Ok(grpc::encode(&ExportTraceServiceResponse::default()));
        }
        if head.uri.path() == Method::Range.path() {
            let range = RangeRequest::decode(message(body).await?)?;
            if range.key == KEY {
                let parent = head.headers.get("traceparent");
                let parent = parent.map(|it| it.to_str().map(str::to_owned)).transpose()?;
                self.parents.lock().push(parent);
            }
            return Ok(grpc::encode(&RangeResponse { header, ..Default::default() }));
        }
        let version = "3.6.0".to_owned();
        Ok(grpc::encode(&StatusResponse { header, version, leader: 1, ..Default::default() }))
    }
}

/// The one message of a request.
async fn message(mut body: RecvStream) -> Result<Bytes> {
    let mut received = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        received.extend_from_slice(&piece);
    }
    received.advance(grpc::PREFIX_LEN);
    Ok(received.freeze())
}

async fn seawall(etcd: SocketAddr, name: &str, rest: &str) -> Result<SeawallProcess> {
    let config = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let text =
        format!("clusters: {{main: {{endpoints: ['http://{etcd}']}}}}\nmirror: {{mode: off}}\n");
    fs::write(&config, format!("{text}{rest}"))?;
    let binary = env::var_os("SEAWALL_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_seawall").into(), PathBuf::from);
    let builder = SeawallProcess::builder().binary(binary);
    builder.args(["--config".as_ref(), config.as_os_str()]).start().await
}

/// Reads the key in this context.
async fn read(seawall: &SeawallProcess, parent: &str) -> Result<()> {
    let client = client::Client::connect(seawall.address("main")?).await?;
    let request = RangeRequest { key: KEY.into(), ..RangeRequest::default() }.encode_to_vec();
    let reply = client.unary(Method::Range.path(), &[("traceparent", parent)], &request).await?;
    ensure!(reply.status.code() == Some(tonic::Code::Ok), "{}", reply.status);
    Ok(())
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn context(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_traced_call_is_part_of_its_clients_trace_and_etcds_of_it() -> Result<()> {
    let scripted = Scripted::default();
    let address = scripted.start().await?;
    let tracing = format!("tracing: {{endpoint: 'http://{address}', sample_one_in: 4294967295}}\n");
    let seawall = seawall(address, "traced.yaml", &tracing).await?;
    read(&seawall, &context("01")).await?;
    // Not traced by its client, and hardly by chance.
    read(&seawall, &context("00")).await?;
    seawall.terminate()?;
    ensure!(seawall.wait(DEADLINE).await?.success());

    // What is left is exported at the end.
    let span = eventually(DEADLINE, "a span", async || {
        let spans = scripted.spans.lock();
        ensure!(spans.len() == 1, "{spans:?}");
        Ok(spans[0].clone())
    })
    .await?;
    ensure!(span.name == "etcdserverpb.KV/Range", "{span:?}");
    ensure!((hex(&span.trace_id), hex(&span.parent_span_id)) == (TRACE.into(), PARENT.into()));
    let text = format!("{:?}", span.attributes);
    for expected in ["point_read", "rpc.grpc.status_code", "/registry/secrets", "127.0.0.1", "main"]
    {
        ensure!(text.contains(expected), "no {expected} in {text}");
    }
    ensure!(!text.contains("canary7f3a"), "a key is in {text}");
    let parents = scripted.parents.lock();
    let expected = [Some(format!("00-{TRACE}-{}-01", hex(&span.span_id))), Some(context("00"))];
    ensure!(parents[..] == expected, "{parents:?}");
    Ok(())
}

#[tokio::test]
async fn without_tracing_the_context_goes_through() -> Result<()> {
    let scripted = Scripted::default();
    let seawall = seawall(scripted.start().await?, "untraced.yaml", "").await?;
    read(&seawall, &context("01")).await?;
    let parents = scripted.parents.lock().clone();
    ensure!(parents == [Some(context("01"))], "{parents:?}");
    Ok(())
}

/// A collector that is not there is the log's matter alone.
#[tokio::test]
async fn calls_do_not_notice_that_the_collector_is_gone() -> Result<()> {
    let scripted = Scripted::default();
    let address = scripted.start().await?;
    let gone = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let tracing = format!("tracing: {{endpoint: 'http://{gone}', sample_one_in: 1}}\n");
    let seawall = seawall(address, "gone.yaml", &tracing).await?;
    for _ in 0..100 {
        read(&seawall, &context("01")).await.context("a call fails")?;
    }
    seawall.terminate()?;
    ensure!(seawall.wait(DEADLINE).await?.success());
    Ok(())
}
