//! A gRPC client that costs little: HTTP/2 streams with hand-made framing, one thread.
//!
//! It shares two cores with etcd and with the hop that is measured, so what it spends, they lack.

mod dial;
pub(crate) mod etcd;
pub(crate) mod grpc;
mod scan;
#[cfg(test)]
pub(crate) mod scripted;
mod stream;

pub(crate) use dial::{Certificates, Channel, Dial};
pub(crate) use grpc::{Answer, Decoded, frame};
pub(crate) use scan::{Listed, RangeScan};
pub(crate) use stream::Stream;

use anyhow::{Context, Result};
use bytes::Bytes;
use etcd::Method;
use grpc::Deframer;
use h2::client::{Builder, SendRequest};
use http::{
    HeaderMap, HeaderValue, Request, StatusCode, header,
    uri::{Authority, Scheme},
};
use prost::Message;
use std::sync::Arc;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
};

/// One HTTP/2 connection, which any number of calls share.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Bytes>,
    scheme: Scheme,
    authority: Authority,
    /// Drives the connection until the last clone is gone.
    driver: Arc<Driver>,
}

/// Large enough that it is never the client who holds a list back.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

impl Connection {
    pub(crate) async fn over(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        scheme: Scheme,
        authority: Authority,
    ) -> Result<Self> {
        let (sender, connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .enable_push(false)
            .handshake(io)
            .await
            .with_context(|| format!("beginning HTTP/2 with {authority}"))?;
        let driver = tokio::spawn(async move {
            // Whoever has a call open sees the error there.
            connection.await.ok();
        });
        Ok(Self { sender, scheme, authority, driver: Arc::new(Driver(driver)) })
    }

    /// Whether both are the same connection.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.driver, &other.driver)
    }

    /// Breaks it for all who share it.
    pub(crate) fn cut(&self) {
        self.driver.0.abort();
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
        uri.scheme = Some(self.scheme.clone());
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = Some(http::uri::PathAndQuery::from_static(method));
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri.try_into().expect("all three parts are there");
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(grpc::CONTENT_TYPE));
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
    #[error("{}", status_name(*.0))]
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

/// As gRPC's own documents call it.
fn status_name(code: u32) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let name = usize::try_from(code).ok().and_then(|code| NAMES.get(code));
    name.map_or_else(|| format!("gRPC status {code}"), |name| (*name).to_owned())
}

impl Failure {
    /// Whether it is an answer that etcd never gives, rather than none or a refusal.
    pub(crate) fn is_violation(&self) -> bool {
        matches!(self, Self::Wrong(_) | Self::Stale(_))
    }

    /// Whether nothing more can be asked on the connection.
    pub(crate) fn is_loss(&self) -> bool {
        matches!(self, Self::Lost(_))
    }

    /// Whether a write that failed so may have happened all the same.
    pub(crate) fn leaves_in_doubt(&self) -> bool {
        const REFUSED: [u32; 5] = [3, 7, 8, 12, 16];
        !matches!(self, Self::Status(code) if REFUSED.contains(code))
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
