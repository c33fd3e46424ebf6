//! The receiving half of a stream.

use super::frame::{Message, PREFIX_LEN, length};
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;
use std::{
    future::poll_fn,
    task::{Context, Poll},
};

/// Why no further message could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The peer reset the stream or the connection broke.
    #[error("stream broken: {0}")]
    Broken(#[from] h2::Error),
    /// The peer announced more than it may send.
    #[error("grpc: received message larger than max ({length} vs. {max})")]
    TooLarge { length: usize, max: usize },
    /// The peer ended its side inside a message.
    #[error("unexpected EOF")]
    Truncated,
}

/// Messages, or pieces of them, from one HTTP/2 stream.
///
/// The window is given back to the peer as bytes arrive here, except for those that
/// [`Incoming::poll_chunk`] takes, whose caller gives it back when they have gone on.
#[derive(Debug)]
pub struct Incoming {
    stream: RecvStream,
    /// Received and not yet taken: a slice of what arrived ...
    rest: Bytes,
    /// ... or, while a message arrives in several pieces, their copy. One of the two is empty.
    joined: BytesMut,
    /// Bytes of a chunk whose window was given back before it was taken, when it was peeked at.
    released: usize,
}

impl Incoming {
    pub fn new(stream: RecvStream) -> Self {
        Self { stream, rest: Bytes::new(), joined: BytesMut::new(), released: 0 }
    }

    /// Whether the peer has ended its side and everything was taken.
    pub fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.joined.is_empty() && self.stream.is_end_stream()
    }

    /// The next piece of whatever size it arrived in; `None` after the last one. Its window must be
    /// given back with [`Incoming::release`].
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        if !self.rest.is_empty() {
            self.released += self.rest.len();
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.rest))));
        }
        debug_assert!(self.joined.is_empty(), "chunks are not taken from inside a message");
        self.stream.poll_data(cx)
    }

    /// Lets the peer send as much again as a chunk was that has gone on; chunks go in their order.
    pub fn release(&mut self, bytes: usize) {
        let before = bytes.min(self.released);
        self.released -= before;
        self.give_back(bytes - before);
    }

    /// Lets the peer send `bytes` more.
    fn give_back(&mut self, bytes: usize) {
        // Fails only for more than was received or on a closed stream, where it has no meaning.
        let _ = self.stream.flow_control().release_capacity(bytes);
    }

    /// What follows the last piece.
    pub async fn trailers(&mut self) -> Result<Option<HeaderMap>, h2::Error> {
        poll_fn(|cx| self.stream.poll_trailers(cx)).await
    }

    /// The next whole message of at most `max` bytes; `None` when the peer has ended its side, be
    /// it with the beginning of a prefix.
    ///
    /// Dropped before it is ready, it loses nothing.
    pub async fn message(&mut self, max: usize) -> Result<Option<Message>, ReadError> {
        if self.rest.len() < PREFIX_LEN && !self.fill(PREFIX_LEN).await? {
            return Ok(None);
        }
        let length = length(&self.rest);
        if length > max {
            return Err(ReadError::TooLarge { length, max });
        }
        let whole = PREFIX_LEN + length;
        if self.rest.len() < whole && !self.fill(whole).await? {
            return Err(ReadError::Truncated);
        }
        Ok(Some(Message::from_framed(self.rest.split_to(whole))))
    }

    /// The length of the next message without taking it; `None` when the peer has ended its side.
    pub async fn peek_length(&mut self) -> Result<Option<usize>, ReadError> {
        if self.rest.len() < PREFIX_LEN && !self.fill(PREFIX_LEN).await? {
            return if self.rest.is_empty() { Ok(None) } else { Err(ReadError::Truncated) };
        }
        Ok(Some(length(&self.rest)))
    }

    /// The first `wanted` bytes after the prefix of the message that was peeked, or all of them.
    pub async fn peek_payload(&mut self, wanted: usize) -> Result<Bytes, ReadError> {
        let wanted = PREFIX_LEN + wanted.min(length(&self.rest));
        if self.rest.len() < wanted && !self.fill(wanted).await? {
            return Err(ReadError::Truncated);
        }
        Ok(self.rest.slice(PREFIX_LEN..wanted))
    }

    /// Up to `max` bytes, at least one.
    pub async fn piece(&mut self, max: usize) -> Result<Bytes, ReadError> {
        if self.rest.is_empty() && !self.fill(1).await? {
            return Err(ReadError::Truncated);
        }
        let n = self.rest.len().min(max);
        Ok(self.rest.split_to(n))
    }

    /// Reads until `rest` holds `wanted` bytes; false when the stream ends before. Dropped, it loses
    /// nothing.
    async fn fill(&mut self, wanted: usize) -> Result<bool, ReadError> {
        loop {
            if self.rest.len() >= wanted {
                return Ok(true);
            }
            if self.joined.len() >= wanted {
                self.rest = std::mem::take(&mut self.joined).freeze();
                return Ok(true);
            }
            let Some(chunk) = poll_fn(|cx| self.stream.poll_data(cx)).await else {
                if self.rest.is_empty() {
                    self.rest = std::mem::take(&mut self.joined).freeze();
                }
                return Ok(false);
            };
            let chunk = chunk?;
            self.give_back(chunk.len());
            self.append(chunk, wanted);
        }
    }

    fn append(&mut self, chunk: Bytes, wanted: usize) {
        if self.rest.is_empty() && self.joined.is_empty() {
            self.rest = chunk;
            return;
        }
        if self.joined.is_empty() {
            // No more at once than a peer that only announced a length should cost.
            self.joined.reserve(wanted.min(RESERVE_MAX).max(self.rest.len() + chunk.len()));
            self.joined.extend_from_slice(&std::mem::take(&mut self.rest));
        }
        self.joined.extend_from_slice(&chunk);
    }
}

