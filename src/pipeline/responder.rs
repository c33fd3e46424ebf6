//! The side of a call that answers.

use super::Record;
use crate::grpc::{self, Outgoing, SendError};
use bytes::Bytes;
use h2::{Reason, server::SendResponse};
use http::Response;
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{Code, Status};

/// The client has given the call up, or its connection broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// A call that has no answer yet. Dropped without one, it breaks the call off.
#[derive(Debug)]
pub struct Responder {
    send: SendResponse<Bytes>,
    /// What is counted of the call once it has ended.
    pub record: Record,
}

impl Responder {
    pub fn new(send: SendResponse<Bytes>, record: Record) -> Self {
        Self { send, record }
    }

    /// Runs `work` unless the client gives up first. It stays where it is pinned: what is moved into an
    /// async function takes its place twice there, and calls are moved when they begin.
    pub async fn unless_gone<F: Future + Unpin>(&mut self, mut work: F) -> Result<F::Output, Gone> {
        poll_fn(|cx| {
            if let Poll::Ready(done) = Pin::new(&mut work).poll(cx) {
                return Poll::Ready(Ok(done));
            }
            self.poll_gone(cx).map(|()| Err(Gone))
        })
        .await
    }

    /// Ready once the client has given the call up.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send.poll_reset(cx).map(drop)
    }

    /// Answers with a status and nothing else.
    pub fn status(self, status: &Status) {
        self.whole(grpc::trailers_only(status), status.code());
    }

    /// Answers with a head that is all there is.
    pub fn whole(mut self, head: Response<()>, code: Code) {
        if self.send.send_response(head, true).is_ok() {
            self.record.end(code);
        }
    }

    /// Answers with one message, a small one.
    pub async fn message(self, framed: Bytes) {
        let Ok((mut out, mut record)) = self.open(grpc::head()) else { return };
        let length = framed.len();
        if record.sending(out.send(framed)).await.is_err() {
            return;
        }
        record.add_bytes(length);
        if out.finish(grpc::trailers(&Status::ok(""))).is_ok() {
            record.end(Code::Ok);
        }
    }

    /// Sends the head and hands out what follows.
    pub fn open(mut self, head: Response<()>) -> Result<(Outgoing, Record), SendError> {
        let stream = self.send.send_response(head, false)?;
        Ok((Outgoing::new(stream), self.record))
    }

    /// Breaks the call off.
    pub fn reset(mut self, reason: Reason) {
        self.send.send_reset(reason);
    }
}
