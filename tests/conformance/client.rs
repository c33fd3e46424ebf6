//! A gRPC client that hides nothing: it sends the bytes it is given and shows all that came back.

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{self, ResponseFuture, SendRequest},
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use rustls::pki_types::ServerName;
use std::{fmt, future::Future, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};

/// Generous, for machines that build something else at the same time.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// So that no window ends before an answer does.
pub(crate) const WINDOW: u32 = 1 << 30;

/// One HTTP/2 connection, driven until this value goes.
pub(crate) struct Client {
    requests: SendRequest<Bytes>,
    scheme: &'static str,
    driver: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        Self::connect_within(address, WINDOW).await
    }

    /// One that takes this many bytes before somebody reads them.
    pub(crate) async fn connect_within(address: SocketAddr, window: u32) -> Result<Self> {
        Self::on(TcpStream::connect(address).await?, window).await
    }

    pub(crate) async fn on(stream: TcpStream, window: u32) -> Result<Self> {
        stream.set_nodelay(true)?;
        Self::over(stream, "http", window).await
    }

    pub(crate) async fn connect_tls(
        address: SocketAddr,
        mut config: rustls::ClientConfig,
    ) -> Result<Self> {
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(address).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::from(address.ip());
        Self::over(connector.connect(name, stream).await?, "https", WINDOW).await
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        scheme: &'static str,
        window: u32,
    ) -> Result<Self> {
        let mut builder = client::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(window);
        let (requests, connection) = in_time("a handshake", builder.handshake(stream)).await??;
        Ok(Self { requests, scheme, driver: tokio::spawn(connection) })
    }

    /// Opens a gRPC call with these metadata.
    pub(crate) async fn call(&self, path: &str, metadata: &[(&str, &str)]) -> Result<Call> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}://etcd{path}", self.scheme))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in metadata {
            request = request.header(*name, *value);
        }
        let mut ready = in_time("a stream", self.requests.clone().ready()).await??;
        let (head, sending) = ready.send_request(request.body(())?, false)?;
        Ok(Call { sending, answer: Answer::Awaited(head), received: BytesMut::new() })
    }

    /// Sends one message and takes the whole answer.
    pub(crate) async fn unary(
        &self,
        path: &str,
        metadata: &[(&str, &str)],
        message: &[u8],
    ) -> Result<Reply> {
        let body = frame(message);
        self.raw(path, metadata, &body).await
    }

    /// Sends a body as it is and takes the whole answer.
    pub(crate) async fn raw(
        &self,
        path: &str,
        metadata: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Reply> {
        let mut call = self.call(path, metadata).await?;
        call.send_raw(Bytes::copy_from_slice(body), true)?;
        call.rest().await
    }

    /// Makes a request that is no gRPC.
    pub(crate) async fn http(&self, method: Method, path: &str) -> Result<(Response<()>, Bytes)> {
        let uri = format!("{}://localhost{path}", self.scheme);
        let request = Request::builder().method(method).uri(uri).body(())?;
        let mut ready = in_time("a stream", self.requests.clone().ready()).await??;
        let (response, _) = ready.send_request(request, true)?;
        let (head, mut body) = in_time("an answer", response).await??.into_parts();
        let mut received = BytesMut::new();
        while let Some(piece) = in_time("a body", body.data()).await? {
            received.extend_from_slice(&piece?);
        }
        Ok((Response::from_parts(head, ()), received.freeze()))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A call whose two sides are open.
pub(crate) struct Call {
    sending: SendStream<Bytes>,
    answer: Answer,
    received: BytesMut,
}

enum Answer {
    Awaited(ResponseFuture),
    Coming { head: Head, body: RecvStream },
}

/// The parts of an answer's head that are the same whoever gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) head: Head,
    pub(crate) messages: Vec<Bytes>,
    pub(crate) status: Status,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Grpc {
        code: tonic::Code,
        message: String,
        details: bool,
    },
    /// The stream was reset.
    Reset(String),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grpc { code, message, details: false } => write!(f, "{code:?} {message:?}"),
            Self::Grpc { code, message, .. } => write!(f, "{code:?} {message:?} with details"),
            Self::Reset(reason) => write!(f, "reset: {reason}"),
        }
    }
}

