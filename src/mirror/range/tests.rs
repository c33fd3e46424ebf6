use super::{order::STABLE, *};
use crate::{
    etcd::proto::{
        etcdserverpb::{RangeResponse, RangeStreamResponse, ResponseHeader},
        mvccpb::KeyValue,
    },
    grpc,
    mirror::{
        Writer,
        model::{LIMITS, Model, State, key, object, txns},
    },
};
use bytes::Bytes;
use proptest::{option, prelude::*};
use prost::Message;
use std::cmp::Ordering;

fn header() -> ResponseHeader {
    ResponseHeader { cluster_id: 7, member_id: u64::MAX, revision: 300, raft_term: 2 }
}

/// What etcd does, on all key-values of a state. `None` where it depends on how Go sorts.
fn expected(state: &State, request: &RangeRequest) -> Option<RangeResponse> {
    let range = KeyRange::of(request.key.clone(), request.range_end.clone());
    let mut kvs: Vec<_> = state.values().filter(|kv| range.contains(&kv.key)).cloned().collect();
    let count = kvs.len() as i64;
    let answer = RangeResponse { header: Some(header()), count, ..RangeResponse::default() };
    if request.count_only {
        return Some(answer);
    }
    let bounds = [
        request.max_mod_revision,
        request.min_mod_revision,
        request.max_create_revision,
        request.min_create_revision,
    ];
    let limit = usize::try_from(request.limit).unwrap_or_default();
    if limit > 0 && request.sort_order() == SortOrder::None && bounds == [0; 4] {
        kvs.truncate(limit + 1);
    }
    let [max_mod, min_mod, max_create, min_create] = bounds;
    kvs.retain(|kv| max_mod == 0 || kv.mod_revision <= max_mod);
    kvs.retain(|kv| min_mod == 0 || kv.mod_revision >= min_mod);
    kvs.retain(|kv| max_create == 0 || kv.create_revision <= max_create);
    kvs.retain(|kv| min_create == 0 || kv.create_revision >= min_create);
    kvs.sort_by(|a, b| compare(request, a, b));
    let shown = if limit == 0 { kvs.len() } else { limit };
    let tied = |pair: &[KeyValue]| compare(request, &pair[0], &pair[1]) == Ordering::Equal;
    if kvs.len() > STABLE && kvs.windows(2).take(shown).any(tied) {
        return None;
    }
    let more = kvs.len() > shown;
    kvs.truncate(shown);
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value.clear());
    }
    Some(RangeResponse { kvs, more, ..answer })
}

