//! One HTTP/1.1 connection: health checks, `curl`, Prometheus.

use super::accept::Shared;
use crate::{pipeline::Peer, rpc};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, io::Cursor, pin::pin, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// A request's head must be there after this long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves the requests of a connection to its end; when draining, to the end of the one under way.
pub(super) async fn serve<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    shared: &Arc<Shared>,
    stream: T,
    first: Bytes,
    peer: Arc<Peer>,
    worker: usize,
) -> Result<(), String> {
    let (read, write) = tokio::io::split(stream);
    let stream = tokio::io::join(Cursor::new(first).chain(read), write);
    let answer = service_fn(|request: Request<Incoming>| async {
        let (head, _) = request.into_parts();
        let response = rpc::answer_http(&shared.edge, &peer.client, &head, worker).await;
        Ok::<_, Infallible>(response.map(Full::new))
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), answer)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shared.edge.draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(|error| format!("HTTP/1: {error}"))
}
