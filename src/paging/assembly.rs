//! One `RangeResponse` of many.

use super::Page;
use crate::{
    etcd::{range_response::tail, wire},
    grpc,
};
use bytes::{BufMut, Bytes, BytesMut};

/// The pages of a list, put together as the message that etcd would have sent.
#[derive(Debug, Clone, Default)]
pub struct Assembly {
    /// Of the first page, whose revision the others were read at.
    header: Bytes,
    kvs: Vec<Bytes>,
    bytes: usize,
    more: bool,
    count: i64,
    /// The largest key-value and its size.
    largest: Option<(Bytes, u64)>,
}

impl Assembly {
    /// A page that is all there is.
    pub fn of(page: Page) -> Self {
        let (more, count) = (page.more, page.count);
        let mut this = Self::default();
        this.push(page);
        Self { more, count, ..this }
    }

    /// What follows what is there already.
    pub fn push(&mut self, page: Page) {
        if self.header.is_empty() {
            self.header = page.header;
        }
        self.bytes += page.kvs.iter().map(Bytes::len).sum::<usize>();
        self.count += page.keys.number as i64;
        self.kvs.extend(page.kvs);
        let size = |largest: &Option<(Bytes, u64)>| largest.as_ref().map_or(0, |(_, size)| *size);
        if size(&page.keys.largest) > size(&self.largest) {
            self.largest = page.keys.largest;
        }
    }

    /// The key of the largest key-value, and its size.
    pub fn largest(&self) -> Option<(Bytes, u64)> {
        self.largest.clone()
    }

    /// The same key-values under another header.
    pub fn with_header(&self, header: Bytes) -> Self {
        Self { header, ..self.clone() }
    }

    pub fn header(&self) -> &Bytes {
        &self.header
    }

    /// Bytes of the key-values.
    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Keys that are counted.
    pub fn count(&self) -> i64 {
        self.count
    }

    /// The message, with the prefix that frames it, in pieces.
    pub fn finish(self) -> Vec<Bytes> {
        let tail = tail(self.more, self.count);
        let head_length = wire::bytes_field_length(1, self.header.len());
        let length = head_length + self.bytes + tail.len();
        let mut head = BytesMut::with_capacity(grpc::PREFIX_LEN + head_length);
        grpc::put_prefix(length, &mut head);
        wire::put_bytes(1, &self.header, &mut head);
        let mut pieces = vec![head.freeze()];
        pieces.extend(self.kvs);
        pieces.push(tail);
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }
}

/// The pieces of a `RangeStreamResponse` with these `kvs` alone.
pub fn stream_chunk(kvs: Vec<Bytes>) -> Vec<Bytes> {
    let bytes = kvs.iter().map(Bytes::len).sum();
    let mut pieces = vec![stream_head(bytes)];
    pieces.extend(kvs);
    pieces
}

/// The last `RangeStreamResponse` of a stream.
pub fn stream_end(header: &Bytes, more: bool, count: i64) -> Bytes {
    let tail = tail(more, count);
    let mut response =
        BytesMut::with_capacity(wire::bytes_field_length(1, header.len()) + tail.len());
    wire::put_bytes(1, header, &mut response);
    response.put(tail);
    let mut out = BytesMut::from(&stream_head(response.len())[..]);
    out.put(response);
    out.freeze()
}

/// What precedes a `RangeResponse` of `length` bytes in a message that holds it alone.
fn stream_head(length: usize) -> Bytes {
    let mut head = BytesMut::with_capacity(16);
    grpc::put_prefix(wire::bytes_field_length(1, length), &mut head);
    wire::put_bytes_head(1, length, &mut head);
    head.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::proto::{
        etcdserverpb::{RangeResponse, RangeStreamResponse, ResponseHeader},
        mvccpb::KeyValue,
    };
    use prost::Message;

    fn response(revision: i64, keys: std::ops::Range<u32>, count: i64) -> RangeResponse {
        let kv = |number| KeyValue { key: format!("{number:04}").into(), ..KeyValue::default() };
        let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
        RangeResponse { header, kvs: keys.map(kv).collect(), more: false, count }
    }

    fn assembled(pages: &[RangeResponse]) -> Bytes {
        let mut assembly = Assembly::default();
        for page in pages {
            let page = Page::parse(&page.encode_to_vec().into(), 100);
            assembly.push(page.expect("a message"));
        }
        assembly.finish().concat().into()
    }

    #[test]
    fn pages_become_the_bytes_of_the_whole() {
        let pages = [response(9, 0..3, 3), response(12, 3..3, 0), response(15, 3..10, 7)];
        assert_eq!(assembled(&pages), grpc::encode(&response(9, 0..10, 10)));
    }

    #[test]
    fn a_page_is_the_bytes_it_came_in() {
        let page = RangeResponse { more: true, ..response(9, 0..3, 7) };
        let parsed = Page::parse(&page.encode_to_vec().into(), 100).expect("a message");
        let assembly = Assembly::of(parsed);
        assert_eq!(assembly.clone().finish().concat(), grpc::encode(&page));
        let header = ResponseHeader { revision: 12, ..ResponseHeader::default() };
        let later = assembly.with_header(header.encode_to_vec().into()).finish().concat();
        assert_eq!(later, grpc::encode(&RangeResponse { header: Some(header), ..page }));
    }

    #[test]
    fn a_stream_is_the_same_in_chunks() {
        let whole = RangeResponse { more: true, ..response(9, 0..3, 7) };
        let parsed = Page::parse(&whole.encode_to_vec().into(), 100).expect("a message");
        let end = stream_end(&parsed.header, parsed.more, parsed.count);
        let chunk = stream_chunk(parsed.kvs).concat();
        let mut merged = RangeStreamResponse::default();
        for framed in [Bytes::from(chunk), end] {
            merged.merge(grpc::Message::from_framed(framed).payload()).expect("a message");
        }
        assert_eq!(merged.range_response, Some(whole));
    }

    #[test]
    fn nothing_is_a_list_too() {
        assert_eq!(assembled(&[response(9, 0..0, 0)]), grpc::encode(&response(9, 0..0, 0)));
    }
}
