//! etcd as a list of states, for tests to compare with: slow, and plainly right.

use super::{Change, Kind, Limits, Object, Tier, Writer};
use crate::etcd::proto::mvccpb::{Event, KeyValue, event::EventType};
use proptest::{collection::vec, option, prelude::*};
use prost::Message;
use std::collections::BTreeMap;

/// What a state holds.
pub(super) type State = BTreeMap<Vec<u8>, KeyValue>;

/// The store of one cluster from its beginning, at revision 1.
#[derive(Debug, Clone)]
pub(super) struct Model {
    /// By revision; the first two are empty.
    pub(super) states: Vec<State>,
    /// What led to each of them.
    pub(super) events: Vec<Vec<Event>>,
}

/// One transaction: keys with a new value, or none for a delete.
pub(super) type Txn = BTreeMap<u8, Option<Vec<u8>>>;

/// Transactions on a few keys, so that these see puts, updates, deletes and creations anew.
pub(super) fn txns() -> impl Strategy<Value = Vec<Txn>> {
    let value = vec(b'a'..b'd', 0..4);
    let txn = vec((0u8..24, option::weighted(0.8, value)), 1..4);
    vec(txn.prop_map(|ops| ops.into_iter().collect()), 1..60)
}

pub(super) fn key(number: u8) -> Vec<u8> {
    format!("/k/{number:02}").into()
}

pub(super) const LIMITS: Limits = Limits { events: 10_000, bytes: 1 << 30 };

impl Model {
    pub(super) fn of(txns: &[Txn]) -> Self {
        let empty = Self { states: vec![State::new(); 2], events: vec![Vec::new(); 2] };
        txns.iter().fold(empty, |mut model, txn| {
            model.commit(txn);
            model
        })
    }

    fn commit(&mut self, txn: &Txn) {
        let mut state = self.states[self.states.len() - 1].clone();
        let mod_revision = self.states.len() as i64;
        let mut events = Vec::new();
        for (number, value) in txn {
            let prev_kv = state.remove(&key(*number));
            let Some(value) = value else {
                if prev_kv.is_some() {
                    let kv =
                        KeyValue { key: key(*number).into(), mod_revision, ..KeyValue::default() };
                    events.push(Event { r#type: EventType::Delete.into(), kv: Some(kv), prev_kv });
                }
                continue;
            };
            let (create_revision, version) = prev_kv
                .as_ref()
                .map_or((mod_revision, 1), |kv| (kv.create_revision, kv.version + 1));
            let kv = KeyValue {
                key: key(*number).into(),
                create_revision,
                mod_revision,
                version,
                value: value.clone().into(),
                lease: i64::from(number % 3),
            };
            state.insert(key(*number), kv.clone());
            events.push(Event { r#type: EventType::Put.into(), kv: Some(kv), prev_kv });
        }
        // What changes nothing makes no revision.
        if !events.is_empty() {
            self.states.push(state);
            self.events.push(events);
        }
    }

    pub(super) fn revision(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    pub(super) fn state(&self, revision: i64) -> &State {
        &self.states[usize::try_from(revision).expect("a revision")]
    }

    /// A mirror loaded at a revision.
    pub(super) fn load(&self, revision: i64, tier: Tier, limits: Limits) -> Writer {
        Writer::load(self.state(revision).values().map(object), revision, tier, limits)
    }

    /// What etcd sends to a watcher of everything about these revisions.
    pub(super) fn changes(&self, revisions: std::ops::RangeInclusive<i64>) -> Vec<Change> {
        let revisions = usize::try_from(*revisions.start()).expect("a revision")
            ..=usize::try_from(*revisions.end()).expect("a revision");
        self.events[revisions].iter().flatten().map(change).collect()
    }
}

/// An object without a value, last changed at a revision.
pub(super) fn named(key: &str, mod_revision: i64) -> Object {
    object(&KeyValue { key: key.to_owned().into(), mod_revision, ..KeyValue::default() })
}

pub(super) fn object(kv: &KeyValue) -> Object {
    Object::parse(&kv.encode_to_vec()).expect("a key-value")
}

fn change(event: &Event) -> Change {
    let kind = match event.r#type() {
        EventType::Put => Kind::Put,
        EventType::Delete => Kind::Delete,
    };
    Change { kind, object: object(event.kv.as_ref().expect("a key-value")) }
}