fn compare(request: &RangeRequest, a: &KeyValue, b: &KeyValue) -> Ordering {
    let ascending = match request.sort_target() {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    if request.sort_order() == SortOrder::Descend { ascending.reverse() } else { ascending }
}

prop_compose! {
    fn requests()(
        start in 0u8..24,
        end in prop_oneof![
            Just(Vec::new()), Just(vec![0]), Just(b"/l".to_vec()), (0u8..24).prop_map(key),
        ],
        limit in prop_oneof![Just(-1i64), Just(0), 1i64..8],
        sort_order in 0i32..3,
        sort_target in prop_oneof![Just(0i32), 0i32..5],
        keys_only in any::<bool>(),
        count_only in proptest::bool::weighted(0.2),
        filters in option::weighted(0.3, (-1i64..40, -1i64..40, -1i64..40, -1i64..40)),
    ) -> RangeRequest {
        let bounds = filters.unwrap_or_default();
        RangeRequest {
            key: key(start).into(),
            range_end: end.into(),
            limit,
            sort_order,
            sort_target,
            keys_only,
            count_only,
            min_mod_revision: bounds.0.min(bounds.1),
            max_mod_revision: bounds.1,
            min_create_revision: bounds.2.min(bounds.3),
            max_create_revision: bounds.3,
            ..RangeRequest::default()
        }
    }
}

/// All bytes, after a check of the length that was announced.
fn unary(found: Found, max: usize) -> Bytes {
    let mut response = found.response(&header().encode_to_vec()).expect("not too long");
    let length = response.length();
    let chunks: Vec<_> = std::iter::from_fn(|| response.next_chunk(max)).collect();
    assert!(chunks.iter().all(|chunk| !chunk.is_empty()));
    let bytes = chunks.concat();
    assert_eq!(bytes.len(), length);
    bytes.into()
}

fn streamed(found: Found, max: usize) -> Vec<RangeResponse> {
    let mut stream = found.stream(&header().encode_to_vec());
    let messages = std::iter::from_fn(|| stream.next_message(max));
    let responses = messages.map(|pieces| {
        let message = grpc::Message::from_framed(pieces.concat().into());
        assert_eq!(grpc::frame(&message.payload()), message.framed());
        let response = RangeStreamResponse::decode(message.payload()).expect("a message");
        response.range_response.expect("a response")
    });
    responses.collect()
}

/// The whole answer of a stream, of which only the last message says more than key-values.
fn merged(responses: &[RangeResponse]) -> RangeResponse {
    let (last, before) = responses.split_last().expect("a message");
    let silent = |chunk: &RangeResponse| {
        let kvs = chunk.kvs.clone();
        !kvs.is_empty() && *chunk == RangeResponse { kvs, ..RangeResponse::default() }
    };
    assert!(before.iter().all(silent));
    let kvs = responses.iter().flat_map(|response| response.kvs.clone()).collect();
    RangeResponse { kvs, ..last.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn answers_as_etcd_does_at_any_revision(
        txns in txns(), revision in 0.0..1.0, request in requests(), max in 1usize..500,
    ) {
        let model = Model::of(&txns);
        let revision = 1 + (revision * model.revision() as f64) as i64;
        let mut writer = model.load(1, Tier::Value, LIMITS);
        writer.apply(model.changes(2..=model.revision()));
        let snapshot = writer.store().at(revision).expect("remembered");
        let found = Found::of(&snapshot, &request);
        let expected = expected(model.state(revision), &request);
        prop_assert_eq!(found.is_some(), expected.is_some());
        let (Some(found), Some(expected)) = (found, expected) else { return Ok(()) };
        prop_assert_eq!(found.len(), expected.kvs.len());
        let leased = expected.kvs.iter().any(|kv| kv.lease != 0);
        prop_assert_eq!(found.shows_leases_of_keys(), request.keys_only && leased);
        prop_assert_eq!(&merged(&streamed(found.clone(), max)), &expected);
        prop_assert_eq!(unary(found, max), grpc::encode(&expected));

        writer.drop_values();
        let bare = Found::of(&writer.store().at(revision).expect("remembered"), &request);
        if let Some(bare) = bare {
            prop_assert!(answers(&request, Tier::Index));
            prop_assert_eq!(unary(bare, max), grpc::encode(&expected));
        } else {
            prop_assert!(!answers(&request, Tier::Index));
        }
    }
}

fn sized(sizes: &[usize]) -> Writer {
    let kv = |(number, size): (usize, &usize)| KeyValue {
        key: key(number as u8).into(),
        value: vec![b'v'; *size].into(),
        ..KeyValue::default()
    };
    let objects = sizes.iter().enumerate().map(kv).map(|kv| object(&kv));
    Writer::load(objects, 9, Tier::Value, LIMITS)
}

fn all(keys_only: bool) -> RangeRequest {
    let everything = Bytes::from_static(b"\0");
    RangeRequest { key: everything.clone(), range_end: everything, keys_only, ..Default::default() }
}

#[test]
fn large_objects_are_not_copied() {
    let writer = sized(&[10, 100_000, 10, 100_000, 100_000, 10, 200_000]);
    let snapshot = writer.store().snapshot();
    for keys_only in [false, true] {
        let found = Found::of(&snapshot, &all(keys_only)).expect("an answer");
        let state = snapshot.objects.from_rank(0).map(|object| {
            let mut kv =
                KeyValue::decode(&object.field()[object.field().len() - kv_length(object)..])
                    .expect("a key-value");
            if keys_only {
                kv.value.clear();
            }
            kv
        });
        let expected =
            RangeResponse { header: Some(header()), kvs: state.collect(), more: false, count: 7 };
        assert_eq!(merged(&streamed(found.clone(), 32 << 10)), expected);
        assert_eq!(unary(found, 32 << 10), grpc::encode(&expected));
    }
    let large = snapshot.objects.get(&key(1)).expect("an object").field().as_ptr();
    let found = Found::of(&snapshot, &all(false)).expect("an answer");
    let mut response = found.response(&[]).expect("not too long");
    let chunks: Vec<_> = std::iter::from_fn(|| response.next_chunk(32 << 10)).collect();
    assert!(chunks.iter().any(|chunk| chunk.as_ptr() == large));
}

fn kv_length(object: &Object) -> usize {
    let mut length = &object.field()[1..];
    prost::encoding::decode_varint(&mut length).expect("a length") as usize
}

#[test]
fn leaves_to_etcd_what_it_refuses_or_would_not_understand() {
    let refused = [
        RangeRequest { key: Bytes::new(), ..all(false) },
        RangeRequest { sort_order: 9, ..all(false) },
        RangeRequest { sort_target: 9, count_only: true, ..all(false) },
    ];
    assert!(refused.iter().all(|request| !answers(request, Tier::Value)));
}

#[test]
fn an_index_counts_and_lists_keys() {
    let by_value = RangeRequest { sort_target: SortTarget::Value.into(), ..all(true) };
    assert!(answers(&all(true), Tier::Index));
    assert!(!answers(&all(false), Tier::Index));
    assert!(!answers(&by_value, Tier::Index) && answers(&by_value, Tier::Value));
    assert!(answers(&RangeRequest { count_only: true, ..by_value }, Tier::Index));
}

#[test]
fn a_message_that_etcd_could_not_send_is_left_to_it() {
    let writer = sized(&[1 << 20]);
    let found = Found::of(&writer.store().snapshot(), &all(false)).expect("an answer");
    let totals = Totals { bytes: i32::MAX as usize, ..found.totals };
    assert!(Found { totals, ..found }.response(&[]).is_none());
}
