//! One key-value as the mirror holds it.

use crate::etcd::wire::{self, Malformed};
use bytes::{BufMut, Bytes};
use std::{ops::Range, sync::Arc};

/// The number of `RangeResponse.kvs`, and of `Event.kv` as well.
const KVS: u32 = 2;

/// Numbers of the fields of `KeyValue`.
const KEY: u32 = 1;
const CREATE_REVISION: u32 = 2;
const MOD_REVISION: u32 = 3;
const VERSION: u32 = 4;
const VALUE: u32 = 5;
const LEASE: u32 = 6;

/// A key-value: etcd's own bytes in an allocation of their own, so that none of the page or watch
/// response that it came in is kept alive by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The whole `kvs` field: tag, length, `KeyValue`.
    field: Box<[u8]>,
    /// Where in `field` the `KeyValue` begins. The ranges below count from there.
    kv: u32,
    key: Range<u32>,
    /// The whole field of the value; empty if the value is, or is not held.
    value: Range<u32>,
    /// Bytes of the value, whether it is held or not, as far as that is known.
    value_bytes: u32,
    /// Whether the value is here.
    held: bool,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub lease: i64,
}

/// Bytes that an object takes beside those of its field: itself, the counts of its `Arc`, its place
/// in a leaf of the tree, and what the allocator adds.
pub(super) const OVERHEAD: usize = size_of::<Object>() + 56;

/// An object as the owner of bytes.
struct Owner(Arc<Object>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        self.0.field()
    }
}

impl Object {
    /// Reads the bytes of a `KeyValue`. Fields that this build does not know stay in them.
    ///
    /// # Errors
    ///
    /// When they are not a message, or longer than any that gRPC can carry.
    pub fn parse(kv: &[u8]) -> Result<Self, Malformed> {
        let length = wire::bytes_field_length(KVS, kv.len());
        u32::try_from(length).map_err(|_| Malformed)?;
        let mut field = Vec::with_capacity(length);
        wire::put_bytes(KVS, kv, &mut field);
        let mut object = Self {
            kv: (length - kv.len()) as u32,
            field: field.into_boxed_slice(),
            key: 0..0,
            value: 0..0,
            value_bytes: 0,
            held: true,
            create_revision: 0,
            mod_revision: 0,
            version: 0,
            lease: 0,
        };
        let mut end = 0;
        for found in wire::fields(kv) {
            let found = found?;
            let whole = end..end + found.raw.len() as u32;
            end = whole.end;
            let bytes = found.value.bytes().len() as u32;
            match found.number {
                KEY => object.key = end - bytes..end,
                CREATE_REVISION => object.create_revision = found.value.varint() as i64,
                MOD_REVISION => object.mod_revision = found.value.varint() as i64,
                VERSION => object.version = found.value.varint() as i64,
                VALUE => (object.value, object.value_bytes) = (whole, bytes),
                LEASE => object.lease = found.value.varint() as i64,
                _ => {}
            }
        }
        Ok(object)
    }

    /// The same for what etcd answers to `keys_only`, which does not tell whether there is a value.
    ///
    /// # Errors
    ///
    /// As of [`Self::parse`].
    pub fn parse_key(kv: &[u8]) -> Result<Self, Malformed> {
        Ok(Self { held: false, ..Self::parse(kv)? })
    }

    pub fn key(&self) -> &[u8] {
        self.slice(&self.key)
    }

    /// The value, or `None` if it is not held.
    pub fn value(&self) -> Option<&[u8]> {
        let end = self.value.end;
        self.holds_value().then(|| self.slice(&(end - self.value_bytes..end)))
    }

    /// Whether it has its value, and not only knows how long that is.
    pub fn holds_value(&self) -> bool {
        self.held
    }

    /// Bytes of the value, whether it is held or not.
    pub fn value_bytes(&self) -> u64 {
        self.value_bytes.into()
    }

    /// Whether its last change was its creation.
    pub fn is_created(&self) -> bool {
        self.create_revision == self.mod_revision
    }

    /// The `kvs` field, without the value if that is not held.
    pub fn field(&self) -> &[u8] {
        &self.field
    }

    /// The `kvs` field as bytes that keep the object, for large ones that are not worth a copy.
    pub fn shared_field(self: &Arc<Self>) -> Bytes {
        Bytes::from_owner(Owner(Arc::clone(self)))
    }

    /// Appends the `kvs` field, or what etcd answers to `keys_only`.
    pub fn put(&self, keys_only: bool, out: &mut impl BufMut) {
        if !keys_only || self.value.is_empty() {
            return out.put_slice(&self.field);
        }
        let (before, after) = self.around_value();
        wire::put_bytes_head(KVS, before.len() + after.len(), out);
        out.put_slice(before);
        out.put_slice(after);
    }

