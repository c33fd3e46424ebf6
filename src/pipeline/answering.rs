//! Answers that lie in memory, on their way to one client.

use super::{Patience, Record, Responder, Stalled};
use crate::grpc::{self, Outgoing, SendError};
use bytes::Bytes;
use tokio::task::yield_now;
use tonic::{Code, Status};

/// Bytes that are handed to the connection at once.
pub(super) const CHUNK: usize = 64 << 10;

/// An answer that is being sent.
#[derive(Debug)]
pub(super) struct Answering {
    out: Outgoing,
    record: Record,
    patience: Patience,
}

impl Answering {
    pub(super) fn open(responder: Responder, patience: Patience) -> Result<Self, SendError> {
        let (out, record) = responder.open(grpc::head())?;
        Ok(Self { out, record, patience })
    }

    /// Sends the next of `left` bytes as the client takes it. `None` when it takes no more.
    pub(super) async fn send(mut self, chunk: Bytes, left: usize) -> Option<Self> {
        let length = chunk.len();
        match self.patience.send(left, self.out.send(chunk)).await {
            Ok(sent) => sent.ok()?,
            Err(Stalled) => {
                self.out.reset(Stalled::REASON);
                self.record.end(Code::ResourceExhausted);
                return None;
            }
        }
        self.record.add_bytes(length);
        if left > length {
            // Small calls on this thread go between the chunks of large ones.
            yield_now().await;
        }
        Some(self)
    }

    pub(super) fn finish(self) {
        let status = Status::ok("");
        if self.out.finish(grpc::trailers(&status)).is_ok() {
            self.record.end(status.code());
        }
    }
}

/// Answers with one message that is in several pieces.
pub async fn send_pieces(pieces: &[Bytes], responder: Responder, patience: Patience) {
    let Ok(mut answer) = Answering::open(responder, patience) else { return };
    let mut left: usize = pieces.iter().map(Bytes::len).sum();
    for piece in pieces {
        let mut rest = piece.clone();
        while !rest.is_empty() {
            let chunk = rest.split_to(rest.len().min(CHUNK));
            let length = chunk.len();
            answer = match answer.send(chunk, left).await {
                Some(answer) => answer,
                None => return,
            };
            left -= length;
        }
    }
    answer.finish();
}
