//! Protobuf fields as they lie in the bytes, for messages that are looked into or patched without
//! being decoded: fields that this build does not know survive.

use bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType};

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    pub number: u32,
    pub value: Value<'a>,
    /// The whole field, its tag included.
    pub raw: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// A fixed-width number or a group, which etcd does not use.
    Other,
}

impl<'a> Value<'a> {
    /// The number, or 0 as for an absent field.
    pub fn varint(self) -> u64 {
        if let Self::Varint(value) = self { value } else { 0 }
    }

    /// The bytes, or none as for an absent field.
    pub fn bytes(self) -> &'a [u8] {
        if let Self::Bytes(value) = self { value } else { &[] }
    }
}

/// The bytes are not a protobuf message, or end in the middle of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf message")]
pub struct Malformed;

/// The fields of `message` from its beginning. Ends with [`Malformed`] where it makes no sense.
pub fn fields(message: &[u8]) -> impl Iterator<Item = Result<Field<'_>, Malformed>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = take_field(&mut rest).map_err(|_| Malformed);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

fn take_field<'a>(rest: &mut &'a [u8]) -> Result<Field<'a>, prost::DecodeError> {
    let whole = *rest;
    let (number, wire_type) = encoding::decode_key(rest)?;
    let value = match wire_type {
        WireType::Varint => Value::Varint(encoding::decode_varint(rest)?),
        WireType::LengthDelimited => {
            let start = *rest;
            encoding::skip_field(wire_type, number, rest, DecodeContext::default())?;
            let mut body = &start[..start.len() - rest.len()];
            encoding::decode_varint(&mut body)?;
            Value::Bytes(body)
        }
        _ => {
            encoding::skip_field(wire_type, number, rest, DecodeContext::default())?;
            Value::Other
        }
    };
    Ok(Field { number, value, raw: &whole[..whole.len() - rest.remaining()] })
}

/// Appends a field of bytes.
pub fn put_bytes(number: u32, value: &[u8], out: &mut impl BufMut) {
    put_bytes_head(number, value.len(), out);
    out.put_slice(value);
}

/// Appends what precedes the `length` bytes of such a field.
pub fn put_bytes_head(number: u32, length: usize, out: &mut impl BufMut) {
    encoding::encode_key(number, WireType::LengthDelimited, out);
    encoding::encode_varint(length as u64, out);
}

/// Bytes that [`put_bytes`] appends for a value of `length` bytes.
pub fn bytes_field_length(number: u32, length: usize) -> usize {
    encoding::key_len(number) + encoding::encoded_len_varint(length as u64) + length
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::proto::etcdserverpb::{ResponseHeader, StatusResponse};
    use prost::Message;

    #[test]
    fn walks_the_fields_of_a_message() {
        let status = StatusResponse {
            header: Some(ResponseHeader { cluster_id: 7, ..Default::default() }),
            version: "3.6.1".into(),
            db_size: 300,
            ..Default::default()
        };
        let bytes = status.encode_to_vec();
        let found: Vec<_> = fields(&bytes).map(|field| field.expect("a field")).collect();
        assert_eq!(found.iter().map(|field| field.number).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(found[1].value.bytes(), b"3.6.1");
        assert_eq!(found[2].value.varint(), 300);
        assert_eq!(found.iter().flat_map(|field| field.raw).copied().collect::<Vec<_>>(), bytes);
    }

    #[test]
    fn ends_at_the_first_nonsense() {
        for bytes in [
            &b"\x0a\xff"[..],
            b"\x0a",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x07\x01",
        ] {
            let found: Vec<_> = fields(bytes).collect();
            assert_eq!(found.last(), Some(&Err(Malformed)), "{bytes:?}");
        }
    }
}
