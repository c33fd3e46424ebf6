//! The sending half of a stream.

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use std::{
    future::poll_fn,
    task::{Context, Poll},
};

/// The peer does not want the stream any more, or its connection broke.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("the peer gave the call up ({0})")]
    Reset(Reason),
    #[error("stream broken: {0}")]
    Broken(#[from] h2::Error),
}

/// Bytes into one HTTP/2 stream, no faster than the peer's window takes them.
#[derive(Debug)]
pub struct Outgoing {
    stream: SendStream<Bytes>,
}

impl Outgoing {
    pub fn new(stream: SendStream<Bytes>) -> Self {
        Self { stream }
    }

    /// Sends all of `bytes`; dropped before the end, it has sent a part of them.
    pub async fn send(&mut self, mut bytes: Bytes) -> Result<(), SendError> {
        while !bytes.is_empty() {
            let granted = self.capacity(bytes.len()).await?;
            let part = bytes.split_to(granted.min(bytes.len()));
            self.stream.send_data(part, false)?;
        }
        Ok(())
    }

    /// Waits until some of `wanted` bytes may be sent and returns how many.
    pub async fn capacity(&mut self, wanted: usize) -> Result<usize, SendError> {
        self.stream.reserve_capacity(wanted);
        loop {
            let capacity = self.stream.capacity();
            if capacity > 0 {
                return Ok(capacity);
            }
            match poll_fn(|cx| self.stream.poll_capacity(cx)).await {
                Some(granted) => granted?,
                None => return Err(SendError::Reset(Reason::CANCEL)),
            };
        }
    }

    /// Ends the stream with `trailers`, as a server does.
    pub fn finish(mut self, trailers: HeaderMap) -> Result<(), SendError> {
        Ok(self.stream.send_trailers(trailers)?)
    }

    /// Ends our side of the stream, as a client does.
    pub fn close(&mut self) -> Result<(), SendError> {
        Ok(self.stream.send_data(Bytes::new(), true)?)
    }

    /// Breaks the stream off.
    pub fn reset(mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    /// Ready once the peer has given the stream up.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<SendError> {
        self.stream
            .poll_reset(cx)
            .map(|reset| reset.map_or_else(SendError::Broken, SendError::Reset))
    }
}
