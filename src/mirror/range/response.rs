//! Answers as bytes, a chunk at a time: a list of any size takes the memory of one chunk, beside the
//! objects that it shares with the store.

use super::{Found, Selection};
use crate::{
    etcd::{range_response, wire},
    grpc,
};
use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of a key-value from which on it is sent from where it lies rather than copied.
const LARGE: usize = 64 << 10;

/// The longest message that etcd sends.
const MESSAGE_MAX: usize = i32::MAX as usize;

/// A framed `RangeResponse`, whose length is known before its first byte is made.
#[derive(Debug)]
pub struct Response {
    length: usize,
    /// What has to be sent before anything else; then empty.
    head: Bytes,
    kvs: KeyValues,
    tail: Bytes,
}

/// The framed messages of a `RangeStream`: key-values, and in the last one also what is said about
/// them.
#[derive(Debug)]
pub struct Stream {
    /// The field of the header.
    head: Bytes,
    kvs: KeyValues,
    tail: Bytes,
    ended: bool,
}

impl Found {
    /// The answer under this header. `None` if it is longer than any message: etcd has the error.
    pub fn response(self, header: &[u8]) -> Option<Response> {
        let tail = range_response::tail(self.more, self.count);
        let header_length = wire::bytes_field_length(1, header.len());
        let length = header_length + self.bytes() + tail.len();
        if length > MESSAGE_MAX {
            return None;
        }
        let mut head = BytesMut::with_capacity(grpc::PREFIX_LEN + header_length);
        grpc::put_prefix(length, &mut head);
        wire::put_bytes(1, header, &mut head);
        let length = grpc::PREFIX_LEN + length;
        Some(Response { length, head: head.freeze(), kvs: KeyValues::of(self), tail })
    }

    /// The answer under this header as a stream.
    pub fn stream(self, header: &[u8]) -> Stream {
        let tail = range_response::tail(self.more, self.count);
        let mut head = BytesMut::with_capacity(wire::bytes_field_length(1, header.len()));
        wire::put_bytes(1, header, &mut head);
        Stream { head: head.freeze(), kvs: KeyValues::of(self), tail, ended: false }
    }
}

impl Response {
    /// Bytes of all chunks, the prefix of the frame included.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The next bytes, about `max` of them, or more if they need not be copied.
    pub fn next_chunk(&mut self, max: usize) -> Option<Bytes> {
        let left = self.head.len() + self.kvs.bytes + self.tail.len();
        let mut out = BytesMut::with_capacity(max.min(left));
        out.put(std::mem::take(&mut self.head));
        self.kvs.fill(&mut out, max);
        if out.is_empty()
            && let Some(large) = self.kvs.take_large()
        {
            return Some(large);
        }
        if self.kvs.is_done() {
            out.put(std::mem::take(&mut self.tail));
        }
        (!out.is_empty()).then(|| out.freeze())
    }
}

impl Stream {
    /// Bytes of key-values that are in no message yet.
    pub fn left(&self) -> usize {
        self.kvs.bytes
    }

    /// The pieces of the next message, which has about `max` bytes of key-values, or a larger one.
    pub fn next_message(&mut self, max: usize) -> Option<Vec<Bytes>> {
        if self.ended {
            return None;
        }
        let mut kvs = BytesMut::with_capacity(max.min(self.kvs.bytes));
        self.kvs.fill(&mut kvs, max);
        let mut pieces = vec![match kvs.is_empty().then(|| self.kvs.take_large()).flatten() {
            Some(large) => large,
            None => kvs.freeze(),
        }];
        if self.kvs.is_done() {
            self.ended = true;
            pieces.insert(0, std::mem::take(&mut self.head));
            pieces.push(std::mem::take(&mut self.tail));
        }
        let length = pieces.iter().map(Bytes::len).sum();
        let mut head = BytesMut::with_capacity(16);
        grpc::put_prefix(wire::bytes_field_length(1, length), &mut head);
        wire::put_bytes_head(1, length, &mut head);
        pieces.insert(0, head.freeze());
        pieces.retain(|piece| !piece.is_empty());
        Some(pieces)
    }
}

/// The key-values that were not sent yet.
#[derive(Debug)]
struct KeyValues {
    selection: Selection,
    keys_only: bool,
    /// How many are done with.
    sent: usize,
    number: usize,
    /// Bytes of those that are left.
    bytes: usize,
}

impl KeyValues {
    fn of(found: Found) -> Self {
        let (number, bytes) = (found.len(), found.bytes());
        Self { selection: found.selection, keys_only: found.keys_only, sent: 0, number, bytes }
    }

    /// Appends whole fields while `out` has room for them, at least one if it is empty, and none that
    /// is better not copied.
    fn fill(&mut self, out: &mut BytesMut, max: usize) {
        let before = out.len();
        let mut filled = 0;
        for object in self.selection.rest(self.sent) {
            let length = object.length(self.keys_only);
            if length >= LARGE || (!out.is_empty() && out.len() + length > max) {
                break;
            }
            object.put(self.keys_only, out);
            filled += 1;
        }
        self.sent += filled;
        self.bytes -= out.len() - before;
    }

    /// The next field if it is one that [`Self::fill`] leaves out.
    fn take_large(&mut self) -> Option<Bytes> {
        let object = self.selection.rest(self.sent).next()?;
        let field = if object.field().len() == object.length(self.keys_only) {
            object.shared_field()
        } else {
            let mut field = BytesMut::with_capacity(object.length(self.keys_only));
            object.put(self.keys_only, &mut field);
            field.freeze()
        };
        self.sent += 1;
        self.bytes -= field.len();
        Some(field)
    }

    fn is_done(&self) -> bool {
        self.sent == self.number
    }
}
