use super::*;
use crate::etcd::proto::{etcdserverpb::WatchCreateRequest, mvccpb::KeyValue};
use crate::mirror::model::{LIMITS, Model, State, Txn, object, txns};
use crate::mirror::{Behind, Watcher};
use proptest::prelude::*;
use prost::Message;

fn holds(snapshot: &Snapshot, state: &State) -> bool {
    let expected = state.values().map(|kv| held(object(kv), snapshot.tier));
    snapshot.objects.from_rank(0).map(|object| Object::clone(object)).eq(expected)
}

fn tier() -> impl Strategy<Value = Tier> {
    prop_oneof![Just(Tier::Index), Just(Tier::Value)]
}

proptest! {
    /// The feed began before the load, and what it brought meanwhile is applied in batches.
    #[test]
    fn a_load_and_what_was_buffered_are_the_store(
        txns in txns(), tier in tier(), load in 0.0..1.0, feed in 0.0..1.0, batch in 1i64..9,
    ) {
        let model = Model::of(&txns);
        let newest = model.revision();
        let load = 1 + (load * newest as f64) as i64;
        let mut from = 1 + (feed * load as f64) as i64;
        let mut writer = model.load(load, tier, LIMITS);
        while from <= newest {
            let to = newest.min(from + batch);
            writer.apply(model.changes(from..=to));
            from = to + 1;
        }
        let store = writer.store();
        prop_assert!(holds(&store.snapshot(), model.state(newest)));
        for revision in load..=newest {
            prop_assert!(holds(&store.at(revision).expect("remembered"), model.state(revision)));
        }
        if load < newest {
            prop_assert_eq!(store.at(load - 1).expect_err("before the load"), Trimmed { floor: load });
        }
    }

    #[test]
    fn what_is_forgotten_is_forgotten_a_revision_at_a_time(txns in txns(), events in 0usize..20) {
        let model = Model::of(&txns);
        let mut writer = model.load(1, Tier::Value, Limits { events, ..LIMITS });
        writer.apply(model.changes(2..=model.revision()));
        let store = writer.store();
        let floor = store.history(History::floor);
        let kept: usize = (floor + 1..=model.revision()).map(|r| model.changes(r..=r).len()).sum();
        prop_assert_eq!(store.history(History::len), kept);
        prop_assert!(kept <= events);
        // One revision more would not have fitted.
        prop_assert!(floor == 1 || kept + model.changes(floor..=floor).len() > events);
        for revision in 1..=model.revision() {
            match store.at(revision) {
                Ok(snapshot) => prop_assert!(holds(&snapshot, model.state(revision))),
                Err(trimmed) => prop_assert!(revision < floor && trimmed.floor == floor),
            }
        }
    }
}

/// Puts of one key each.
fn puts(keys: &[u8]) -> Model {
    let txn = |number: &u8| Txn::from([(*number, Some(b"some value".to_vec()))]);
    Model::of(&keys.iter().map(txn).collect::<Vec<_>>())
}

#[test]
fn a_state_before_values_were_given_up_has_what_is_left() {
    let model = puts(&[1, 2, 1]);
    let mut writer = model.load(3, Tier::Value, LIMITS);
    writer.apply(model.changes(4..=4));
    writer.drop_values();
    let store = writer.store();
    assert!(holds(&store.snapshot(), model.state(4)));
    assert_eq!(store.at(3).expect("remembered").tier, Tier::Index);
    let kept = store.history(|history| history.after(3).expect("remembered").count());
    assert_eq!(kept, 1);
}

#[test]
fn values_are_taken_up_from_a_load_and_what_has_happened_since() {
    let model = Model::of(&[
        Txn::from([(1, Some(b"a".to_vec())), (2, Some(b"b".to_vec()))]),
        Txn::from([(2, None), (3, Some(b"c".to_vec()))]),
        Txn::from([(1, Some(b"d".to_vec()))]),
    ]);
    let loaded = |revision| model.state(revision).values().map(object);
    let mut writer = model.load(2, Tier::Index, Limits { events: 3, ..LIMITS });
    writer.apply(model.changes(3..=4));
    for revision in 2..=4 {
        writer.drop_values();
        writer.load_values(loaded(revision), revision).expect("remembered");
        let snapshot = writer.store().snapshot();
        assert_eq!((snapshot.tier, snapshot.revision), (Tier::Value, 4));
        assert!(holds(&snapshot, model.state(4)));
    }
    writer.drop_values();
    assert_eq!(writer.load_values(loaded(1), 1), Err(Trimmed { floor: 2 }));
    assert_eq!(writer.store().snapshot().tier, Tier::Index);
}

