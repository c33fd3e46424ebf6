//! What is tried with arbitrary bytes. The fuzzer drives these, and `tests/fuzz.rs` does so for a
//! bounded number of inputs. Each panics when something is wrong.

mod http2;

use bytes::Bytes;
use prost::Message;
use seawall::{
    admission::classify,
    config::{self, Flags},
    etcd::{
        key_range::KeyRange,
        proto::{
            etcdserverpb::{
                DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, TxnRequest,
            },
            mvccpb::KeyValue,
        },
        wire,
    },
    mirror::Object,
    paging::Page,
    routing::{Located, Table, overrides, txn},
};
use std::path::Path;

/// Tries some bytes.
pub type Target = fn(&[u8]);

/// The targets by their names, which are those of their corpora.
pub const TARGETS: [(&str, Target); 4] =
    [("wire", wire), ("keys", keys), ("config", config), ("http2", http2)];

pub use http2::http2;

/// Scanners see in any bytes what a decoder sees in them.
pub fn wire(bytes: &[u8]) {
    let fields: Vec<_> = wire::fields(bytes).collect();
    if let Ok(fields) = fields.into_iter().collect::<Result<Vec<_>, _>>() {
        let whole = fields.iter().flat_map(|field| field.raw).copied();
        assert!(whole.eq(bytes.iter().copied()), "the fields are not the message");
    }
    if let Ok(kv) = KeyValue::decode(bytes) {
        let object = Object::parse(bytes).expect("a decoder reads it");
        assert_eq!(object.key(), kv.key);
        assert_eq!(object.value(), Some(&kv.value[..]));
        assert_eq!(
            (object.create_revision, object.mod_revision, object.version, object.lease),
            (kv.create_revision, kv.mod_revision, kv.version, kv.lease)
        );
    }
    let payload = Bytes::copy_from_slice(bytes);
    if let Ok(response) = RangeResponse::decode(payload.clone()) {
        for step in [1, 100] {
            let page = Page::parse(&payload, step).expect("a decoder reads it");
            assert_eq!((page.more, page.count), (response.more, response.count));
            assert_eq!(page.keys.number, response.kvs.len() as u64);
            // Of a key that comes twice, which etcd never sends, the first is taken.
            let is_usual = response.encode_to_vec() == bytes;
            let last = response.kvs.last().map(|kv| kv.key.clone()).unwrap_or_default();
            assert!(!is_usual || page.keys.last == last, "{:?}, not {last:?}", page.keys.last);
            let runs: usize = page.kvs.iter().map(Bytes::len).sum();
            assert_eq!(page.keys.bytes, runs as u64);
        }
    }
    requests(bytes);
}

/// Requests of any shape have a class, and a transaction its keys.
fn requests(bytes: &[u8]) {
    if let Ok(request) = RangeRequest::decode(bytes) {
        classify::range(&request);
    }
    if let Ok(request) = PutRequest::decode(bytes) {
        classify::put(&request);
    }
    if let Ok(request) = DeleteRangeRequest::decode(bytes) {
        classify::delete_range(&request);
    }
    if let Ok(request) = TxnRequest::decode(bytes) {
        classify::txn(&request);
        let routed = Table::new(0, [("/registry/events", 1)]).expect("a table");
        let here = |range: &KeyRange| matches!(routed.locate(range), Located::One(0));
        if let Ok(owner) = txn::locate_txn(&routed, &request) {
            assert_eq!(txn::keys(&request).all(|range| here(&range)), *owner == 0);
        }
        txn::leases(&request).for_each(|lease| assert_ne!(lease, 0));
        let deleted = txn::deleted_ranges(&request).count();
        assert!(deleted <= txn::keys(&request).count());
    }
}

/// Intervals hold what they say, and each key of theirs belongs to the clusters they belong to.
pub fn keys(bytes: &[u8]) {
    let mut parts = bytes.split(|byte| *byte == b'\n').map(Bytes::copy_from_slice);
    let mut next = || parts.next().unwrap_or_default();
    let (one, other) = (KeyRange::of(next(), next()), KeyRange::of(next(), next()));
    let both = one.intersection(&other);
    let again = KeyRange::of(one.start.clone(), one.range_end());
    let routes = [(next(), 1), (next(), 2)];
    let table = Table::new(0, routes).ok();
    let candidates = [one.start.clone(), other.start.clone(), one.range_end(), next(), next()];
    for key in candidates.iter().filter(|key| !key.is_empty()) {
        let inside = one.contains(key);
        assert_eq!(both.contains(key), inside && other.contains(key), "{one} {other} {key:?}");
        assert!(!inside || !one.is_empty());
        // An end of no bytes is an empty interval, which a request cannot say.
        assert!(one.is_empty() || again.contains(key) == inside, "{one} said as {again}");
        assert_eq!(KeyRange::prefix(one.start.clone()).contains(key), key.starts_with(&one.start));
        let Some(table) = &table else { continue };
        let owner = table.locate_key(key);
        assert_eq!(table.route(key).map_or(0, |route| route.cluster), *owner);
        if inside {
            match table.locate(&one) {
                Located::One(only) => assert_eq!(only, owner),
                Located::Several(segments) => {
                    let mut owners = segments.iter().filter(|segment| segment.range.contains(key));
                    let segment = owners.next().expect("a segment has it");
                    assert_eq!((segment.cluster, owners.count()), (owner, 0));
                }
            }
        }
    }
}

/// A file of any content is taken or refused with reasons, and so are routes of kube-apiserver's.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match config::build(Some((Path::new("seawall.yaml"), text)), &Flags::default()) {
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    // What is wrong with these is said by their own errors.
    let _ = overrides::parse(text.lines().next().unwrap_or_default(), "/registry");
}
