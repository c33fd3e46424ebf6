//! The parts of a `RangeResponse` that are not etcd's own bytes where it is put together here.

use bytes::{Bytes, BytesMut};
use prost::encoding::{self, WireType};

/// `more` and `count` as etcd writes them: nothing where they say nothing.
pub fn tail(more: bool, count: i64) -> Bytes {
    let mut tail = BytesMut::new();
    for (number, value) in [(3, u64::from(more)), (4, count as u64)] {
        if value != 0 {
            encoding::encode_key(number, WireType::Varint, &mut tail);
            encoding::encode_varint(value, &mut tail);
        }
    }
    tail.freeze()
}

/// The last bytes of an answer on its way through, in which etcd says how many keys there are.
#[derive(Debug, Clone, Copy, Default)]
pub struct End([u8; LENGTH]);

/// Two numbers with their tags.
const LENGTH: usize = 22;

const REVISION: u8 = 3 << 3;
const COUNT: u8 = 4 << 3;

impl End {
    /// `chunk` follows.
    pub fn add(&mut self, chunk: &[u8]) {
        let fresh = &chunk[chunk.len().saturating_sub(LENGTH)..];
        self.0.copy_within(fresh.len().., 0);
        self.0[LENGTH - fresh.len()..].copy_from_slice(fresh);
    }

    /// The `count` of a whole answer to a range, with which it ends; `None` where etcd says none. An
    /// answer without keys ends with its header, whose last field, the term behind the revision, has
    /// the same number.
    pub fn count(&self) -> Option<u64> {
        let (before, COUNT, count) = last_number(&self.0)? else { return None };
        match last_number(before) {
            // 1 is not the revision but `more`.
            Some((_, REVISION, revision)) if revision != 1 => None,
            _ => Some(count),
        }
    }
}

/// What `bytes` end with, if it is a field that holds a number: what is before it, its tag, and the
/// number. Of all the bytes of both, the tag and the number's last one alone are small.
fn last_number(bytes: &[u8]) -> Option<(&[u8], u8, u64)> {
    let (last, head) = bytes.split_last()?;
    let tag = head.iter().rposition(|byte| *byte < 0x80).filter(|_| *last < 0x80)?;
    let number = encoding::decode_varint(&mut &bytes[tag + 1..]).ok()?;
    Some((&bytes[..tag], bytes[tag], number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::proto::{
        etcdserverpb::{RangeResponse, RangeStreamResponse, ResponseHeader},
        mvccpb::KeyValue,
    };
    use proptest::{collection::vec, prelude::*};
    use prost::Message;

    fn response(kvs: Vec<KeyValue>, more: bool, count: i64) -> RangeResponse {
        let header =
            ResponseHeader { cluster_id: 1 << 60, member_id: 1 << 61, revision: 300, raft_term: 7 };
        RangeResponse { header: Some(header), kvs, more, count }
    }

    /// The count as it is seen in pieces of so many bytes.
    fn count(message: &[u8], piece: usize) -> Option<u64> {
        let mut end = End::default();
        message.chunks(piece).for_each(|chunk| end.add(chunk));
        end.count()
    }

    #[test]
    fn an_answer_without_keys_says_no_count() {
        let none = response(Vec::new(), false, 0).encode_to_vec();
        assert_eq!(count(&none, 10), None);
        assert_eq!(count(&[], 10), None);
        let counted = response(Vec::new(), false, 150_000).encode_to_vec();
        assert_eq!(count(&counted, 10), Some(150_000));
    }

    proptest! {
        #[test]
        fn the_count_is_seen_however_the_answer_comes(
            key in vec(any::<u8>(), 1..9),
            (more, keys_only) in any::<(bool, bool)>(),
            number in 1..=i64::MAX,
            piece in 1usize..60,
        ) {
            let value = if keys_only { Vec::new() } else { b"v".to_vec() };
            let (key, value) = (key.into(), value.into());
            let kv = KeyValue { key, mod_revision: 9, version: 3, value, ..KeyValue::default() };
            let response = response(vec![kv], more, number);
            let whole = response.encode_to_vec();
            prop_assert_eq!(count(&whole, piece), Some(number as u64));
            let streamed = RangeStreamResponse { range_response: Some(response) };
            prop_assert_eq!(count(&streamed.encode_to_vec(), piece), Some(number as u64));
        }

        #[test]
        fn nothing_that_comes_is_too_strange(bytes in vec(any::<u8>(), 0..60), piece in 1usize..9) {
            count(&bytes, piece);
        }
    }
}