impl Status {
    pub(crate) fn code(&self) -> Option<tonic::Code> {
        match self {
            Self::Grpc { code, .. } => Some(*code),
            Self::Reset(_) => None,
        }
    }

    fn of(trailers: &HeaderMap) -> Result<Self> {
        let status = tonic::Status::from_header_map(trailers)
            .with_context(|| format!("no grpc-status in {trailers:?}"))?;
        Ok(Self::Grpc {
            code: status.code(),
            message: status.message().to_owned(),
            details: trailers.contains_key("grpc-status-details-bin"),
        })
    }
}

impl Call {
    pub(crate) fn send(&mut self, message: &[u8]) -> Result<()> {
        self.send_raw(frame(message), false)
    }

    /// Ends our side.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.send_raw(Bytes::new(), true)
    }

    pub(crate) fn send_raw(&mut self, bytes: Bytes, last: bool) -> Result<()> {
        // h2 holds what the window does not let through yet.
        Ok(self.sending.send_data(bytes, last)?)
    }

    /// The next message, or `None` when the call has ended.
    pub(crate) async fn message(&mut self) -> Result<Option<Bytes>> {
        in_time("a message", self.read()).await?
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let (_, body) = match self.opened().await {
                Ok(opened) => opened,
                Err(error) if error.is_reset() => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            match body.data().await {
                Some(Ok(piece)) => {
                    body.flow_control().release_capacity(piece.len())?;
                    self.received.extend_from_slice(&piece);
                }
                Some(Err(error)) if error.is_reset() => return Ok(None),
                Some(Err(error)) => return Err(error.into()),
                None => {
                    ensure!(self.received.is_empty(), "it ended within a message");
                    return Ok(None);
                }
            }
        }
    }

    /// A message that is there already.
    fn take(&mut self) -> Result<Option<Bytes>> {
        let Some((prefix, rest)) = self.received.split_first_chunk::<5>() else {
            return Ok(None);
        };
        let mut prefix = &prefix[..];
        let compressed = prefix.get_u8();
        let length = prefix.get_u32() as usize;
        ensure!(compressed == 0, "a compressed message");
        if rest.len() < length {
            self.received.reserve(length + 5 - self.received.len());
            return Ok(None);
        }
        self.received.advance(5);
        Ok(Some(self.received.split_to(length).freeze()))
    }

    async fn opened(&mut self) -> Result<(&mut Head, &mut RecvStream), h2::Error> {
        if let Answer::Awaited(head) = &mut self.answer {
            let (head, body) = head.await?.into_parts();
            let head = Head { status: head.status, headers: head.headers };
            self.answer = Answer::Coming { head, body };
        }
        match &mut self.answer {
            Answer::Coming { head, body } => Ok((head, body)),
            Answer::Awaited(_) => unreachable!("it was replaced above"),
        }
    }

    /// The status after the last message.
    pub(crate) async fn status(&mut self) -> Result<Status> {
        in_time("a status", async {
            let (head, body) = match self.opened().await {
                Ok(opened) => opened,
                Err(error) if error.is_reset() => return reset(&error),
                Err(error) => return Err(error.into()),
            };
            match body.trailers().await {
                Ok(Some(trailers)) => Status::of(&trailers),
                Ok(None) => Status::of(&head.headers),
                Err(error) if error.is_reset() => reset(&error),
                Err(error) => Err(error.into()),
            }
        })
        .await?
    }

    /// All that is left of the answer.
    pub(crate) async fn rest(mut self) -> Result<Reply> {
        let mut messages = Vec::new();
        while let Some(message) = self.message().await? {
            messages.push(message);
        }
        let status = self.status().await?;
        let head = match self.answer {
            Answer::Coming { head, .. } => head,
            Answer::Awaited(_) => Head { status: StatusCode::OK, headers: HeaderMap::new() },
        };
        Ok(Reply { head, messages, status })
    }
}

fn reset(error: &h2::Error) -> Result<Status> {
    match error.reason() {
        Some(reason) => Ok(Status::Reset(reason.description().to_owned())),
        None => bail!("reset without a reason: {error}"),
    }
}

/// A message as it travels.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.extend_from_slice(message);
    framed.freeze()
}

pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    timeout(DEADLINE, future).await.with_context(|| format!("{what} did not come"))
}
