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
