//! One HTTP/2 connection to a member.

use super::{Endpoint, LaneConfig, Member};
use crate::{
    grpc::{Cork, Corked, Keepalive},
    tls,
};
use bytes::Bytes;
use h2::client::{self, SendRequest};
use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::oneshot,
    time::timeout,
};

/// A byte stream that carries HTTP/2: TCP, or TLS on it.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{endpoint}: connecting took longer than {}s", .limit.as_secs_f32())]
    Timeout { endpoint: Endpoint, limit: Duration },
    #[error("{0}: {1}")]
    Tcp(Endpoint, io::Error),
    #[error("{0}: {1}")]
    Tls(Endpoint, tls::HandshakeError),
    #[error("{0}: HTTP/2: {1}")]
    Http2(Endpoint, h2::Error),
}

/// A connection that is up, and the future that keeps it so.
pub(super) struct Connected {
    pub(super) sender: SendRequest<Bytes>,
    /// Resolves with the reason when the connection has ended. Someone must drive it.
    pub(super) driver: Pin<Box<dyn Future<Output = String> + Send>>,
}

/// Connects to `member`. `streams` counts the calls open on the connection; `abort` ends it.
pub(super) async fn connect(
    member: &Arc<Member>,
    lane: &LaneConfig,
    streams: Arc<AtomicUsize>,
    abort: oneshot::Receiver<()>,
) -> Result<Connected, Error> {
    let limit = member.settings.connect_timeout;
    timeout(limit, handshake(member, lane, streams, abort))
        .await
        .unwrap_or_else(|_| Err(Error::Timeout { endpoint: member.endpoint.clone(), limit }))
}

async fn handshake(
    member: &Arc<Member>,
    lane: &LaneConfig,
    streams: Arc<AtomicUsize>,
    abort: oneshot::Receiver<()>,
) -> Result<Connected, Error> {
    let endpoint = &member.endpoint;
    let tcp = |error| Error::Tcp(endpoint.clone(), error);
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.map_err(tcp)?;
    stream.set_nodelay(true).map_err(tcp)?;
    if endpoint.tls {
        let name = member.settings.tls.server_name.as_deref().unwrap_or(&endpoint.host);
        let stream = member.tls.connect(name, stream).await;
        let stream = stream.map_err(|error| Error::Tls(endpoint.clone(), error))?;
        http2(stream, member, lane, streams, abort).await
    } else {
        http2(stream, member, lane, streams, abort).await
    }
}

async fn http2<T: Stream + 'static>(
    stream: T,
    member: &Arc<Member>,
    lane: &LaneConfig,
    streams: Arc<AtomicUsize>,
    mut abort: oneshot::Receiver<()>,
) -> Result<Connected, Error> {
    let (corked, cork) = Corked::new(stream, Bytes::new());
    let mut handshake = pin!(
        client::Builder::new()
            .enable_push(false)
            .initial_window_size(lane.stream_window)
            .initial_connection_window_size(lane.connection_window)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .max_concurrent_reset_streams(RESET_STREAMS)
            .handshake(corked)
    );
    let shaken = poll_fn(|cx| flushed(handshake.as_mut().poll(cx), &cork, cx)).await;
    let (sender, mut connection) =
        shaken.map_err(|error| Error::Http2(member.endpoint.clone(), error))?;
    let mut keepalive = connection.ping_pong().map(|pings| {
        Keepalive::new(pings, member.settings.keepalive_interval, member.settings.keepalive_timeout)
    });
    let member = Arc::clone(member);
    let mut received = 0;
    let driver = poll_fn(move |cx| {
        if let Poll::Ready(ended) = flushed(Pin::new(&mut connection).poll(cx), &cork, cx) {
            return Poll::Ready(ended.err().map_or_else(|| "closed".into(), |error| error.to_string()));
        }
        if Pin::new(&mut abort).poll(cx).is_ready() {
            return Poll::Ready("the member does not answer".into());
        }
        let now_received = cork.traffic().0;
        if now_received != received {
            received = now_received;
            member.heard();
            if let Some(keepalive) = &mut keepalive {
                keepalive.heard();
            }
        }
        let busy = streams.load(Relaxed) > 0;
        match keepalive.as_mut().map(|keepalive| keepalive.poll_dead(cx, busy)) {
            Some(Poll::Ready(dead)) => Poll::Ready(dead.to_string()),
            _ => Poll::Pending,
        }
    });
    Ok(Connected { sender, driver: Box::pin(driver) })
}

/// Ends a turn of a connection: whatever it left in the cork is written.
fn flushed<T, U: AsyncWrite + Unpin>(
    turn: Poll<T>,
    cork: &Cork<U>,
    cx: &mut Context<'_>,
) -> Poll<T> {
    // An error of the socket meets the connection at its next read.
    let _ = cork.poll_flush(cx);
    turn
}

/// Bytes of one request that wait for the window; requests are small.
const SEND_BUFFER_BYTES: usize = 256 << 10;

/// Streams reset by us whose late frames are still expected: clients give up many calls at once.
const RESET_STREAMS: usize = 1024;
