//! What a watch of the whole key space brings.

use super::Kind;
use crate::etcd::wire::{self, Malformed};
use std::hash::{DefaultHasher, Hasher};

/// One `WatchResponse`, its events still in its bytes.
#[derive(Debug, Default)]
pub(super) struct Batch<'a> {
    pub(super) created: bool,
    pub(super) canceled: bool,
    /// Set where the watch began before what etcd still has.
    pub(super) compact_revision: i64,
    pub(super) cancel_reason: String,
    pub(super) events: Vec<Fed<'a>>,
}

/// One event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fed<'a> {
    pub(super) kind: Kind,
    pub(super) key: &'a [u8],
    /// The `KeyValue`.
    pub(super) kv: &'a [u8],
    pub(super) revision: i64,
}

/// What a revision was about. Another history, as that of a store which was restored from a backup,
/// has something else there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Last {
    revision: i64,
    digest: u64,
}

/// Numbers of the fields of `WatchResponse`.
const CREATED: u32 = 3;
const CANCELED: u32 = 4;
const COMPACT_REVISION: u32 = 5;
const CANCEL_REASON: u32 = 6;
const EVENTS: u32 = 11;

/// Numbers of the fields of `Event`, and of the `KeyValue` in it.
const TYPE: u32 = 1;
const KV: u32 = 2;
const KEY: u32 = 1;
const MOD_REVISION: u32 = 3;

impl<'a> Batch<'a> {
    pub(super) fn read(response: &'a [u8]) -> Result<Self, Malformed> {
        let mut batch = Self::default();
        for field in wire::fields(response) {
            let field = field?;
            match field.number {
                CREATED => batch.created = field.value.varint() != 0,
                CANCELED => batch.canceled = field.value.varint() != 0,
                COMPACT_REVISION => batch.compact_revision = field.value.varint() as i64,
                CANCEL_REASON => {
                    batch.cancel_reason = String::from_utf8_lossy(field.value.bytes()).into_owned();
                }
                EVENTS => batch.events.push(Fed::read(field.value.bytes())?),
                _ => {}
            }
        }
        Ok(batch)
    }

    /// The revision that the store had after it.
    pub(super) fn revision(&self) -> Option<i64> {
        self.events.last().map(|event| event.revision)
    }

    /// What its last revision was about, whose events are all in it.
    pub(super) fn last(&self) -> Option<Last> {
        self.at(self.revision()?)
    }

    /// Whether it has this revision, and that is about the same.
    pub(super) fn has(&self, last: &Last) -> bool {
        self.at(last.revision) == Some(*last)
    }

    fn at(&self, revision: i64) -> Option<Last> {
        let mut events = self.events.iter().filter(|event| event.revision == revision).peekable();
        events.peek()?;
        let mut digest = DefaultHasher::new();
        events.for_each(|event| digest.write(event.kv));
        Some(Last { revision, digest: digest.finish() })
    }
}

impl<'a> Fed<'a> {
    fn read(event: &'a [u8]) -> Result<Self, Malformed> {
        let mut fed = Self { kind: Kind::Put, key: &[], kv: &[], revision: 0 };
        for field in wire::fields(event) {
            let field = field?;
            match field.number {
                TYPE if field.value.varint() != 0 => fed.kind = Kind::Delete,
                KV => fed.kv = field.value.bytes(),
                _ => {}
            }
        }
        for field in wire::fields(fed.kv) {
            let field = field?;
            match field.number {
                KEY => fed.key = field.value.bytes(),
                MOD_REVISION => fed.revision = field.value.varint() as i64,
                _ => {}
            }
        }
        Ok(fed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::proto::{
        etcdserverpb::WatchResponse,
        mvccpb::{Event, KeyValue, event::EventType},
    };
    use prost::Message;

    #[test]
    fn reads_events_and_what_ends_a_watch() {
        let kv = KeyValue { key: "/a".into(), mod_revision: 7, ..KeyValue::default() };
        let put = Event { kv: Some(kv), ..Event::default() };
        let kv = KeyValue { key: "/b".into(), mod_revision: 8, ..KeyValue::default() };
        let delete = Event { r#type: EventType::Delete.into(), kv: Some(kv), ..Event::default() };
        let bytes =
            WatchResponse { events: vec![put, delete], ..WatchResponse::default() }.encode_to_vec();
        let batch = Batch::read(&bytes).expect("a response");
        let seen: Vec<_> = batch.events.iter().map(|fed| (fed.kind, fed.key)).collect();
        assert_eq!(seen, [(Kind::Put, &b"/a"[..]), (Kind::Delete, &b"/b"[..])]);
        assert_eq!(batch.revision(), Some(8));

        let bytes = WatchResponse {
            canceled: true,
            compact_revision: 9,
            cancel_reason: "gone".into(),
            ..WatchResponse::default()
        }
        .encode_to_vec();
        let batch = Batch::read(&bytes).expect("a response");
        assert_eq!((batch.canceled, batch.compact_revision), (true, 9));
        assert_eq!((batch.cancel_reason.as_str(), batch.revision()), ("gone", None));
    }

    #[test]
    fn a_revision_is_known_again_by_all_of_it() {
        let response = |kvs: &[(&str, i64, &str)]| {
            let event = |&(key, mod_revision, value): &(&str, i64, &str)| {
                let (key, value) = (key.to_owned().into(), value.to_owned().into());
                let kv = KeyValue { key, mod_revision, value, ..KeyValue::default() };
                Event { kv: Some(kv), ..Event::default() }
            };
            let events = kvs.iter().map(event).collect();
            WatchResponse { events, ..WatchResponse::default() }.encode_to_vec()
        };
        let known = response(&[("/z", 6, ""), ("/a", 7, "1"), ("/b", 7, "2")]);
        let last = Batch::read(&known).expect("a response").last().expect("events");
        let has = |kvs| Batch::read(&response(kvs)).expect("a response").has(&last);
        assert!(has(&[("/a", 7, "1"), ("/b", 7, "2")]));
        assert!(has(&[("/a", 7, "1"), ("/b", 7, "2"), ("/c", 8, "3")]));
        assert!(!has(&[("/a", 7, "1")]));
        assert!(!has(&[("/a", 7, "1"), ("/b", 7, "x")]));
        assert!(!has(&[("/c", 8, "3")]));
        assert!(!has(&[]));
    }
}
