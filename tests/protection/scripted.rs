//! A server that says what an etcd rarely can be brought to say.

use anyhow::Result;
use bytes::Bytes;
use h2::{
    RecvStream,
    server::{self, SendResponse},
};
use http::Request;
use seawall::{
    etcd::{
        method::Method,
        proto::etcdserverpb::{RangeResponse, ResponseHeader, StatusResponse},
    },
    grpc,
};
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};
use tonic::{Code, Status};

/// Starts an etcd that is well but for its writes, which it answers with this. It ends with the
/// test's runtime.
pub(crate) async fn refusing_writes(code: Code, text: &'static str) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Status::new(code, text)));
        }
    });
    Ok(address)
}

async fn serve(stream: TcpStream, refusal: Status) -> Result<()> {
    let mut connection = server::handshake(stream).await?;
    while let Some(call) = connection.accept().await {
        let (request, mut respond) = call?;
        match answer(&request) {
            Some(message) => send(respond, message)?,
            None => drop(respond.send_response(grpc::trailers_only(&refusal), true)?),
        }
    }
    Ok(())
}

fn answer(request: &Request<RecvStream>) -> Option<Bytes> {
    let header =
        Some(ResponseHeader { cluster_id: 1, member_id: 1, revision: 1, ..Default::default() });
    let path = request.uri().path();
    if path == Method::Range.path() {
        return Some(grpc::encode(&RangeResponse { header, ..Default::default() }));
    }
    let version = "3.6.0".to_owned();
    let status = StatusResponse { header, version, leader: 1, ..Default::default() };
    (path == Method::Status.path()).then(|| grpc::encode(&status))
}

fn send(mut respond: SendResponse<Bytes>, message: Bytes) -> Result<()> {
    let mut body = respond.send_response(grpc::head(), false)?;
    body.send_data(message, false)?;
    Ok(body.send_trailers(grpc::trailers(&Status::ok("")))?)
}
