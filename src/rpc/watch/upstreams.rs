//! The stream to one cluster and the task that relays its responses.

use super::{
    head::{HEAD_BYTES, Head, progress_of},
    ids::{Ids, Reached, Seen, Source},
    outlet::{Outlet, Turn},
};
use crate::{
    etcd::proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse},
    grpc::{self, Incoming, Outgoing, ReadError, SendError},
    rpc::status,
    upstream::{Answer, Error, Exchange},
};
use bytes::Bytes;
use http::Response;
use parking_lot::Mutex;
use prost::Message as _;
use std::{future::poll_fn, sync::Arc, task::Poll};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

/// Responses up to this size are read whole before they take their turn, so that a cluster that
/// hangs in the middle of one does not hold up the others. Larger ones, which only history that is
/// caught up with brings, are passed on as they come.
const WHOLE_BYTES_MAX: usize = 256 << 10;

/// What happened on a stream to a cluster.
#[derive(Debug)]
pub(super) enum Event {
    /// The answer to the request that others wait for has gone to the client.
    Answered,
    /// A cluster ended this stream, or it broke.
    Ended { source: Source, status: Status },
    /// The watchers that are away from the memory of a cluster have left their stream.
    Left { cluster: usize },
    /// The client has given its stream up.
    Gone,
}

/// The stream to one cluster; its task ends with it.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) up: Outgoing,
    _relay: AbortOnDropHandle<()>,
}

/// What the relay of one stream works with.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) source: Source,
    pub(super) outlet: Arc<Outlet>,
    /// Kept where watchers may have several sources. Never locked across an await.
    pub(super) ids: Option<Arc<Mutex<Ids>>>,
    pub(super) events: mpsc::Sender<Event>,
}

impl Upstream {
    /// Takes over a stream that was opened. `None` when it has no sending side.
    pub(super) fn start(mut exchange: Exchange, relay: Relay) -> Option<Self> {
        let up = exchange.outgoing.take()?;
        let task = tokio::spawn(relay.run(exchange));
        Some(Self { up, _relay: AbortOnDropHandle::new(task) })
    }
}

/// Why a relay ends.
enum Stop {
    Client,
    Upstream(Status),
    /// Nothing of this stream is for the client any more.
    Left,
}

impl From<SendError> for Stop {
    fn from(_: SendError) -> Self {
        Self::Client
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Upstream(status::of(&error.into()))
    }
}

impl Relay {
    async fn run(self, exchange: Exchange) {
        let event = match self.relay(exchange).await {
            Stop::Client => Event::Gone,
            Stop::Upstream(status) => Event::Ended { source: self.source, status },
            Stop::Left => Event::Left { cluster: self.source.cluster() },
        };
        // Fails when the session has ended, which is what this is about.
        let _ = self.events.send(event).await;
    }

    async fn relay(&self, exchange: Exchange) -> Stop {
        let mut answer = match exchange.answer().await {
            Ok(answer) => answer,
            Err(error) => return error.into(),
        };
        if let Some(refusal) = answer.refusal() {
            return Stop::Upstream(refusal);
        }
        let mut head = Response::new(());
        *head.headers_mut() = std::mem::take(&mut answer.head.headers);
        if self.outlet.turn().await.open(head).is_err() {
            return Stop::Client;
        }
        loop {
            match self.pass_one(&mut answer).await {
                Ok(true) => {}
                Ok(false) => return self.ended(answer).await,
                Err(stop) => return stop,
            }
        }
    }

