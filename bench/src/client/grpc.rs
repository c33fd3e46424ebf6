//! gRPC's framing of messages: a flag for compression, a length of four bytes, the message.

use super::Failure;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

pub(crate) const CONTENT_TYPE: &str = "application/grpc";

const PREFIX_BYTES: usize = 5;

pub(crate) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("requests are smaller than 4 GiB"));
    message.encode(&mut frame).expect("the buffer grows");
    frame.freeze()
}

/// What becomes of the one message of an answer. Its bytes come in pieces, as they arrive.
pub(crate) trait Answer: Default {
    type Checked;

    fn piece(&mut self, bytes: &[u8]) -> Result<(), Failure>;

    /// Called once the message is complete.
    fn finish(self) -> Result<Self::Checked, Failure>;
}

/// Collects a message and decodes it.
#[derive(Debug)]
pub(crate) struct Decoded<M> {
    bytes: BytesMut,
    message: std::marker::PhantomData<M>,
}

impl<M> Default for Decoded<M> {
    fn default() -> Self {
        Self { bytes: BytesMut::new(), message: std::marker::PhantomData }
    }
}

impl<M: Message + Default> Answer for Decoded<M> {
    type Checked = M;

    fn piece(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self) -> Result<M, Failure> {
        M::decode(self.bytes.freeze()).map_err(|_| Failure::Wrong("a message that is no protobuf"))
    }
}

/// Takes the prefix off the one message of a body, and verifies that it is one and is whole.
#[derive(Debug, Default)]
pub(crate) struct Deframer {
    prefix: Vec<u8>,
    left: usize,
}

impl Deframer {
    pub(crate) fn data(
        &mut self,
        mut data: Bytes,
        answer: &mut impl Answer,
    ) -> Result<(), Failure> {
        let missing = PREFIX_BYTES - self.prefix.len();
        if missing > 0 {
            self.prefix.extend_from_slice(&data.split_to(missing.min(data.len())));
            if self.prefix.len() < PREFIX_BYTES {
                return Ok(());
            }
            let mut prefix = self.prefix.as_slice();
            if prefix.get_u8() != 0 {
                return Err(Failure::Wrong("a compressed message"));
            }
            self.left = prefix.get_u32() as usize;
        }
        if data.len() > self.left {
            return Err(Failure::Wrong("more than one message"));
        }
        self.left -= data.len();
        answer.piece(&data)
    }

    pub(crate) fn finish(&self) -> Result<(), Failure> {
        if self.prefix.len() == PREFIX_BYTES && self.left == 0 {
            Ok(())
        } else {
            Err(Failure::Wrong("a message that is cut short"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::etcd::{PutResponse, ResponseHeader};

    fn deframe(body: &[u8], piece_bytes: usize) -> Result<PutResponse, Failure> {
        let (mut deframer, mut answer) = (Deframer::default(), Decoded::default());
        for piece in body.chunks(piece_bytes) {
            deframer.data(Bytes::copy_from_slice(piece), &mut answer)?;
        }
        deframer.finish()?;
        answer.finish()
    }

    #[test]
    fn reads_a_message_however_it_is_cut() {
        let message = PutResponse { header: Some(ResponseHeader { revision: 1 << 40 }) };
        let body = frame(&message);
        for piece_bytes in 1..=body.len() {
            assert_eq!(deframe(&body, piece_bytes), Ok(message.clone()));
        }
    }

    #[test]
    fn refuses_what_is_not_exactly_one_message() {
        let body = frame(&PutResponse { header: Some(ResponseHeader { revision: 7 }) });
        let wrong = |body: &[u8]| deframe(body, body.len().max(1)).expect_err("it is wrong");
        assert_eq!(wrong(&[]), Failure::Wrong("a message that is cut short"));
        assert_eq!(wrong(&body[..body.len() - 1]), Failure::Wrong("a message that is cut short"));
        assert_eq!(
            wrong(&[&body[..], &body[..]].concat()),
            Failure::Wrong("more than one message")
        );
        assert_eq!(wrong(&[&[1], &body[1..]].concat()), Failure::Wrong("a compressed message"));
    }
}
