use super::*;
use crate::{
    etcd::proto::{
        etcdserverpb::{ResponseHeader, WatchResponse},
        mvccpb::{self, event::EventType},
    },
    grpc,
    mirror::{
        Limits, Tier,
        model::{LIMITS, Model, Txn, key, txns},
    },
};
use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use prost::Message;

#[test]
fn who_keeps_up_is_told_of_each_revision_by_itself() {
    let put = |number| (number, Some(b"v".to_vec()));
    let model = Model::of(&[Txn::from([put(1), put(2)]), Txn::from([put(3)])]);
    let mut writer = model.load(1, Tier::Value, LIMITS);
    writer.apply(model.changes(2..=3));
    let all = WatchCreateRequest {
        key: b"\0".to_vec().into(),
        range_end: b"\0".to_vec().into(),
        ..WatchCreateRequest::default()
    };
    let mut watcher = Watcher::new(&all, 1);
    let polled = writer.store().history(|history| watcher.poll(history, 9, usize::MAX));
    let batch = polled.expect("remembered").expect("events");
    assert_eq!((batch.revisions(), batch.revision), (2, 9));
    assert_eq!(batch.clone().under(12).revision, 12);
    let batches = batch.by_revision().into_iter();
    let batches: Vec<_> = batches.map(|batch| (batch.revision, batch.events().len())).collect();
    assert_eq!(batches, [(2, 2), (3, 1)]);
}

fn header(revision: i64) -> ResponseHeader {
    ResponseHeader { cluster_id: 7, member_id: u64::MAX, revision, raft_term: 2 }
}

/// The responses to a watcher, after a check of their lengths.
fn responses(batch: Batch, watch_id: i64, max: usize) -> Vec<WatchResponse> {
    let header = header(batch.revision).encode_to_vec();
    let messages = batch.messages(&header, watch_id).into_iter().map(|mut message| {
        let length = message.length();
        let chunks: Vec<_> = std::iter::from_fn(|| message.next_chunk(max)).collect();
        let bytes = Bytes::from(chunks.concat());
        assert_eq!(bytes.len(), length);
        let response = WatchResponse::decode(&bytes[grpc::PREFIX_LEN..]).expect("a message");
        // The very bytes that etcd would send.
        assert_eq!(grpc::encode(&response), bytes);
        response
    });
    messages.collect()
}

/// What etcd tells such a watcher of one revision.
fn expected(model: &Model, request: &WatchCreateRequest, revision: i64) -> Vec<mvccpb::Event> {
    let range = KeyRange::for_watch(request.key.clone(), request.range_end.clone());
    let filters: Vec<_> = request.filters().collect();
    let mut events = model.events[usize::try_from(revision).expect("a revision")].clone();
    events.retain(|event| {
        let filter = match event.r#type() {
            EventType::Put => FilterType::Noput,
            EventType::Delete => FilterType::Nodelete,
        };
        !filters.contains(&filter) && range.contains(&event.kv.as_ref().expect("a key-value").key)
    });
    if !request.prev_kv {
        events.iter_mut().for_each(|event| event.prev_kv = None);
    }
    events
}

