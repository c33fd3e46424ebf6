use super::{
    Failure,
    etcd::{KeyValue, ResponseHeader},
    grpc::Answer,
};
use bytes::Bytes;
use prost::Message;

/// Reads a RangeResponse of any size without keeping it: key-values are counted and skipped, but
/// for a few small ones.
///
/// Decoding 100 MB would make the client the most expensive process of the three; this looks at a
/// few bytes for each key-value.
#[derive(Debug, Default)]
pub(crate) struct RangeScan {
    state: State,
    varint: Varint,
    header: Vec<u8>,
    /// The key-value that is being kept, as far as it has come.
    small: Vec<u8>,
    /// How the last one that is skipped begins: with its key.
    head: Vec<u8>,
    listed: Listed,
}

/// Smaller than any object of a workload.
const SMALL_BYTES_MAX: usize = 256;
/// Room for any key of a workload.
const HEAD_BYTES_MAX: usize = 256;
/// More small ones are skipped like all others.
const SMALL_KVS_MAX: usize = 8;

/// What a list holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Listed {
    pub(crate) revision: i64,
    /// Length of the message.
    pub(crate) message_bytes: u64,
    pub(crate) kvs: u64,
    /// Length of the key-values that were skipped, each with key, value and revisions.
    pub(crate) kvs_bytes: u64,
    pub(crate) small: Vec<KeyValue>,
    /// Where the next page begins behind.
    pub(crate) last_key: Bytes,
    pub(crate) more: bool,
    pub(crate) count: u64,
}

/// Where in the message the next byte stands.
#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Tag,
    /// The value of a field that is a number.
    Number {
        field: u64,
    },
    /// The length of a field that is bytes.
    Length {
        field: u64,
    },
    Header {
        left: usize,
    },
    Small {
        left: usize,
    },
    /// A key-value that is not kept.
    Object {
        left: usize,
    },
    Skipped {
        left: usize,
    },
}

mod field {
    pub(super) const HEADER: u64 = 1;
    pub(super) const KVS: u64 = 2;
    pub(super) const MORE: u64 = 3;
    pub(super) const COUNT: u64 = 4;
}

impl Answer for RangeScan {
    type Checked = Listed;

