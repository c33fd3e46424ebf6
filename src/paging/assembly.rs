//! One `RangeResponse` of many.

use super::Page;
use crate::{etcd::wire, grpc};
use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{self, WireType};

/// The pages of a list, put together as the message that etcd would have sent.
#[derive(Debug, Default)]
pub struct Assembly {
    /// Of the first page, whose revision the others were read at.
    header: Bytes,
    kvs: Vec<Bytes>,
    bytes: usize,
    count: i64,
}

impl Assembly {
    pub fn push(&mut self, page: Page) {
        if self.header.is_empty() {
            self.header = page.header;
        }
        self.bytes += page.kvs.iter().map(Bytes::len).sum::<usize>();
        self.count += page.keys.number as i64;
        self.kvs.extend(page.kvs);
    }

    /// Bytes that are held.
    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// The message, with the prefix that frames it, in pieces.
    pub fn finish(self) -> Vec<Bytes> {
        let mut tail = BytesMut::new();
        put_count(self.count, &mut tail);
        let head_length = wire::bytes_field_length(1, self.header.len());
        let length = head_length + self.bytes + tail.len();
        let mut head = BytesMut::with_capacity(grpc::PREFIX_LEN + head_length);
        // Not compressed, and so long. A message cannot be longer than its prefix can say.
        head.put_u8(0);
        head.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        wire::put_bytes(1, &self.header, &mut head);
        let mut pieces = vec![head.freeze()];
        pieces.extend(self.kvs);
        pieces.push(tail.freeze());
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }
}

/// `count` as etcd writes it: nothing for none.
pub(crate) fn put_count(count: i64, out: &mut impl BufMut) {
    if count != 0 {
        encoding::encode_key(4, WireType::Varint, out);
        encoding::encode_varint(count as u64, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::proto::{
        etcdserverpb::{RangeResponse, ResponseHeader},
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
    fn nothing_is_a_list_too() {
        assert_eq!(assembled(&[response(9, 0..0, 0)]), grpc::encode(&response(9, 0..0, 0)));
    }
}