    /// Bytes of the `kvs` field as etcd sends it, with the value or for `keys_only`, whether the value
    /// is held or not.
    pub fn length(&self, keys_only: bool) -> usize {
        let (before, after) = self.around_value();
        let value = match self.value_bytes as usize {
            0 => 0,
            _ if keys_only => 0,
            bytes => wire::bytes_field_length(VALUE, bytes),
        };
        wire::bytes_field_length(KVS, before.len() + value + after.len())
    }

    /// The same key-value, its value not held.
    pub fn without_value(&self) -> Self {
        let mut field = Vec::with_capacity(self.length(true));
        self.put(true, &mut field);
        // etcd writes the key first; elsewhere it would move up by what is gone.
        let moved = if self.key.start < self.value.end { 0 } else { self.value.len() as u32 };
        let gone = self.value.len();
        Self {
            kv: (field.len() - (self.body().len() - gone)) as u32,
            field: field.into_boxed_slice(),
            key: self.key.start - moved..self.key.end - moved,
            value: 0..0,
            held: self.held && self.value_bytes == 0,
            ..*self
        }
    }

    /// Bytes of memory.
    pub fn weight(&self) -> usize {
        OVERHEAD + self.field.len()
    }

    /// The fields of the `KeyValue` before and after that of the value.
    fn around_value(&self) -> (&[u8], &[u8]) {
        let body = self.body();
        (&body[..self.value.start as usize], &body[self.value.end as usize..])
    }

    fn body(&self) -> &[u8] {
        &self.field[self.kv as usize..]
    }

    fn slice(&self, range: &Range<u32>) -> &[u8] {
        &self.body()[range.start as usize..range.end as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::proto::{etcdserverpb::RangeResponse, mvccpb::KeyValue};
    use prost::Message;

    fn key_value(value: &'static [u8]) -> KeyValue {
        KeyValue {
            key: Bytes::from_static(b"/k"),
            create_revision: 3,
            mod_revision: 300,
            version: 2,
            value: Bytes::from_static(value),
            lease: -7,
        }
    }

    fn response(kv: KeyValue) -> Vec<u8> {
        RangeResponse { kvs: vec![kv], ..RangeResponse::default() }.encode_to_vec()
    }

    #[test]
    fn is_the_field_of_a_response() {
        let kv = key_value(&[b'v'; 200]);
        let object = Object::parse(&kv.encode_to_vec()).expect("a key-value");
        assert_eq!(object.field(), response(kv));
        assert_eq!((object.key(), object.value()), (&b"/k"[..], Some(&[b'v'; 200][..])));
        assert_eq!((object.create_revision, object.mod_revision), (3, 300));
        assert_eq!((object.version, object.lease), (2, -7));
        assert_eq!(object.length(false), object.field().len());
        assert_eq!(Arc::new(object.clone()).shared_field(), object.field());
    }

    #[test]
    fn without_its_value_it_is_what_keys_only_returns() {
        let kv = key_value(&[b'v'; 200]);
        let object = Object::parse(&kv.encode_to_vec()).expect("a key-value");
        let bare = object.without_value();
        assert_eq!(bare.field(), response(key_value(b"")));
        assert_eq!((bare.key(), bare.value(), bare.value_bytes()), (&b"/k"[..], None, 200));
        for object in [&object, &bare] {
            assert_eq!(
                (object.length(false), object.length(true)),
                (object_length(), bare.field().len())
            );
            let mut field = Vec::new();
            object.put(true, &mut field);
            assert_eq!(field, bare.field());
        }
        assert_eq!(bare.without_value(), bare);
    }

    fn object_length() -> usize {
        response(key_value(&[b'v'; 200])).len()
    }

    #[test]
    fn what_came_without_its_value_does_not_claim_to_have_an_empty_one() {
        let bytes = key_value(b"").encode_to_vec();
        let object = Object::parse_key(&bytes).expect("a key-value");
        assert_eq!((object.key(), object.value()), (&b"/k"[..], None));
        assert!(!object.without_value().holds_value());
    }

    #[test]
    fn an_empty_value_is_held() {
        let object = Object::parse(&key_value(b"").encode_to_vec()).expect("a key-value");
        assert_eq!(object.value(), Some(&b""[..]));
        assert_eq!(object.without_value(), object);
    }

    #[test]
    fn a_key_is_found_behind_the_value_too() {
        let object = Object::parse(b"\x2a\x03abc\x0a\x02/k\x7a\x01x").expect("a key-value");
        assert_eq!((object.key(), object.value()), (&b"/k"[..], Some(&b"abc"[..])));
        assert_eq!(object.without_value().key(), b"/k");
        assert_eq!(object.without_value().field(), b"\x12\x07\x0a\x02/k\x7a\x01x");
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(Object::parse(b"\x0a\x05ab").is_err());
    }
}
