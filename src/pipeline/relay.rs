//! Answers on their way through, piece by piece as they come.

use super::{Record, Responder};
use crate::{
    grpc::{self, Incoming, Outgoing, SendError},
    upstream::{Answer, Error},
};
use bytes::Bytes;
use http::{HeaderMap, Response};
use std::{
    future::{Future, pending, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{select, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

/// Why an answer ends before etcd has ended it.
#[derive(Debug)]
pub enum Cut {
    /// It broke off.
    Broken(Error),
    /// It was told to stop.
    Stopped,
}

/// Sends `answer` on, whatever its size, holding no more of it than the windows allow. Once `stop` is
/// cancelled it is cut where nothing more of it is there: between two messages, unless etcd is in the
/// middle of one. `cut` says with which status.
pub async fn relay(
    answer: Answer,
    responder: Responder,
    stop: Option<&CancellationToken>,
    cut: impl Fn(Cut) -> Status,
) {
    let Answer { head, mut body, member, outgoing, slot } = answer;
    // The other direction has ended; this one only ends with it.
    drop(outgoing);
    let code = code(&head.headers);
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    if body.is_end_stream() {
        return responder.whole(response, code.unwrap_or(Code::Unknown));
    }
    let Ok((mut out, mut record)) = responder.open(response) else { return };
    let end = match pump(&mut body, &mut out, &mut record, stop).await {
        Ok(trailers) => trailers,
        Err(Broken::Upstream(error)) => {
            grpc::trailers(&cut(Cut::Broken(Error::after_sending(&member.name, &error))))
        }
        Err(Broken::Stopped) => grpc::trailers(&cut(Cut::Stopped)),
        Err(Broken::Client) => return,
    };
    let code = self::code(&end).unwrap_or(Code::Unknown);
    if out.finish(end).is_ok() {
        record.end(code);
    }
    drop(slot);
}

/// Which side ended a relay.
enum Broken {
    Client,
    Upstream(h2::Error),
    Stopped,
}

async fn stopped(stop: Option<&CancellationToken>) {
    match stop {
        Some(stop) => stop.cancelled().await,
        None => pending().await,
    }
}

impl From<SendError> for Broken {
    fn from(_: SendError) -> Self {
        Self::Client
    }
}

/// A client that takes nothing more is waited for so long before a stream that has to end is broken off.
pub const LAST_MAX: Duration = Duration::from_secs(10);

/// Moves the body on and returns its trailers.
async fn pump(
    body: &mut Incoming,
    out: &mut Outgoing,
    record: &mut Record,
    stop: Option<&CancellationToken>,
) -> Result<HeaderMap, Broken> {
    let mut stopped = pin!(stopped(stop));
    while let Some(chunk) = poll_fn(|cx| poll_chunk(body, out, stopped.as_mut(), cx)).await {
        let chunk = chunk?;
        let length = chunk.len();
        record.look(&chunk);
        let sending = record.sending(out.send(chunk));
        match stop {
            Some(stop) => taken(stop, pin!(sending)).await?,
            None => sending.await?,
        }
        // Only now may etcd send as much again.
        body.release(length);
        record.add_bytes(length);
    }
    Ok(body.trailers().await.map_err(Broken::Upstream)?.unwrap_or_default())
}

/// What comes of `sending`, unless the client still has not taken it when the call has to end.
async fn taken(
    stop: &CancellationToken,
    mut sending: Pin<&mut impl Future<Output = Result<(), SendError>>>,
) -> Result<(), Broken> {
    // What the client takes at once asks nobody else, as all streams of a listener share the token.
    select! {
        biased;
        sent = sending.as_mut() => Ok(sent?),
        () = stop.cancelled() => {
            Ok(timeout(LAST_MAX, sending).await.map_err(|_| Broken::Client)??)
        }
    }
}

/// The next piece, unless the call ends otherwise while etcd is silent.
fn poll_chunk(
    body: &mut Incoming,
    out: &mut Outgoing,
    stopped: Pin<&mut impl Future<Output = ()>>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, Broken>>> {
    if let Poll::Ready(chunk) = body.poll_chunk(cx) {
        return Poll::Ready(chunk.map(|chunk| chunk.map_err(Broken::Upstream)));
    }
    if stopped.poll(cx).is_ready() {
        return Poll::Ready(Some(Err(Broken::Stopped)));
    }
    out.poll_reset(cx).map(|_| Some(Err(Broken::Client)))
}

fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// Relays both directions of a call until etcd ends it; the client's end of its side is passed on.
pub async fn relay_streams(
    mut incoming: Incoming,
    mut answer: Answer,
    responder: Responder,
    stop: Option<&CancellationToken>,
    cut: impl Fn(Cut) -> Status,
) {
    let Some(mut up) = answer.outgoing.take() else {
        return relay(answer, responder, stop, cut).await;
    };
    let upward = async {
        while let Some(Ok(chunk)) = poll_fn(|cx| incoming.poll_chunk(cx)).await {
            let length = chunk.len();
            if up.send(chunk).await.is_err() {
                break;
            }
            incoming.release(length);
        }
        // Fails when etcd has ended the call, of which the other direction learns.
        let _ = up.close();
        pending::<()>().await;
    };
    tokio::select! {
        () = relay(answer, responder, stop, cut) => {}
        () = upward => {}
    }
}
