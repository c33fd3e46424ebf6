//! A gRPC client that costs little: HTTP/2 streams with hand-made framing, one thread.
//!
//! It shares two cores with etcd and with the hop that is measured, so what it spends, they lack.

pub(crate) mod etcd;
mod grpc;
mod scan;
#[cfg(test)]
pub(crate) mod scripted;

#[cfg(test)]
pub(crate) use grpc::frame;
pub(crate) use grpc::{Answer, Decoded};
pub(crate) use scan::{Listed, RangeScan};

use anyhow::{Context, Result};
use bytes::Bytes;
use etcd::Method;
use grpc::Deframer;
use h2::client::{Builder, SendRequest};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header, uri::Authority};
use prost::Message;
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
};

/// One HTTP/2 connection, which any number of calls share.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Bytes>,
    authority: Authority,
    /// Drives the connection until the last clone is gone.
    _driver: Arc<Driver>,
}

/// Large enough that it is never the client who holds a list back.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Self::over(stream, address).await
    }

    pub(crate) async fn over(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        address: SocketAddr,
    ) -> Result<Self> {
        let (sender, connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .enable_push(false)
            .handshake(io)
            .await
            .with_context(|| format!("beginning HTTP/2 with {address}"))?;
        let driver = tokio::spawn(async move {
            // Whoever has a call open sees the error there.
            connection.await.ok();
        });
        let authority = address.to_string().parse()?;
        Ok(Self { sender, authority, _driver: Arc::new(Driver(driver)) })
    }

    /// Makes one unary call, and hands its answer to `A` as it arrives.
    pub(crate) async fn call<A: Answer>(
        &self,
        method: Method,
        message: &impl Message,
    ) -> Result<A::Checked, Failure> {
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut body) = sender.send_request(self.request(method), false)?;
        body.send_data(grpc::frame(message), true)?;
        let (head, mut stream) = response.await?.into_parts();
        if head.status != StatusCode::OK {
            return Err(Failure::Http(head.status.as_u16()));
        }
        // An answer without a message brings its status in the headers.
        if let Some(failure) = status(&head.headers) {
            return failure.and(Err(Failure::Wrong("no message")));
        }
        let (mut deframer, mut answer) = (Deframer::default(), A::default());
        while let Some(data) = stream.data().await {
            let data = data?;
            stream.flow_control().release_capacity(data.len())?;
            deframer.data(data, &mut answer)?;
        }
        let trailers = stream.trailers().await?.unwrap_or_default();
        status(&trailers).unwrap_or(Err(Failure::Wrong("no status")))?;
        deframer.finish()?;
        answer.finish()
    }

    /// A unary call whose answer is small enough to be decoded.
    pub(crate) async fn unary<M: Message + Default>(
        &self,
        method: Method,
        message: &impl Message,
    ) -> Result<M, Failure> {
        self.call::<Decoded<M>>(method, message).await
    }

    fn request(&self, method: Method) -> Request<()> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(http::uri::Scheme::HTTP);
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = Some(http::uri::PathAndQuery::from_static(method));
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri.try_into().expect("all three parts are there");
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        request
    }
}

/// What the headers say about the call, if they do.
fn status(headers: &HeaderMap) -> Option<Result<(), Failure>> {
    let status = headers.get("grpc-status")?;
    if status == "0" {
        return Some(Ok(()));
    }
    let code = status.to_str().ok().and_then(|code| code.parse().ok());
    Some(Err(code.map_or(Failure::Wrong("a status that is no number"), Failure::Status)))
}

#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why an operation does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("gRPC status {0}")]
    Status(u32),
    #[error("HTTP status {0}")]
    Http(u16),
    #[error("stream reset: {0}")]
    Reset(String),
    #[error("connection lost: {0}")]
    Lost(String),
    #[error("no answer in time")]
    Timeout,
    #[error("wrong answer: {0}")]
    Wrong(&'static str),
    /// Not of the state of the store that was acknowledged before it was asked for.
    #[error("stale answer: {0}")]
    Stale(&'static str),
}

impl Failure {
    /// Whether it is an answer that etcd never gives, rather than none or a refusal.
    pub(crate) fn is_violation(&self) -> bool {
        matches!(self, Self::Wrong(_) | Self::Stale(_))
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() => Self::Reset(reason.description().to_owned()),
            _ => Self::Lost(error.to_string()),
        }
    }
}
