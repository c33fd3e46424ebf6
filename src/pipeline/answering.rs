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
pub struct Answering {
    out: Outgoing,
    record: Record,
    patience: Patience,
}

impl Answering {
    /// Sends the head.
    ///
    /// # Errors
    ///
    /// When the client has gone.
    pub fn open(responder: Responder, patience: Patience) -> Result<Self, SendError> {
        let (out, record) = responder.open(grpc::head())?;
        Ok(Self { out, record, patience })
    }

    /// Sends the next of `left` bytes as the client takes it. `None` when it takes no more.
    pub(super) async fn send(mut self, chunk: Bytes, left: usize) -> Option<Self> {
        let length = chunk.len();
        let sending = self.patience.send(left, self.out.send(chunk));
        match self.record.sending(sending).await {
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

    /// Sends one message that is in several pieces. `None` when the client takes no more.
    pub async fn send_pieces(mut self, pieces: &[Bytes]) -> Option<Self> {
        let mut left: usize = pieces.iter().map(Bytes::len).sum();
        for piece in pieces {
            let mut rest = piece.clone();
            while !rest.is_empty() {
                let chunk = rest.split_to(rest.len().min(CHUNK));
                let length = chunk.len();
                self = self.send(chunk, left).await?;
                left -= length;
            }
        }
        Some(self)
    }

    /// What is counted of the call.
    pub fn record(&mut self) -> &mut Record {
        &mut self.record
    }

    pub fn finish(self, status: &Status) {
        if self.out.finish(grpc::trailers(status)).is_ok() {
            self.record.end(status.code());
        }
    }
}

/// Answers with one message that is in several pieces.
pub async fn send_pieces(pieces: &[Bytes], responder: Responder, patience: Patience) {
    let Ok(answer) = Answering::open(responder, patience) else { return };
    if let Some(answer) = answer.send_pieces(pieces).await {
        answer.finish(&Status::ok(""));
    }
}