prop_compose! {
    fn requests()(
        first in 0u8..24,
        end in prop_oneof![Just(Vec::new()), Just(vec![0]), (0u8..24).prop_map(key)],
        start_revision in prop_oneof![Just(0i64), 1i64..70],
        filters in vec(0i32..2, 0..2),
        prev_kv in any::<bool>(),
        fragment in any::<bool>(),
    ) -> WatchCreateRequest {
        let (key, range_end) = (key(first).into(), end.into());
        WatchCreateRequest {
            key, range_end, start_revision, filters, prev_kv, fragment, ..Default::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Watched while it happens, by one who now and then goes on with another watcher.
    #[test]
    fn events_are_ordered_unique_reliable_atomic_resumable_and_bookmarkable(
        txns in txns(), request in requests(), created in 0.0..1.0, batch in 1i64..9,
        max in 1usize..300, resumed in vec(any::<bool>(), 8), remembered in 0usize..200,
    ) {
        let model = Model::of(&txns);
        let limits = Limits { events: remembered, ..LIMITS };
        let mut writer = model.load(1, Tier::Value, limits);
        let mut revision = 1 + (created * (model.revision() - 1) as f64) as i64;
        writer.apply(model.changes(2..=revision));
        let store = writer.store().clone();
        let mut watcher = Watcher::new(&request, revision);
        let start = watcher.next_revision();
        let mut delivered: Vec<mvccpb::Event> = Vec::new();
        for resume in resumed.iter().cycle() {
            while watcher.is_behind(revision) {
                let next = watcher.next_revision();
                let batch = match store.history(|history| watcher.poll(history, revision, max)) {
                    Ok(batch) => batch,
                    Err(behind) => {
                        let floor = store.history(History::floor);
                        prop_assert_eq!(behind, Behind::Trimmed(Trimmed { floor }));
                        prop_assert!(next <= floor && watcher.next_revision() == next);
                        return Ok(());
                    }
                };
                prop_assert!(watcher.next_revision() > next);
                for response in batch.into_iter().flat_map(|batch| responses(batch, -3, max)) {
                    let last = response.events.last().expect("an event").kv.as_ref();
                    let last = last.expect("a key-value").mod_revision;
                    prop_assert!(last <= response.header.expect("a header").revision);
                    prop_assert_eq!(response.watch_id, -3);
                    delivered.extend(response.events);
                }
                // Whole revisions, each once, in order.
                let seen: Vec<_> = (start..watcher.next_revision().min(model.revision() + 1))
                    .flat_map(|revision| expected(&model, &request, revision)).collect();
                prop_assert_eq!(&delivered, &seen);
                if *resume {
                    let start_revision = watcher.next_revision();
                    let request = WatchCreateRequest { start_revision, ..request.clone() };
                    watcher = Watcher::new(&request, revision);
                }
            }
            prop_assert_eq!(watcher.reached(revision).is_some(), watcher.start_revision <= revision);
            if revision == model.revision() {
                break;
            }
            let to = model.revision().min(revision + batch);
            writer.apply(model.changes(revision + 1..=to));
            revision = to;
        }
    }
}

fn everything() -> WatchCreateRequest {
    let everything = Bytes::from_static(b"\0");
    WatchCreateRequest { key: everything.clone(), range_end: everything, ..Default::default() }
}

fn polled(writer: &crate::mirror::Writer, watcher: &mut Watcher, revision: i64) -> Batch {
    let batch = writer.store().history(|history| watcher.poll(history, revision, 1 << 20));
    batch.expect("remembered").expect("events")
}

fn puts(keys: &[u8], bytes: usize) -> Model {
    let txn = |number: &u8| Txn::from([(*number, Some(vec![b'v'; bytes]))]);
    Model::of(&keys.iter().map(txn).collect::<Vec<_>>())
}

#[test]
fn a_value_that_is_not_held_is_no_prev_kv() {
    let model = puts(&[1, 1], 9);
    let request = WatchCreateRequest { prev_kv: true, start_revision: 3, ..everything() };
    let mut writer = model.load(2, Tier::Index, LIMITS);
    writer.apply(model.changes(3..=3));
    let mut watcher = Watcher::new(&request, 3);
    let refused = writer.store().history(|history| watcher.poll(history, 3, 1 << 20));
    assert_eq!(refused, Err(Behind::PrevNotHeld { revision: 3 }));
    assert_eq!(watcher.next_revision(), 3);
    let mut plain = Watcher::new(&WatchCreateRequest { prev_kv: false, ..request }, 3);
    let events = responses(polled(&writer, &mut plain, 3), 0, 10).remove(0).events;
    assert_eq!(events[0].kv.as_ref(), model.state(3).values().next());
}

#[test]
fn progress_waits_for_events_and_for_the_start() {
    let model = puts(&[1, 2, 3], 9);
    let mut writer = model.load(1, Tier::Value, LIMITS);
    let mut now = Watcher::new(&everything(), 1);
    assert_eq!(now.reached(1), Some(1));
    let mut future = Watcher::new(&WatchCreateRequest { start_revision: 4, ..everything() }, 1);
    writer.apply(model.changes(2..=3));
    assert_eq!(now.reached(3), None);
    assert_eq!(polled(&writer, &mut now, 3).events().len(), 2);
    assert_eq!(now.reached(3), Some(3));
    assert_eq!(writer.store().history(|history| future.poll(history, 3, 9)), Ok(None));
    assert_eq!(future.reached(3), None);
    writer.apply(model.changes(4..=4));
    assert_eq!(polled(&writer, &mut future, 4).revision, 4);
    assert_eq!(future.reached(4), Some(4));
}

/// A collection changes before the feed says how far it is: a client that asked just then was told
/// of progress to a revision before that of the event it had, and went back to there afterwards.
#[test]
fn progress_is_no_less_far_than_the_events_told() {
    let model = puts(&[1, 2], 9);
    let mut writer = model.load(1, Tier::Value, LIMITS);
    let mut watcher = Watcher::new(&everything(), 1);
    writer.apply(model.changes(2..=3));
    assert_eq!(polled(&writer, &mut watcher, 3).events().len(), 2);
    assert_eq!(watcher.reached(2), Some(3));
}

#[test]
fn a_response_has_a_thousand_revisions_at_most() {
    let model = puts(&[1; 1500], 1);
    let mut writer = model.load(1, Tier::Value, LIMITS);
    writer.apply(model.changes(2..=1501));
    let mut watcher = Watcher::new(&WatchCreateRequest { start_revision: 2, ..everything() }, 1501);
    let first = polled(&writer, &mut watcher, 1501);
    assert_eq!((first.events().len(), first.revision), (1000, 1501));
    assert_eq!(polled(&writer, &mut watcher, 1501).events().len(), 500);
}

/// As etcd's `sendFragments` goes about it.
fn fragmented(response: &WatchResponse) -> Vec<WatchResponse> {
    if response.encoded_len() < 2 << 20 || response.events.len() < 2 {
        return vec![response.clone()];
    }
    let (mut fragments, mut at) = (Vec::new(), 0);
    while at < response.events.len() {
        let mut fragment = WatchResponse { fragment: true, events: Vec::new(), ..response.clone() };
        for event in &response.events[at..] {
            fragment.events.push(event.clone());
            if fragment.events.len() > 1 && fragment.encoded_len() >= 2 << 20 {
                fragment.events.pop();
                break;
            }
            at += 1;
        }
        fragment.fragment = at < response.events.len();
        fragments.push(fragment);
    }
    fragments
}

#[test]
fn fragments_are_cut_as_etcd_cuts_them() {
    for bytes in [100_000, 150_000, 500_000, 1_048_500, 3_000_000] {
        let model = puts(&[1; 23], bytes);
        let mut writer = model.load(1, Tier::Value, LIMITS);
        writer.apply(model.changes(2..=24));
        for fragment in [false, true] {
            let request = WatchCreateRequest { start_revision: 2, fragment, ..everything() };
            let mut watcher = Watcher::new(&request, 24);
            let all = |history: &History| watcher.poll(history, 24, usize::MAX);
            let batch = writer.store().history(all).expect("remembered").expect("events");
            let events = (2..=24).flat_map(|revision| expected(&model, &request, revision));
            let header = Some(header(24));
            let whole = WatchResponse {
                header,
                watch_id: 5,
                events: events.collect(),
                ..Default::default()
            };
            let expected = if fragment { fragmented(&whole) } else { vec![whole] };
            assert!(responses(batch, 5, 1 << 20) == expected, "{bytes} bytes");
        }
    }
}
