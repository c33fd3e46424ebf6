//! The client's side of a watch stream, into which several upstream streams send in turn.

use crate::{
    grpc::{self, Outgoing, SendError},
    pipeline::{Record, Responder},
};
use bytes::Bytes;
use h2::Reason;
use http::Response;
use std::task::{Context, Poll};
use tokio::sync::{Mutex, MutexGuard};
use tonic::{Code, Status};

/// Sends whole messages, one after the other.
#[derive(Debug)]
pub(super) struct Outlet {
    /// Held, across awaits, from the first to the last byte of one message. First come, first
    /// served.
    stream: Mutex<Stream>,
}

#[derive(Debug)]
enum Stream {
    /// No head was sent.
    Unanswered(Responder),
    Open(Outgoing, Record),
    Ended,
}

/// The right to send one message.
#[derive(Debug)]
pub(super) struct Turn<'o>(MutexGuard<'o, Stream>);

impl Outlet {
    pub(super) fn new(responder: Responder) -> Self {
        Self { stream: Mutex::new(Stream::Unanswered(responder)) }
    }

    /// Waits for the end of the message that is being sent, if any.
    pub(super) async fn turn(&self) -> Turn<'_> {
        Turn(self.stream.lock().await)
    }

    /// Ready once the client has given the stream up. For use while there is nothing to send; the
    /// last one to call this, or to send, is woken.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Whoever has the turn finds out.
        self.stream.try_lock().map_or(Poll::Pending, |mut stream| stream.poll_gone(cx))
    }
}

impl Stream {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Unanswered(responder) => responder.poll_gone(cx),
            Self::Open(out, _) => out.poll_reset(cx).map(drop),
            Self::Ended => Poll::Pending,
        }
    }
}

impl Turn<'_> {
    /// As of the outlet, for who has the turn.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_gone(cx)
    }

    /// Sends a part of the message, the head of the stream before the first.
    pub(super) async fn send(&mut self, bytes: Bytes) -> Result<(), SendError> {
        self.open(grpc::head())?;
        match &mut *self.0 {
            Stream::Open(out, record) => {
                record.add_bytes(bytes.len());
                out.send(bytes).await
            }
            _ => Err(SendError::Reset(Reason::NO_ERROR)),
        }
    }

    /// Sends the head of the stream if that was not done yet.
    pub(super) fn open(&mut self, head: Response<()>) -> Result<(), SendError> {
        if !matches!(*self.0, Stream::Unanswered(_)) {
            return Ok(());
        }
        if let Stream::Unanswered(responder) = std::mem::replace(&mut *self.0, Stream::Ended) {
            let (out, record) = responder.open(head)?;
            *self.0 = Stream::Open(out, record);
        }
        Ok(())
    }

    /// Breaks the stream off in the middle of a message.
    pub(super) fn reset(mut self, reason: Reason, code: Code) {
        if let Stream::Open(out, record) = std::mem::replace(&mut *self.0, Stream::Ended) {
            out.reset(reason);
            record.end(code);
        }
    }

    /// Ends the stream.
    pub(super) fn finish(mut self, status: &Status) {
        match std::mem::replace(&mut *self.0, Stream::Ended) {
            Stream::Unanswered(responder) => responder.status(status),
            Stream::Open(out, record) => {
                if out.finish(grpc::trailers(status)).is_ok() {
                    record.end(status.code());
                }
            }
            Stream::Ended => {}
        }
    }
}
