//! Writes of one turn of a connection, gathered into one system call.

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered before they are written without waiting for the end of the turn.
const CORK_BYTES: usize = 64 << 10;

/// A byte stream whose small writes wait in a buffer until [`Cork::poll_flush`].
///
/// `h2` flushes after every DATA frame. Here its flush is a no-op; whoever drives the connection
/// flushes once the connection has nothing more to do, so that the answers of many calls leave in
/// one system call.
#[derive(Debug)]
pub struct Corked<T>(Arc<Mutex<Shared<T>>>);

/// The other handle of a [`Corked`] stream, held by whoever drives the connection.
#[derive(Debug)]
pub struct Cork<T>(Arc<Mutex<Shared<T>>>);

/// Both handles live in one task, so the lock is never contended and never held across an await.
#[derive(Debug)]
struct Shared<T> {
    io: T,
    /// Read from the stream before it came here, and first to be read again.
    read_ahead: Bytes,
    /// Written by `h2`, not yet by us.
    buffer: BytesMut,
    received: u64,
    sent: u64,
}

impl<T> Corked<T> {
    /// Corks `io`, of which `read_ahead` was read already.
    pub fn new(io: T, read_ahead: Bytes) -> (Self, Cork<T>) {
        let shared = Arc::new(Mutex::new(Shared {
            io,
            read_ahead,
            buffer: BytesMut::new(),
            received: 0,
            sent: 0,
        }));
        (Self(Arc::clone(&shared)), Cork(shared))
    }
}

impl<T> Cork<T> {
    /// Bytes that wait to be written.
    pub fn waiting(&self) -> usize {
        self.0.lock().buffer.len()
    }

    /// Bytes read from the stream and written to it so far.
    pub fn traffic(&self) -> (u64, u64) {
        let shared = self.0.lock();
        (shared.received, shared.sent)
    }
}

impl<T: AsyncWrite + Unpin> Cork<T> {
    /// Writes what was gathered. Pending while the socket is full; the caller's task is woken when
    /// it is not.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.lock();
        std::task::ready!(shared.poll_drain(cx))?;
        Pin::new(&mut shared.io).poll_flush(cx)
    }
}

impl<T: AsyncWrite + Unpin> Shared<T> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let written = std::task::ready!(Pin::new(&mut self.io).poll_write(cx, &self.buffer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.advance(written);
            self.sent += written as u64;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Corked<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut shared = self.0.lock();
        if !shared.read_ahead.is_empty() {
            let n = shared.read_ahead.len().min(out.remaining());
            out.put_slice(&shared.read_ahead.split_to(n));
            return Poll::Ready(Ok(()));
        }
        let before = out.filled().len();
        std::task::ready!(Pin::new(&mut shared.io).poll_read(cx, out))?;
        shared.received += (out.filled().len() - before) as u64;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Corked<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut shared = self.0.lock();
        if shared.buffer.len() + bytes.len() > CORK_BYTES {
            std::task::ready!(shared.poll_drain(cx))?;
        }
        shared.buffer.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut shared = self.0.lock();
        let total = parts.iter().map(|part| part.len()).sum();
        if shared.buffer.len() + total > CORK_BYTES {
            std::task::ready!(shared.poll_drain(cx))?;
        }
        for part in parts {
            shared.buffer.extend_from_slice(part);
        }
        Poll::Ready(Ok(total))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing; see [`Cork::poll_flush`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.lock();
        std::task::ready!(shared.poll_drain(cx))?;
        Pin::new(&mut shared.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn reads_what_was_read_ahead_first() {
        let (mut far, near) = tokio::io::duplex(64);
        let (mut corked, _cork) = Corked::new(near, Bytes::from_static(b"PRI "));
        far.write_all(b"* HTTP").await.expect("write");
        let mut read = [0; 10];
        corked.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"PRI * HTTP");
    }

    #[tokio::test]
    async fn writes_leave_in_one_piece_when_the_turn_ends() {
        let (mut far, near) = tokio::io::duplex(64);
        let (mut corked, cork) = Corked::new(near, Bytes::new());
        corked.write_all(b"one").await.expect("write");
        corked.flush().await.expect("a flush that waits for the turn's end");
        corked.write_all(b"two").await.expect("write");
        poll_fn(|cx| cork.poll_flush(cx)).await.expect("flush");
        let mut read = [0; 16];
        assert_eq!(far.read(&mut read).await.expect("read"), 6);
    }

    #[tokio::test]
    async fn a_full_socket_pushes_back_and_loses_nothing() {
        let (mut far, near) = tokio::io::duplex(1 << 10);
        let (mut corked, cork) = Corked::new(near, Bytes::new());
        let sent: Vec<u8> = (0..1 << 20).map(|i| (i % 251) as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            corked.write_all(&sent).await.expect("write");
            poll_fn(|cx| cork.poll_flush(cx)).await.expect("flush");
        });
        let mut read = vec![0; expected.len()];
        far.read_exact(&mut read).await.expect("read");
        writer.await.expect("writer");
        assert_eq!(read, expected);
    }
}