/// Bytes reserved on the word of a message's prefix alone.
const RESERVE_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use h2::{client, server};
    use http::{Request, Response};
    use std::time::Duration;
    use tokio::{io::duplex, time::timeout};

    const WINDOW: u32 = 100;

    /// Bytes that come until nothing more does.
    async fn taken(incoming: &mut Incoming) -> usize {
        let mut bytes = 0;
        let next = async |incoming: &mut Incoming| poll_fn(|cx| incoming.poll_chunk(cx)).await;
        while let Ok(Some(chunk)) = timeout(Duration::from_secs(1), next(incoming)).await {
            bytes += chunk.expect("a chunk").len();
        }
        bytes
    }

    /// A member could send as much again for an answer that was peeked at, and once more for the same
    /// when that had gone on.
    #[tokio::test(start_paused = true)]
    async fn the_window_of_a_chunk_that_was_peeked_at_is_given_back_once() {
        let (ours, theirs) = duplex(1 << 16);
        tokio::spawn(async move {
            let mut connection = server::handshake(theirs).await.expect("a connection");
            let (_, mut respond) = connection.accept().await.expect("a call").expect("a call");
            let mut out = respond.send_response(Response::new(()), false).expect("it is open");
            out.send_data(crate::grpc::frame(&[7; 1000]), true).expect("it is open");
            while connection.accept().await.is_some() {}
        });
        let mut settings = client::Builder::new();
        let handshake = settings.initial_window_size(WINDOW).handshake::<_, Bytes>(ours).await;
        let (mut sender, connection) = handshake.expect("a connection");
        tokio::spawn(connection);
        let (response, _) = sender.send_request(Request::new(()), true).expect("a call");
        let body = response.await.expect("an answer").into_body();
        let (mut incoming, window) = (Incoming::new(body), WINDOW as usize);

        assert_eq!(incoming.peek_length().await.expect("a prefix"), Some(1000));
        let peeked =
            poll_fn(|cx| incoming.poll_chunk(cx)).await.expect("a chunk").expect("a chunk");
        assert_eq!(peeked.len(), window);
        // The next window arrives, and is not taken yet.
        tokio::time::sleep(Duration::from_secs(1)).await;
        incoming.release(window);
        assert_eq!(taken(&mut incoming).await, window);
        incoming.release(window);
        assert_eq!(taken(&mut incoming).await, window);
    }
}
