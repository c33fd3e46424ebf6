//! One HTTP/2 connection of a client.

use super::accept::Shared;
use crate::{
    grpc::{Cork, Corked, Dead, Keepalive},
    pipeline::Peer,
    rpc,
};
use bytes::Bytes;
use h2::{
    RecvStream,
    server::{self, Connection, SendResponse},
};
use http::Request;
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

/// Bytes of headers of one request, decoded. A token or a trace context is far below.
const HEADER_BYTES_MAX: u32 = 64 << 10;

/// Bytes of one answer that wait for the client's window.
const SEND_BUFFER_BYTES: usize = 256 << 10;

/// Streams that a client may reset before we looked at them, and streams that we may reset for its
/// faults, until the connection is closed: kube-apiserver cancels many calls at once.
const RESET_STREAMS_MAX: usize = 2048;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

type Accepted = Option<Result<(Request<RecvStream>, SendResponse<Bytes>), h2::Error>>;

/// What a turn of the connection came to. A call is large, and is what it mostly comes to.
#[allow(clippy::large_enum_variant)]
enum Turn {
    Accepted(Accepted),
    Drain,
    Dead(Dead),
}

/// Serves the calls of a connection to its end. When draining it takes no new ones, tells the client
/// so and ends with the last.
pub(super) async fn serve<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    shared: &Arc<Shared>,
    stream: T,
    first: Bytes,
    peer: Arc<Peer>,
    worker: usize,
) -> Result<(), String> {
    let config = &shared.config;
    let (corked, cork) = Corked::new(stream, first);
    let mut handshake = pin!(
        server::Builder::new()
            .initial_window_size(config.stream_window)
            .initial_connection_window_size(config.connection_window)
            .max_concurrent_streams(config.streams_per_connection_max)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
            .max_local_error_reset_streams(Some(RESET_STREAMS_MAX))
            .handshake::<_, Bytes>(corked)
    );
    let shaken = poll_fn(|cx| {
        let shaken = handshake.as_mut().poll(cx);
        // An error of the socket meets the connection at its next read.
        let _ = cork.poll_flush(cx);
        shaken
    });
    let shaken =
        timeout(HANDSHAKE_TIMEOUT, shaken).await.map_err(|_| "HTTP/2 handshake timed out")?;
    let mut connection = shaken.map_err(|error| format!("HTTP/2: {error}"))?;
    let keepalive = connection
        .ping_pong()
        .map(|pings| Keepalive::new(pings, config.keepalive_interval, config.keepalive_timeout));
    let mut driver = Driver { shared, cork, keepalive, received: 0, sent: 0 };
    let mut draining = pin!(shared.edge.draining.cancelled());
    let mut drains = false;
    loop {
        let drain = (!drains).then_some(draining.as_mut());
        match driver.turn(&mut connection, drain).await {
            Turn::Accepted(Some(Ok((request, respond)))) => {
                let edge = Arc::clone(&shared.edge);
                // Ends with its stream, which ends with the connection at the latest.
                tokio::spawn(rpc::serve(edge, request, respond, Arc::clone(&peer), worker));
            }
            // The connection's own end, or the client's way of leaving.
            Turn::Accepted(None | Some(Err(_))) => return Ok(()),
            Turn::Drain => {
                drains = true;
                connection.graceful_shutdown();
            }
            Turn::Dead(dead) => {
                tracing::debug!(client = %peer.address, %dead, "client is gone");
                return Ok(());
            }
        }
    }
}

/// What drives the connection beside the connection itself.
struct Driver<'s, T> {
    shared: &'s Shared,
    cork: Cork<T>,
    keepalive: Option<Keepalive>,
    received: u64,
    sent: u64,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<'_, T> {
    async fn turn(
        &mut self,
        connection: &mut Connection<Corked<T>, Bytes>,
        mut drain: Option<Pin<&mut impl Future<Output = ()>>>,
    ) -> Turn {
        poll_fn(|cx| {
            if let Poll::Ready(accepted) = connection.poll_accept(cx) {
                return Poll::Ready(Turn::Accepted(accepted));
            }
            if drain.as_mut().is_some_and(|drain| drain.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Turn::Drain);
            }
            let _ = self.cork.poll_flush(cx);
            self.poll_dead(cx, connection.has_streams()).map(Turn::Dead)
        })
        .await
    }

    fn poll_dead(&mut self, cx: &mut Context<'_>, busy: bool) -> Poll<Dead> {
        let (received, sent) = self.cork.traffic();
        let metrics = &self.shared.metrics;
        let news = received - std::mem::replace(&mut self.received, received);
        metrics.received.inc_by(news);
        metrics.sent.inc_by(sent - std::mem::replace(&mut self.sent, sent));
        let Some(keepalive) = &mut self.keepalive else { return Poll::Pending };
        if news > 0 {
            keepalive.heard();
        }
        keepalive.poll_dead(cx, busy)
    }
}