    fn piece(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        self.listed.message_bytes += bytes.len() as u64;
        while let Some((&first, rest)) = bytes.split_first() {
            bytes = match self.state {
                State::Skipped { left } => {
                    let (taken, rest) = bytes.split_at(left.min(bytes.len()));
                    self.state = State::skipped(left - taken.len());
                    rest
                }
                State::Object { left } => {
                    let (taken, rest) = bytes.split_at(left.min(bytes.len()));
                    let room = HEAD_BYTES_MAX.saturating_sub(self.head.len());
                    self.head.extend_from_slice(&taken[..room.min(taken.len())]);
                    self.state = State::object(left - taken.len());
                    rest
                }
                State::Header { left } => {
                    let (taken, rest) = bytes.split_at(left.min(bytes.len()));
                    self.header.extend_from_slice(taken);
                    self.state = State::header(left - taken.len());
                    rest
                }
                State::Small { left } => {
                    let (taken, rest) = bytes.split_at(left.min(bytes.len()));
                    self.small.extend_from_slice(taken);
                    self.state = self.small(left - taken.len())?;
                    rest
                }
                State::Tag | State::Number { .. } | State::Length { .. } => {
                    if let Some(number) = self.varint.byte(first)? {
                        self.state = self.number(number)?;
                    }
                    rest
                }
            };
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Listed, Failure> {
        if !matches!(self.state, State::Tag) || self.varint != Varint::default() {
            return Err(Failure::Wrong("a range response that ends within a field"));
        }
        let header = ResponseHeader::decode(self.header.as_slice());
        self.listed.revision = header.map_err(|_| Failure::Wrong("a bad header"))?.revision;
        self.listed.last_key = match key_in(&self.head) {
            Some(key) => Bytes::copy_from_slice(key),
            None => self.listed.small.last().map(|kv| kv.key.clone()).unwrap_or_default(),
        };
        Ok(self.listed)
    }
}

impl RangeScan {
    /// What follows a number that is complete.
    fn number(&mut self, number: u64) -> Result<State, Failure> {
        let length = || usize::try_from(number).map_err(|_| Failure::Wrong("an absurd length"));
        Ok(match self.state {
            State::Tag => match (number >> 3, number & 7) {
                (field, 0) => State::Number { field },
                (field, 2) => State::Length { field },
                _ => return Err(Failure::Wrong("an unknown wire type")),
            },
            State::Number { field } => {
                match field {
                    field::MORE => self.listed.more = number != 0,
                    field::COUNT => self.listed.count = number,
                    _ => {}
                }
                State::Tag
            }
            State::Length { field: field::HEADER } => State::header(length()?),
            State::Length { field: field::KVS } => {
                self.listed.kvs += 1;
                let length = length()?;
                if length <= SMALL_BYTES_MAX && self.listed.small.len() < SMALL_KVS_MAX {
                    return self.small(length);
                }
                self.listed.kvs_bytes += number;
                self.head.clear();
                State::object(length)
            }
            State::Length { .. } => State::skipped(length()?),
            State::Header { .. }
            | State::Small { .. }
            | State::Object { .. }
            | State::Skipped { .. } => self.state,
        })
    }

    fn small(&mut self, left: usize) -> Result<State, Failure> {
        if left > 0 {
            return Ok(State::Small { left });
        }
        self.head.clear();
        let kv = KeyValue::decode(self.small.as_slice());
        self.listed.small.push(kv.map_err(|_| Failure::Wrong("a bad key-value"))?);
        self.small.clear();
        Ok(State::Tag)
    }
}

impl State {
    fn header(left: usize) -> Self {
        if left == 0 { Self::Tag } else { Self::Header { left } }
    }

    fn object(left: usize) -> Self {
        if left == 0 { Self::Tag } else { Self::Object { left } }
    }

    fn skipped(left: usize) -> Self {
        if left == 0 { Self::Tag } else { Self::Skipped { left } }
    }
}

/// The key of a key-value that begins so; none if there is no beginning.
fn key_in(head: &[u8]) -> Option<&[u8]> {
    const KEY_TAG: u8 = 0x0a;
    let (&KEY_TAG, rest) = head.split_first()? else { return None };
    let (&length, rest) = rest.split_first()?;
    match usize::from(length) {
        short if short < 0x80 => rest.get(..short),
        // Two bytes of seven bits each are enough for what fits the head.
        low => {
            let (&high, rest) = rest.split_first()?;
            rest.get(..(low & 0x7f) | usize::from(high) << 7)
        }
    }
}

/// A number of which some bytes have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Varint {
    value: u64,
    shift: u32,
}

impl Varint {
    fn byte(&mut self, byte: u8) -> Result<Option<u64>, Failure> {
        if self.shift > 63 {
            return Err(Failure::Wrong("a number that is too long"));
        }
        self.value |= u64::from(byte & 0x7f) << self.shift;
        self.shift += 7;
        let last = byte & 0x80 == 0;
        Ok(last.then(|| std::mem::take(self).value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::etcd::{KeyValue, RangeResponse};

    fn scan(message: &[u8], piece_bytes: usize) -> Result<Listed, Failure> {
        let mut scan = RangeScan::default();
        for piece in message.chunks(piece_bytes) {
            scan.piece(piece)?;
        }
        scan.finish()
    }

    fn response() -> RangeResponse {
        let kv = |n: usize| KeyValue {
            key: format!("/registry/pods/{n}").into(),
            mod_revision: 300 + n as i64,
            value: vec![b'v'; n * 150].into(),
        };
        RangeResponse {
            header: Some(ResponseHeader { revision: 4711 }),
            kvs: (0..5).map(kv).collect(),
            more: true,
            count: 900,
        }
    }

    #[test]
    fn counts_however_the_message_is_cut() {
        let response = response();
        let message = response.encode_to_vec();
        let expected = Listed {
            revision: 4711,
            message_bytes: message.len() as u64,
            kvs: 5,
            kvs_bytes: response.kvs[2..].iter().map(|kv| kv.encoded_len() as u64).sum(),
            small: response.kvs[..2].to_vec(),
            last_key: "/registry/pods/4".into(),
            more: true,
            count: 900,
        };
        for piece_bytes in 1..=message.len() {
            assert_eq!(scan(&message, piece_bytes), Ok(expected.clone()));
        }
    }

    #[test]
    fn keeps_few_small_ones_however_many_there_are() -> Result<(), Failure> {
        let kv = KeyValue { key: "k".into(), mod_revision: 7, value: "v".into() };
        let kvs = vec![kv; 3 * SMALL_KVS_MAX];
        let message = RangeResponse { kvs, ..response() }.encode_to_vec();
        let listed = scan(&message, message.len())?;
        assert_eq!((listed.kvs, listed.small.len()), (24, SMALL_KVS_MAX));
        Ok(())
    }

    #[test]
    fn knows_the_last_key_whatever_its_length() -> Result<(), Failure> {
        for length in [1, 127, 128, 200] {
            let key = Bytes::from(vec![b'k'; length]);
            let last =
                KeyValue { key: key.clone(), mod_revision: 7, value: vec![b'v'; 900].into() };
            let mut answer = response();
            answer.kvs.push(last);
            let message = answer.encode_to_vec();
            assert_eq!(scan(&message, 7)?.last_key, key);
        }
        Ok(())
    }

    #[test]
    fn refuses_a_message_that_ends_within_a_field() {
        let message = response().encode_to_vec();
        let cut = &message[..message.len() - 1];
        assert_eq!(
            scan(cut, cut.len()),
            Err(Failure::Wrong("a range response that ends within a field"))
        );
    }

    #[test]
    fn refuses_what_is_no_protobuf() {
        assert_eq!(scan(&[0x0f], 1), Err(Failure::Wrong("an unknown wire type")));
        assert_eq!(scan(&[0xff; 11], 3), Err(Failure::Wrong("a number that is too long")));
    }
}
