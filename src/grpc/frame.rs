//! The length-prefixed message of gRPC.

use bytes::{BufMut, Bytes, BytesMut};

/// One byte that says whether the message is compressed, four of length.
pub const PREFIX_LEN: usize = 5;

/// A message with its prefix, as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    framed: Bytes,
}

impl Message {
    /// Takes the bytes of one prefix and its whole message.
    pub fn from_framed(framed: Bytes) -> Self {
        debug_assert!(framed.len() >= PREFIX_LEN);
        Self { framed }
    }

    /// With the prefix, ready to be forwarded.
    pub fn framed(&self) -> Bytes {
        self.framed.clone()
    }

    /// Without the prefix; protobuf unless [`Self::is_compressed`].
    pub fn payload(&self) -> Bytes {
        self.framed.slice(PREFIX_LEN..)
    }

    pub fn is_compressed(&self) -> bool {
        self.framed[0] != 0
    }

    /// Whether it says no more than `read`, which was decoded from it. Fields that are given twice, or
    /// that this build does not know, may mean something else to etcd: where there are two requests in
    /// a field for one of several, Go takes the second alone, and Rust lays it over the first.
    pub fn is_all_in(&self, read: &impl prost::Message) -> bool {
        PREFIX_LEN + read.encoded_len() == self.framed.len()
    }
}

/// Puts the prefix before `payload`.
pub fn frame(payload: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_LEN + payload.len());
    put_prefix(payload.len(), &mut framed);
    framed.put_slice(payload);
    framed.freeze()
}

/// The prefix of a message of `length` bytes, not compressed.
pub fn put_prefix(length: usize, out: &mut impl BufMut) {
    out.put_u8(0);
    // A message this process made or read whole is far below 4 GiB.
    out.put_u32(length as u32);
}

/// Encodes `message` with its prefix.
pub fn encode(message: &impl prost::Message) -> Bytes {
    frame(&message.encode_to_vec())
}

/// Length that a prefix announces.
pub(super) fn length(prefix: &[u8]) -> usize {
    prefix[1..PREFIX_LEN].iter().fold(0, |length, &byte| length << 8 | usize::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Request {
        #[prost(int64, tag = "1")]
        lease: i64,
    }

    #[test]
    fn what_is_given_twice_or_unknown_is_more_than_was_read() {
        let request = Request { lease: 7 }.encode_to_vec();
        // Field 15, of one byte.
        let unknown = vec![0x7a, 1, 0];
        for (sent, expected) in [
            (request.clone(), true),
            ([request.clone(), request.clone()].concat(), false),
            ([request, unknown].concat(), false),
        ] {
            let message = Message::from_framed(frame(&sent));
            let read = Request::decode(message.payload()).expect("a request");
            assert_eq!(message.is_all_in(&read), expected, "{sent:?}");
        }
    }
}
