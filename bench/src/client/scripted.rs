//! A server that does as the test says, on a connection in memory: with the clock paused, its
//! latencies are exact.

use super::{
    Connection,
    etcd::{PutResponse, ResponseHeader},
    grpc,
};
use bytes::Bytes;
use h2::server::{self, SendResponse};
use http::{
    HeaderMap, Response,
    uri::{Authority, Scheme},
};
use std::{sync::Arc, time::Duration};
use tokio::{io::DuplexStream, time::sleep};

/// What it does with a call, after `latency`.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) latency: Duration,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// A PutResponse at this revision.
    Revision(i64),
    /// These bytes as the body.
    Body(Bytes),
    Status(u32),
    Reset,
    Silence,
    HangUp,
}

/// Answers the n-th call of the connection, counted from 0, with `script(n)`.
pub(crate) async fn connect(script: impl Fn(u64) -> Reply + Send + Sync + 'static) -> Connection {
    let (client, server) = tokio::io::duplex(1 << 20);
    tokio::spawn(serve(server, Arc::new(script)));
    let authority = Authority::from_static("127.0.0.1:2379");
    let connection = Connection::over(client, Scheme::HTTP, authority).await;
    connection.expect("the scripted server shakes hands")
}

async fn serve(io: DuplexStream, script: Arc<impl Fn(u64) -> Reply + Send + Sync + 'static>) {
    let mut connection = server::handshake(io).await.expect("the client shakes hands");
    let (hang_up, mut hung_up) = tokio::sync::mpsc::channel::<()>(1);
    let mut calls = 0;
    loop {
        let (_, mut respond) = tokio::select! {
            Some(Ok(call)) = connection.accept() => call,
            _ = hung_up.recv() => return,
            else => return,
        };
        let (reply, hang_up) = (script(calls), hang_up.clone());
        calls += 1;
        tokio::spawn(async move {
            sleep(reply.latency).await;
            match reply.outcome {
                Outcome::Revision(revision) => {
                    let header = Some(ResponseHeader { revision });
                    answer(&mut respond, grpc::frame(&PutResponse { header }));
                }
                Outcome::Body(body) => answer(&mut respond, body),
                Outcome::Status(code) => {
                    let head = Response::builder().header("grpc-status", code).body(());
                    let head = head.expect("the head is well-formed");
                    respond.send_response(head, true).expect("the call is open");
                }
                Outcome::Reset => respond.send_reset(h2::Reason::CANCEL),
                Outcome::Silence => std::future::pending().await,
                Outcome::HangUp => {
                    hang_up.send(()).await.expect("the connection is open");
                    // Dropping the call would reset it while the connection still stands.
                    std::future::pending().await
                }
            }
        });
    }
}

fn answer(respond: &mut SendResponse<Bytes>, body: Bytes) {
    let mut stream = respond.send_response(Response::new(()), false).expect("the call is open");
    stream.send_data(body, false).expect("the call is open");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("it is a value"));
    stream.send_trailers(trailers).expect("the call is open");
}
