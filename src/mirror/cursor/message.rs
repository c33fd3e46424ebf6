//! Events as the bytes of watch responses.

use super::{Batch, Event, Kind};
use crate::{etcd::wire, grpc};
use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint};
use std::vec;

/// Bytes from which on etcd cuts a response into fragments where the client wants that: what it
/// allows for a request, and for what gRPC adds.
const FRAGMENT_MAX: usize = (1536 + 512) << 10;

/// Numbers of the fields of `WatchResponse`.
const HEADER: u32 = 1;
const WATCH_ID: u32 = 2;
const FRAGMENT: u32 = 7;
const EVENTS: u32 = 11;

/// Numbers of the fields of `Event`; that of `kv` is already in the object's own bytes.
const TYPE: u32 = 1;
const PREV_KV: u32 = 3;

/// What says that an event is a delete, and that a response is a fragment.
const FLAG_LENGTH: usize = 2;

/// A framed `WatchResponse`, whose length is known before its first byte is made.
#[derive(Debug)]
pub struct EventMessage {
    length: usize,
    /// What has to be sent before the events; then empty.
    head: Bytes,
    events: vec::IntoIter<Event>,
    prev_kv: bool,
}

impl Batch {
    /// The responses for a watcher under this header: one, or where the client takes fragments, as
    /// many as etcd would make of it. No other response may come between them.
    pub fn messages(self, header: &[u8], watch_id: i64) -> Vec<EventMessage> {
        let mut head = BytesMut::new();
        wire::put_bytes(HEADER, header, &mut head);
        if watch_id != 0 {
            put_varint(WATCH_ID, watch_id as u64, &mut head);
        }
        let numbers = match self.fragment {
            true => fragments(&self.events, self.prev_kv, head.len()),
            false => vec![self.events.len()],
        };
        let (mut events, last) = (self.events.into_iter(), numbers.len() - 1);
        let messages = numbers.into_iter().enumerate().map(|(at, number)| {
            let mut head = head.clone();
            if at < last {
                put_varint(FRAGMENT, 1, &mut head);
            }
            EventMessage::new(&head, events.by_ref().take(number).collect(), self.prev_kv)
        });
        messages.collect()
    }
}

impl EventMessage {
    fn new(head: &[u8], events: Vec<Event>, prev_kv: bool) -> Self {
        let events_length = events.iter().map(|event| event_length(event, prev_kv)).sum::<usize>();
        let length = head.len() + events_length;
        let mut framed = BytesMut::with_capacity(grpc::PREFIX_LEN + head.len());
        grpc::put_prefix(length, &mut framed);
        framed.put_slice(head);
        let length = grpc::PREFIX_LEN + length;
        Self { length, head: framed.freeze(), events: events.into_iter(), prev_kv }
    }

    /// Bytes of all chunks, the prefix of the frame included.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The next bytes: events of about `max` of them, or one.
    pub fn next_chunk(&mut self, max: usize) -> Option<Bytes> {
        let mut out = BytesMut::from(std::mem::take(&mut self.head));
        while let Some(event) = self.events.as_slice().first() {
            if !out.is_empty() && out.len() + event_length(event, self.prev_kv) > max {
                break;
            }
            put_event(event, self.prev_kv, &mut out);
            self.events.next();
        }
        (!out.is_empty()).then(|| out.freeze())
    }
}

/// Bytes of the `events` field of one event.
pub(super) fn event_length(event: &Event, prev_kv: bool) -> usize {
    wire::bytes_field_length(EVENTS, body_length(event, prev_kv))
}

fn body_length(event: &Event, prev_kv: bool) -> usize {
    let kind = if event.kind == Kind::Delete { FLAG_LENGTH } else { 0 };
    let prev = event.prev.as_ref().filter(|_| prev_kv).map_or(0, |prev| prev.field().len());
    kind + event.object.field().len() + prev
}

fn put_event(event: &Event, prev_kv: bool, out: &mut BytesMut) {
    wire::put_bytes_head(EVENTS, body_length(event, prev_kv), out);
    if event.kind == Kind::Delete {
        put_varint(TYPE, 1, out);
    }
    out.put_slice(event.object.field());
    if let Some(prev) = event.prev.as_ref().filter(|_| prev_kv) {
        // All but its tag, which is one byte in both.
        encode_key(PREV_KV, WireType::LengthDelimited, out);
        out.put_slice(&prev.field()[1..]);
    }
}

fn put_varint(number: u32, value: u64, out: &mut BytesMut) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value, out);
}

/// How many events etcd puts into each response after a head of this length. It never cuts within
/// one, and has no regard to revisions.
fn fragments(events: &[Event], prev_kv: bool, head: usize) -> Vec<usize> {
    let lengths = events.iter().map(|event| event_length(event, prev_kv));
    if head + lengths.clone().sum::<usize>() < FRAGMENT_MAX {
        return vec![events.len()];
    }
    let head = head + FLAG_LENGTH;
    let (mut numbers, mut number, mut bytes) = (Vec::new(), 0, head);
    for length in lengths {
        if number > 0 && bytes + length >= FRAGMENT_MAX {
            numbers.push(number);
            (number, bytes) = (0, head);
        }
        number += 1;
        bytes += length;
    }
    numbers.push(number);
    numbers
}
