//! A `RangeResponse` as it lies in its bytes.

use crate::etcd::wire::{self, Malformed};
use bytes::Bytes;

/// A `RangeResponse` taken apart: its key-values stay the bytes that etcd sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The header's own bytes.
    pub header: Bytes,
    /// Runs of whole `kvs` fields, in their order; from etcd it is one.
    pub kvs: Vec<Bytes>,
    pub keys: Keys,
    pub more: bool,
    pub count: i64,
    /// Whether there is something besides these, of which only a later etcd knows what it is.
    pub others: bool,
}

/// The keys of a page, as far as cutting needs them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    pub number: u64,
    /// Bytes of the `kvs` fields.
    pub bytes: u64,
    pub last: Bytes,
    /// A key about every `step` bytes.
    pub marks: Vec<Bytes>,
    /// The largest key-value and its size.
    pub largest: Option<(Bytes, u64)>,
}

/// Fields of `RangeResponse`.
const HEADER: u32 = 1;
const KVS: u32 = 2;
const MORE: u32 = 3;
const COUNT: u32 = 4;

/// The field of `KeyValue` that holds the key.
const KEY: u32 = 1;

impl Page {
    /// Walks through `payload`, and notes a key about every `step` bytes.
    ///
    /// # Errors
    ///
    /// When it is not a message.
    pub fn parse(payload: &Bytes, step: u64) -> Result<Self, Malformed> {
        let mut page = Self::default();
        let mut run: Option<(usize, usize)> = None;
        let mut at = 0;
        for field in wire::fields(payload) {
            let field = field?;
            let start = at;
            at += field.raw.len();
            match field.number {
                HEADER => page.header = payload.slice_ref(field.value.bytes()),
                KVS => {
                    page.keys.add(payload, field.value.bytes(), field.raw.len(), step)?;
                    match &mut run {
                        Some((_, end)) if *end == start => *end = at,
                        _ => page.end_run(payload, run.replace((start, at))),
                    }
                }
                MORE => page.more = field.value.varint() != 0,
                COUNT => page.count = field.value.varint() as i64,
                _ => page.others = true,
            }
        }
        page.end_run(payload, run);
        Ok(page)
    }

    fn end_run(&mut self, payload: &Bytes, run: Option<(usize, usize)>) {
        self.kvs.extend(run.map(|(start, end)| payload.slice(start..end)));
    }
}

impl Keys {
    fn add(&mut self, payload: &Bytes, kv: &[u8], size: usize, step: u64) -> Result<(), Malformed> {
        let key = wire::fields(kv).find_map(|field| match field {
            Ok(field) if field.number == KEY => Some(Ok(field.value.bytes())),
            Ok(_) => None,
            Err(malformed) => Some(Err(malformed)),
        });
        let key = payload.slice_ref(key.transpose()?.unwrap_or_default());
        let size = size as u64;
        if self.number > 0 && self.bytes / step < (self.bytes + size) / step {
            self.marks.push(key.clone());
        }
        if self.largest.as_ref().is_none_or(|(_, largest)| size > *largest) {
            self.largest = Some((key.clone(), size));
        }
        self.number += 1;
        self.bytes += size;
        self.last = key;
        Ok(())
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

    fn response(keys: u32) -> RangeResponse {
        let kv = |number| KeyValue {
            key: format!("/k/{number:04}").into(),
            value: vec![b'v'; 100].into(),
            mod_revision: i64::from(number),
            ..KeyValue::default()
        };
        RangeResponse {
            header: Some(ResponseHeader { revision: 7, ..ResponseHeader::default() }),
            kvs: (0..keys).map(kv).collect(),
            more: keys > 5,
            count: i64::from(keys) + 1,
        }
    }

    #[test]
    fn takes_a_response_apart() {
        let response = response(10);
        let page = Page::parse(&response.encode_to_vec().into(), 300).expect("a message");
        let header = ResponseHeader::decode(page.header.clone()).expect("a header");
        assert_eq!(Some(header), response.header);
        assert_eq!((page.keys.number, page.more, page.count), (10, true, 11));
        assert_eq!(page.keys.last, "/k/0009");
        assert_eq!(page.kvs.len(), 1);
        let kvs = RangeResponse::decode(page.kvs[0].clone()).expect("fields").kvs;
        assert_eq!(kvs, response.kvs);
        assert_eq!(page.keys.bytes, page.kvs[0].len() as u64);
        assert!((3..=5).contains(&page.keys.marks.len()), "{:?}", page.keys.marks);
    }

    #[test]
    fn what_a_later_etcd_says_is_seen() {
        let known = response(3).encode_to_vec();
        let page = Page::parse(&known.clone().into(), 300).expect("a message");
        assert!(!page.others);
        let page = Page::parse(&[&known[..], b"\x48\x01"].concat().into(), 300);
        assert!(page.expect("a message").others);
    }

    #[test]
    fn an_empty_range_is_a_page_too() {
        let page = Page::parse(&response(0).encode_to_vec().into(), 300).expect("a message");
        assert_eq!((page.keys, page.kvs.len(), page.count), (Keys::default(), 0, 1));
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(Page::parse(&Bytes::from_static(b"\x12\xff"), 300).is_err());
        assert!(Page::parse(&Bytes::from_static(b"\x12\x02\x0a\x05"), 300).is_err());
    }
}
