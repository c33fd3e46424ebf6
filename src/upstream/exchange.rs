//! One call on one connection.

use super::{Error, Lane, Member, lane::Slot, member::Waiting};
use crate::{
    etcd::method::Affinity,
    grpc::{self, Incoming, Outgoing},
};
use bytes::Bytes;
use h2::client::ResponseFuture;
use http::{HeaderMap, Method, Request, Uri, response, uri::PathAndQuery};
use std::{future::poll_fn, sync::Arc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

/// A call to be made, and how.
#[derive(Debug, Clone)]
pub struct Outbound {
    pub path: PathAndQuery,
    pub headers: Arc<HeaderMap>,
    /// The framed request; `None` keeps our side of the stream open for [`Exchange::outgoing`].
    pub body: Option<Bytes>,
    pub lane: Lane,
    pub affinity: Affinity,
    /// The data thread that makes the call, whose connections it takes.
    pub worker: usize,
    /// When the client gives the call up.
    pub deadline: Option<Instant>,
}

/// A call that was sent. Dropping it, or what comes of it, tells the member to give it up.
#[derive(Debug)]
pub struct Exchange {
    response: ResponseFuture,
    /// Our side of the stream, for as long as it is open.
    pub outgoing: Option<Outgoing>,
    waiting: Waiting,
    member: Arc<Member>,
    slot: Slot,
    lane: Lane,
}

/// The head of an answer and, behind it, its body.
#[derive(Debug)]
pub struct Answer {
    pub head: response::Parts,
    pub body: Incoming,
    /// Who answered.
    pub member: Arc<Member>,
    /// Our side of the stream, where it was kept open.
    pub outgoing: Option<Outgoing>,
    /// Held until the body has ended, so that a long answer counts on its connection.
    pub slot: Slot,
}

impl Exchange {
    /// Sends `outbound` on the connection of `slot`; the error says that nothing was sent.
    pub(super) async fn start(
        member: &Arc<Member>,
        slot: Slot,
        outbound: &Outbound,
    ) -> Result<Self, h2::Error> {
        let mut sender = slot.ready().await?;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri(member, outbound.path.clone());
        *request.headers_mut() = HeaderMap::clone(&outbound.headers);
        let waiting = member.waiting();
        let (response, mut stream) = sender.send_request(request, false)?;
        let outgoing = match &outbound.body {
            // Requests are small: what the window does not take at once waits in the connection.
            Some(body) => stream.send_data(body.clone(), true).map(|()| None)?,
            None => Some(Outgoing::new(stream)),
        };
        let (member, lane) = (Arc::clone(member), outbound.lane);
        Ok(Self { response, outgoing, waiting, member, slot, lane })
    }

    /// Waits for the head of the answer.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], [`Error::Lost`] or [`Error::Reset`].
    pub async fn answer(self) -> Result<Answer, Error> {
        let response = self.response.await;
        let response = response.map_err(|error| Error::after_sending(&self.member.name, &error))?;
        // What a list takes says little about the next call.
        self.waiting.answered(self.lane == Lane::Light);
        let (head, body) = response.into_parts();
        let (body, slot) = (Incoming::new(body), self.slot);
        Ok(Answer { head, body, member: self.member, outgoing: self.outgoing, slot })
    }
}

impl Exchange {
    /// As [`Exchange::answer`], while what `incoming` brings is passed on: a member may send no head
    /// before it has read something. `None` once `stop` is cancelled while the client may still send:
    /// one that has sent all waits for an answer, which comes.
    ///
    /// # Errors
    ///
    /// As of [`Exchange::answer`].
    pub async fn answer_while_sending(
        mut self,
        incoming: &mut Incoming,
        stop: &CancellationToken,
    ) -> Result<Option<Answer>, Error> {
        let Some(mut up) = self.outgoing.take() else { return self.answer().await.map(Some) };
        let mut open = true;
        let mut response = self.response;
        let head = loop {
            tokio::select! {
                biased;
                head = &mut response => break head,
                chunk = poll_fn(|cx| incoming.poll_chunk(cx)), if open => match chunk {
                    Some(Ok(chunk)) => {
                        let length = chunk.len();
                        open = up.send(chunk).await.is_ok();
                        incoming.release(length);
                    }
                    _ => open = up.close().is_err(),
                },
                () = stop.cancelled(), if open => return Ok(None),
            }
        };
        let response = head.map_err(|error| Error::after_sending(&self.member.name, &error))?;
        let (head, body) = response.into_parts();
        let (body, outgoing) = (Incoming::new(body), open.then_some(up));
        Ok(Some(Answer { head, body, member: self.member, outgoing, slot: self.slot }))
    }
}

impl Answer {
    /// Whether the answer is an error and nothing else, as etcd refuses unary calls.
    pub fn is_refused(&self) -> bool {
        self.refusal().is_some()
    }

    /// The error that is the whole answer.
    pub fn refusal(&self) -> Option<Status> {
        let status = grpc::from_headers(&self.head.headers)?;
        (self.body.is_end_stream() && status.code() != Code::Ok).then_some(status)
    }

    /// The error that a broken body of this answer means.
    pub fn broken(&self, error: &h2::Error) -> Error {
        Error::after_sending(&self.member.name, error)
    }
}

fn uri(member: &Member, path: PathAndQuery) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(member.scheme.clone());
    parts.authority = Some(member.authority.clone());
    parts.path_and_query = Some(path);
    // Scheme, authority and path together are always a URI.
    Uri::from_parts(parts).unwrap_or_default()
}