#[test]
fn the_history_weighs_what_only_it_keeps() {
    let model = puts(&[1, 1, 2]);
    let weigh = |tier| {
        let mut writer = model.load(2, tier, LIMITS);
        let empty = writer.store().bytes();
        writer.apply(model.changes(3..=4));
        let weighed =
            (empty, writer.store().snapshot().bytes(), writer.store().history(History::bytes));
        writer.drop_values();
        (weighed, writer.store().history(History::bytes))
    };
    let own = object(&model.state(4).values().next().expect("a key").clone()).weight();
    let ((empty, full, history), dropped) = weigh(Tier::Value);
    assert_eq!((empty, full), (own, 2 * own));
    // Two events' own objects more; the one that was replaced is counted once.
    assert_eq!(dropped - history, 2 * own);
    let ((bare, _, with_values), same) = weigh(Tier::Index);
    assert_eq!((with_values - history, same), (2 * own + bare - own, with_values));
}

#[test]
fn a_history_is_bounded_by_bytes() {
    let model = puts(&[1; 50]);
    let mut writer = model.load(2, Tier::Value, Limits { bytes: 2000, ..LIMITS });
    writer.apply(model.changes(3..=51));
    let (bytes, events) = writer.store().history(|history| (history.bytes(), history.len()));
    assert!(bytes <= 2000 && events > 2, "{events} events of {bytes} bytes");
}

#[test]
fn states_of_the_past_are_made_once_and_not_kept_for_long() {
    let model = puts(&[1; 20]);
    let mut writer = model.load(2, Tier::Value, Limits { events: 10, ..LIMITS });
    writer.apply(model.changes(3..=12));
    let store = Arc::clone(writer.store());
    let at = |revision| store.at(revision).expect("remembered");
    let kept = |revision| store.past.lock().iter().any(|past| past.revision == revision);
    let first = at(5);
    assert!(Arc::ptr_eq(&first, &at(5)) && holds(&first, model.state(5)));
    (6..6 + PAST_MAX as i64).for_each(|revision| drop(at(revision)));
    assert!(!kept(5) && kept(6) && store.past.lock().len() == PAST_MAX);
    // What is not remembered any more is not kept, nor values that were given up.
    writer.apply(model.changes(13..=17));
    assert!(!kept(6) && kept(9));
    assert!(store.at(6).is_err());
    writer.drop_values();
    assert!(store.past.lock().is_empty());
    assert_eq!(at(9).tier, Tier::Index);
}

#[test]
fn keys_that_were_read_without_values_never_pass_for_objects_with_empty_ones() {
    let kv = |mod_revision, value: &'static [u8]| KeyValue {
        key: "/k".into(),
        create_revision: 2,
        mod_revision,
        value: value.into(),
        ..KeyValue::default()
    };
    let bare = Object::parse_key(&kv(2, b"").encode_to_vec()).expect("a key-value");
    let new = object(&kv(5, b"new"));
    let mut writer = Writer::load([bare], 2, Tier::Index, LIMITS);
    writer.apply([Change { kind: Kind::Put, object: new.clone() }]);
    writer.load_values([new], 5).expect("remembered");
    let store = writer.store();
    assert_eq!(store.snapshot().tier, Tier::Value);
    assert_eq!(store.at(3).expect("remembered").tier, Tier::Index);
    let request = WatchCreateRequest {
        key: "/k".into(),
        start_revision: 3,
        prev_kv: true,
        ..WatchCreateRequest::default()
    };
    let polled = store.history(|history| Watcher::new(&request, 5).poll(history, 5, usize::MAX));
    assert_eq!(polled, Err(Behind::PrevNotHeld { revision: 5 }));
}