    /// Passes one response on, with all its fragments; false when there is none left.
    async fn pass_one(&self, answer: &mut Answer) -> Result<bool, Stop> {
        let mut turn = None;
        while let Some(passed) = self.pass_message(answer, &mut turn).await? {
            if passed.created && self.ids.is_some() {
                drop(turn);
                // The session waits for this before it sends a request to another cluster.
                let _ = self.events.send(Event::Answered).await;
                return Ok(true);
            }
            if !passed.fragment {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Passes one message on and keeps the turn that it took, if it has not been taken before.
    async fn pass_message<'o>(
        &'o self,
        answer: &mut Answer,
        turn: &mut Option<Turn<'o>>,
    ) -> Result<Option<Head>, Stop> {
        let body = &mut answer.body;
        let length = self.unless_gone(body, turn).await?;
        let length = match length {
            Ok(Some(length)) => length,
            Ok(None) => return Ok(None),
            Err(error) => return Err(broken(answer, error)),
        };
        if length <= WHOLE_BYTES_MAX {
            match body.message(WHOLE_BYTES_MAX).await {
                Ok(Some(message)) => {
                    let turn = self.taken(turn).await;
                    self.pass_whole(&message, turn).await.map(Some)
                }
                Ok(None) => Ok(None),
                Err(error) => Err(broken(answer, error)),
            }
        } else {
            let beginning = match body.peek_payload(HEAD_BYTES).await {
                Ok(beginning) => Head::read(&beginning),
                Err(error) => return Err(broken(answer, error)),
            };
            let turn = self.taken(turn).await;
            pass_in_pieces(answer, grpc::PREFIX_LEN + length, turn).await?;
            Ok(Some(beginning))
        }
    }

    async fn taken<'t, 'o>(&'o self, turn: &'t mut Option<Turn<'o>>) -> &'t mut Turn<'o> {
        match turn {
            Some(turn) => turn,
            None => turn.insert(self.outlet.turn().await),
        }
    }

    /// The length of the next message, unless the client leaves before there is one.
    async fn unless_gone(
        &self,
        body: &mut Incoming,
        turn: &mut Option<Turn<'_>>,
    ) -> Result<Result<Option<usize>, ReadError>, Stop> {
        let mut length = std::pin::pin!(body.peek_length());
        poll_fn(|cx| {
            if let Poll::Ready(length) = length.as_mut().poll(cx) {
                return Poll::Ready(Ok(length));
            }
            let gone = match turn {
                Some(turn) => turn.poll_gone(cx),
                None => self.outlet.poll_gone(cx),
            };
            gone.map(|()| Err(Stop::Client))
        })
        .await
    }

    async fn pass_whole(&self, message: &grpc::Message, turn: &mut Turn<'_>) -> Result<Head, Stop> {
        let head = Head::read(&message.payload());
        // What is true of all watchers is so until another one is created, which needs the turn.
        let (framed, left) = match &self.ids {
            Some(ids) => {
                let mut ids = ids.lock();
                (self.note(head, message, &mut ids), self.has_left(&mut ids))
            }
            None => (message.framed(), false),
        };
        turn.send(framed).await?;
        match left {
            true => Err(Stop::Left),
            false => Ok(head),
        }
    }

    /// Keeps the ids in step with what the client is about to read, and returns that.
    fn note(&self, head: Head, message: &grpc::Message, ids: &mut Ids) -> Bytes {
        let source = self.source;
        let instead = match head {
            Head { created: true, canceled, watch_id, revision, .. } => {
                match ids.take_continued() {
                    // The client has been told before.
                    Some(continued) if !canceled => {
                        ids.goes_on(continued, source, revision);
                        Some(Bytes::new())
                    }
                    Some(WatchCreateRequest { watch_id, .. }) => {
                        ids.cancelled(watch_id);
                        not_continued(message, watch_id)
                    }
                    None => {
                        if !canceled {
                            ids.created(watch_id, source, revision);
                        }
                        None
                    }
                }
            }
            Head { canceled: true, watch_id, .. } => {
                ids.ended(watch_id, source);
                None
            }
            head if head.is_progress_of_all() => {
                let told = match ids.reached(source, head.revision) {
                    Reached::All => None,
                    Reached::These(reached) => progress(message, &reached),
                };
                match source {
                    Source::Away(cluster) if !leave_or_stay(message, cluster, ids) => {
                        Some(Bytes::new())
                    }
                    _ => told,
                }
            }
            _ => None,
        };
        // What cannot be read goes through as it is.
        instead.unwrap_or_else(|| message.framed())
    }

    /// Whether the watchers have left with the message that was noted last.
    fn has_left(&self, ids: &mut Ids) -> bool {
        matches!(self.source, Source::Away(cluster) if ids.away(cluster).has_left())
    }

    async fn ended(&self, mut answer: Answer) -> Stop {
        match answer.body.trailers().await {
            Ok(trailers) => {
                let status = trailers.as_ref().and_then(grpc::from_headers);
                Stop::Upstream(status.unwrap_or_else(|| Status::new(Code::Unavailable, "")))
            }
            Err(error) => answer.broken(&error).into(),
        }
    }
}

async fn pass_in_pieces(
    answer: &mut Answer,
    mut left: usize,
    turn: &mut Turn<'_>,
) -> Result<(), Stop> {
    while left > 0 {
        let piece = match answer.body.piece(left).await {
            Ok(piece) => piece,
            Err(error) => return Err(broken(answer, error)),
        };
        left -= piece.len();
        turn.send(piece).await?;
    }
    Ok(())
}

fn broken(answer: &Answer, error: ReadError) -> Stop {
    match error {
        ReadError::Broken(error) => answer.broken(&error).into(),
        error => Stop::Upstream(status::of(&error.into())),
    }
}

/// An answer to a progress request is about all watchers of the stream it came on. Where the
/// client's stream has others, it becomes one answer for each that it is about.
fn progress(message: &grpc::Message, ids: &[i64]) -> Option<Bytes> {
    let progress = WatchResponse::decode(message.payload()).ok()?;
    let each = ids.iter().map(|&id| grpc::encode(&progress_of(&progress, id)));
    Some(each.collect::<Vec<_>>().concat().into())
}

/// etcd says how far watchers are that are away from memory, which may be what they have to know to
/// come back. Whether the client is to hear of it.
fn leave_or_stay(message: &grpc::Message, cluster: usize, ids: &mut Ids) -> bool {
    let progress = WatchResponse::decode(message.payload()).ok();
    if let Some(ResponseHeader { cluster_id, revision, .. }) = progress.and_then(|told| told.header)
    {
        ids.part(cluster, Seen { cluster_id, revision }, Instant::now());
    }
    ids.away(cluster).answered()
}

/// etcd does not go on with a watcher: to the client, which has it already, that is its end.
fn not_continued(message: &grpc::Message, watch_id: i64) -> Option<Bytes> {
    let refusal = WatchResponse::decode(message.payload()).ok()?;
    Some(grpc::encode(&WatchResponse { watch_id, created: false, canceled: true, ..refusal }))
}
