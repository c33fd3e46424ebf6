//! The floor: what is left of a hop that does nothing. It asks etcd for each list once, and from then
//! on sends the same bytes from memory, however old they are, by the same HTTP/2 as Seawall and over
//! as many threads. No proxy that is built like that can take less.

use crate::client::grpc;
use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream, client, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use parking_lot::Mutex;
use seawall_testkit::Program;
use std::{collections::HashMap, env, net::SocketAddr, sync::Arc};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
};

/// Threads that answer, as many as the cores of a small machine.
const THREADS: usize = 2;

/// Of both sides, so that bytes and not windows are what takes time.
const WINDOW: u32 = 1 << 24;

/// Bytes that are handed to the connection at once.
const CHUNK: usize = 64 << 10;

/// This program, as the floor.
pub(super) fn program(address: SocketAddr, upstream: SocketAddr) -> Result<Program> {
    let args = ["floor".into(), address.to_string().into(), upstream.to_string().into()];
    Ok(Program { path: env::current_exe()?, args: args.into(), env: Vec::new() })
}

/// Answers at `address` until it is killed.
///
/// # Errors
///
/// When it cannot listen there.
pub(crate) fn run(address: SocketAddr, upstream: SocketAddr) -> Result<()> {
    let runtime =
        runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    runtime.block_on(async move {
        let socket = TcpListener::bind(address).await.context("listening")?;
        let floor = Arc::new(Floor { upstream, answers: Mutex::default() });
        loop {
            let (stream, _) = socket.accept().await.context("accepting")?;
            tokio::spawn(Arc::clone(&floor).serve(stream));
        }
    })
}

struct Floor {
    upstream: SocketAddr,
    /// By path and framed request.
    answers: Mutex<HashMap<(String, Bytes), Bytes>>,
}

impl Floor {
    /// A connection that breaks is the client's to notice.
    async fn serve(self: Arc<Self>, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut builder = server::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let mut connection = builder.handshake::<_, Bytes>(stream).await?;
        while let Some(request) = connection.accept().await {
            let (request, respond) = request?;
            tokio::spawn(Arc::clone(&self).answer(request, respond));
        }
        Ok(())
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<RecvStream>,
        mut respond: server::SendResponse<Bytes>,
    ) -> Result<()> {
        let path = request.uri().path().to_owned();
        let asked = collected(request.into_body()).await?;
        let known = self.answers.lock().get(&(path.clone(), asked.clone())).cloned();
        let answer = match known {
            Some(answer) => answer,
            None => {
                let answer = self.ask(&path, asked.clone()).await?;
                self.answers.lock().insert((path, asked), answer.clone());
                answer
            }
        };
        let head = Response::builder().header("content-type", grpc::CONTENT_TYPE).body(())?;
        send(respond.send_response(head, false)?, answer).await
    }

    /// The framed answer of etcd's.
    async fn ask(&self, path: &str, asked: Bytes) -> Result<Bytes> {
        let stream = TcpStream::connect(self.upstream).await?;
        let mut builder = client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (requests, connection) = builder.handshake(stream).await?;
        tokio::spawn(connection);
        let request = Request::post(format!("http://{}{path}", self.upstream))
            .header("content-type", grpc::CONTENT_TYPE)
            .header("te", "trailers")
            .body(())?;
        let (response, mut body) = requests.ready().await?.send_request(request, false)?;
        body.send_data(asked, true)?;
        collected(response.await?.into_body()).await
    }
}

async fn collected(mut body: RecvStream) -> Result<Bytes> {
    let mut all = BytesMut::new();
    while let Some(piece) = body.data().await.transpose()? {
        body.flow_control().release_capacity(piece.len())?;
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

/// No faster than the client takes it.
async fn send(mut stream: SendStream<Bytes>, mut left: Bytes) -> Result<()> {
    while !left.is_empty() {
        stream.reserve_capacity(left.len().min(CHUNK));
        let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let granted = granted.context("the client has left")??;
        stream.send_data(left.split_to(granted.min(left.len())), false)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    Ok(stream.send_trailers(trailers)?)
}
