//! One HTTP/2 connection to a member.

use super::{Endpoint, Lane, Member};
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
    time::{Instant, Sleep, sleep, timeout},
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
    lane: Lane,
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
    lane: Lane,
    streams: Arc<AtomicUsize>,
    abort: oneshot::Receiver<()>,
) -> Result<Connected, Error> {
    let endpoint = &member.endpoint;
    let tcp = |error| Error::Tcp(endpoint.clone(), error);
    #[cfg(test)]
    if let Some(stream) = super::loopback::dial(&endpoint.host) {
        return http2(stream.map_err(tcp)?, member, lane, streams, abort).await;
    }
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
    lane: Lane,
    streams: Arc<AtomicUsize>,
    mut abort: oneshot::Receiver<()>,
) -> Result<Connected, Error> {
    let config = member.settings.lanes.of(lane);
    let (corked, cork) = Corked::new(stream, Bytes::new());
    let mut handshake = pin!(
        client::Builder::new()
            .enable_push(false)
            .initial_window_size(config.stream_window)
            .initial_connection_window_size(config.connection_window)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .max_concurrent_reset_streams(RESET_STREAMS)
            .data_frame_budget(config.connection_window as usize * FRAMES_PER_WINDOW)
            .handshake(corked)
    );
    let shaken = poll_fn(|cx| {
        let shaken = handshake.as_mut().poll(cx);
        // An error of the socket meets the connection at its next read.
        let _ = cork.poll_flush(cx);
        shaken
    });
    let shaken = shaken.await;
    let (sender, mut connection) =
        shaken.map_err(|error| Error::Http2(member.endpoint.clone(), error))?;
    let mut keepalive = connection.ping_pong().map(|pings| {
        Keepalive::new(pings, member.settings.keepalive_interval, member.settings.keepalive_timeout)
    });
    let member = Arc::clone(member);
    let mut flush = Flush::new(lane);
    let mut received = 0;
    let driver = poll_fn(move |cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        flush.poll(&cork, cx);
        if let Poll::Ready(ended) = ended {
            return Poll::Ready(
                ended.err().map_or_else(|| "closed".into(), |error| error.to_string()),
            );
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

/// When what a turn of the connection left in the cork is written.
///
/// At once, but for the answer to a ping alone: etcd sends one with nearly every small answer, to
/// measure its bandwidth, and nobody waits for it. It goes along with the next request, or a moment
/// later, rather than wake etcd before the client has its answer.
struct Flush {
    /// Not on connections that carry lists, where as few bytes open the window.
    may_linger: bool,
    /// Bytes wait for the end of `until`.
    lingers: bool,
    until: Pin<Box<Sleep>>,
}

/// A ping's answer is 17 bytes, a request never below 32. Other frames as short (a window's opening,
/// a ping of ours) bear a moment's delay.
const LINGER_BYTES: usize = 31;

const LINGER: Duration = Duration::from_millis(1);

impl Flush {
    fn new(lane: Lane) -> Self {
        let until = Box::pin(sleep(LINGER));
        Self { may_linger: lane == Lane::Light, lingers: false, until }
    }

    fn poll<T: AsyncWrite + Unpin>(&mut self, cork: &Cork<T>, cx: &mut Context<'_>) {
        if self.may_linger && (1..=LINGER_BYTES).contains(&cork.waiting()) {
            if !self.lingers {
                self.lingers = true;
                self.until.as_mut().reset(Instant::now() + LINGER);
            }
            if self.until.as_mut().poll(cx).is_pending() {
                return;
            }
        }
        self.lingers = false;
        // An error of the socket meets the connection at its next read.
        let _ = cork.poll_flush(cx);
    }
}

/// Bytes of one request that wait for the window; requests are small.
const SEND_BUFFER_BYTES: usize = 256 << 10;

/// h2 ends a connection on which too much waits that is small: each frame is charged for what it is
/// short of 256 bytes. etcd is no attacker, its windows bound what waits, and its smallest answers are
/// above 16 bytes; so that it is the windows that hold a slow client back, and not the end of a
/// connection that it shares with others.
const FRAMES_PER_WINDOW: usize = 256 / 16;

/// Streams reset by us whose late frames are still expected: clients give up many calls at once.
const RESET_STREAMS: usize = 1024;
