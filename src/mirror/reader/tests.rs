use super::*;
use crate::mirror::{Families, Limits, turn::TURN_MAX};
use futures_util::{FutureExt, future::join_all};
use std::future::Future;
use tokio::time::advance;

const WAIT_MAX: Duration = Duration::from_millis(500);

pub(in crate::mirror) fn mirror() -> (Arc<Mirror>, mpsc::Receiver<Order>) {
    let config = Config {
        memory_bytes: 1 << 20,
        history: Limits { events: 100, bytes: 1 << 20 },
        wait_max: WAIT_MAX,
        pinned: Vec::new(),
        verify_interval: None,
        consistency_checks: false,
    };
    let (orders_in, orders) = mpsc::channel(2);
    let metrics = Families::default().cluster("main");
    (Arc::new(Mirror::new(&"main".into(), config, orders_in, metrics)), orders)
}

fn at(revision: i64) -> Position {
    Position { revision, live: true, opening: false, cluster_id: 7 }
}

/// Waits for revision 5 beside what happens to the mirror meanwhile.
async fn reached(mirror: &Arc<Mirror>, meanwhile: impl Future) -> Result<i64, Pass> {
    let waiting = Arc::clone(mirror);
    let waiting = tokio::spawn(async move { waiting.reached(5, 7).await });
    tokio::task::yield_now().await;
    meanwhile.await;
    waiting.await.expect("it does not panic")
}

#[tokio::test(start_paused = true)]
async fn waits_for_the_revision_and_no_longer_than_allowed() {
    let (mirror, _orders) = mirror();
    assert_eq!(mirror.reached(0, 0).await, Err(Pass::Behind), "nothing is followed yet");
    mirror.set_position(at(6));
    assert_eq!(mirror.reached(5, 7).await, Ok(6));
    mirror.set_position(at(3));
    let comes = async {
        mirror.set_position(at(4));
        tokio::task::yield_now().await;
        mirror.set_position(at(8));
    };
    assert_eq!(reached(&mirror, comes).await, Ok(8));
    mirror.set_position(at(4));
    assert_eq!(reached(&mirror, advance(WAIT_MAX)).await, Err(Pass::Behind));
}

#[tokio::test(start_paused = true)]
async fn does_not_wait_for_a_feed_that_is_lost_or_of_another_store() {
    let (mirror, _orders) = mirror();
    mirror.set_position(at(3));
    let lost = async { mirror.set_position(Position { live: false, ..at(3) }) };
    assert_eq!(reached(&mirror, lost).await, Err(Pass::Behind));
    assert_eq!(mirror.reached(3, 7).await, Err(Pass::Behind));
    mirror.set_position(at(3));
    let another = async { mirror.set_position(Position { cluster_id: 8, ..at(9) }) };
    assert_eq!(reached(&mirror, another).await, Err(Pass::Behind));
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_is_being_opened_is_waited_for() {
    let (mirror, _orders) = mirror();
    assert_eq!(mirror.live().await, Err(Pass::Behind), "it is off");
    let opening = |opening| Position { live: false, opening, ..at(3) };
    for (becomes, expected) in [(at(3), Ok(())), (opening(false), Err(Pass::Behind))] {
        mirror.set_position(opening(true));
        let mut waiting = Box::pin(mirror.live());
        assert!((&mut waiting).now_or_never().is_none());
        mirror.set_position(becomes);
        assert_eq!(waiting.await, expected);
    }
}

/// Clients that did not read kept the watchers of all others from going on at etcd.
#[tokio::test(start_paused = true)]
async fn a_turn_to_move_is_given_back_and_not_waited_for_without_end() {
    let (mirror, _orders) = mirror();
    let mut entries = Vec::new();
    for _ in 0..ENTRIES_MAX {
        entries.push(mirror.entry().await.expect("a turn"));
    }
    let began = Instant::now();
    entries.pop();
    entries.push(mirror.entry().await.expect("the turn of who has moved"));
    assert_eq!(began.elapsed(), Duration::ZERO);
    let crowd = join_all((0..2 * ENTRIES_MAX).map(|_| mirror.entry()));
    let (turns, none): (Vec<_>, Vec<_>) = crowd.await.into_iter().partition(Option::is_some);
    assert_eq!((turns.len(), none.len()), (ENTRIES_MAX, ENTRIES_MAX));
    assert_eq!(began.elapsed(), ENTRY_MAX);

    let returns: Vec<_> = (0..RETURNS_MAX).map(|_| mirror.try_return()).collect();
    assert!(returns.iter().all(Option::is_some) && mirror.try_return().is_none());
    advance(TURN_MAX).await;
    tokio::task::yield_now().await;
    assert!(mirror.try_return().is_some());
}

#[test]
fn what_is_known_of_another_store_is_not_put_into_a_header() {
    let mirror = Mirror::fixture(at(9));
    let header =
        |cluster_id| ResponseHeader { cluster_id, revision: 5, ..ResponseHeader::default() };
    assert_eq!(mirror.newest(header(7)).revision, 9);
    assert_eq!(mirror.newest(header(8)), header(8));
}

#[tokio::test(start_paused = true)]
async fn a_header_of_another_store_has_the_feed_look() {
    let (mirror, _orders) = mirror();
    let header =
        |cluster_id, revision| ResponseHeader { cluster_id, revision, ..ResponseHeader::default() };
    assert!(mirror.is_of(&header(7, 3), at(3)));
    assert!(mirror.look.notified().now_or_never().is_none());
    for another in [header(8, 3), header(7, 2)] {
        assert!(!mirror.is_of(&another, at(3)));
        assert!(mirror.look.notified().now_or_never().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_collection_is_wanted_once_and_only_of_a_feed_that_hears() {
    let (mirror, mut orders) = mirror();
    let keys = |name: &'static str| KeyRange::prefix(Bytes::from_static(name.as_bytes()));
    let pods = mirror.collection(&keys("/registry/pods/"), true).expect("a collection");
    assert!(matches!(mirror.store(&pods, Tier::Index, true), Err(Pass::Behind)));
    mirror.set_position(at(3));
    assert!(matches!(mirror.store(&pods, Tier::Index, false), Err(Pass::Cold)));
    assert!(orders.try_recv().is_err(), "a single key is no reason");
    for _ in 0..2 {
        assert!(matches!(mirror.store(&pods, Tier::Index, true), Err(Pass::Cold)));
    }
    assert!(matches!(orders.try_recv(), Ok(Order::Load { tier: Tier::Index, .. })));
    assert!(orders.try_recv().is_err());
    // With its hands full, the feed is not asked, and the collection is as before.
    for name in ["/registry/a/", "/registry/b/"] {
        mirror.want(&mirror.collection(&keys(name), true).expect("a collection"), Tier::Index);
    }
    let nodes = mirror.collection(&keys("/registry/nodes/"), true).expect("a collection");
    mirror.want(&nodes, Tier::Index);
    assert_eq!(nodes.state().as_str(), "cold");
}

/// Names that only few had asked for pushed out one that somebody was about to load. There were two
/// collections of that name then, and the second one was being loaded for ever.
#[tokio::test(start_paused = true)]
async fn there_is_one_collection_of_a_name() {
    let (mirror, _orders) = mirror();
    let collection = |name: String| {
        let keys = KeyRange::prefix(format!("/registry/{name}/").into());
        mirror.collection(&keys, true)
    };
    let pods = collection("pods".into()).expect("a collection");
    let names = || mirror.collections().len();
    for number in 0..COLLECTIONS_MAX {
        drop(collection(number.to_string()).expect("the others are only names"));
    }
    assert_eq!(names(), 2);
    assert!(Arc::ptr_eq(&pods, &collection("pods".into()).expect("a collection")));
}

/// Once so many resources had been listed, be they empty, none was mirrored that came later.
#[tokio::test(start_paused = true)]
async fn what_nobody_reads_makes_place_for_other_names() {
    let (mirror, mut orders) = mirror();
    let collection = |number: usize| {
        let keys = KeyRange::prefix(format!("/registry/{number}/").into());
        mirror.collection(&keys, true)
    };
    let limits = Limits { events: 1, bytes: 1 << 10 };
    let writer = crate::mirror::Writer::load([], 3, Tier::Index, limits);
    for number in 0..COLLECTIONS_MAX {
        let known = collection(number).expect("a collection");
        known.set(State::Ready(Arc::clone(writer.store())));
    }
    advance(Duration::from_secs(1)).await;
    let used = collection(COLLECTIONS_MAX / 2).expect("it is known");
    mirror.collections().iter().for_each(|known| {
        let is_idle = *known.name == *used.name;
        if !is_idle {
            known.touch();
        }
    });
    assert_eq!(collection(COLLECTIONS_MAX).err(), Some(Pass::Cold));
    let Ok(Order::Drop { collection: idle }) = orders.try_recv() else { panic!("none goes") };
    assert_eq!(idle.name, used.name);
    idle.set(State::Cold);
    drop((idle, used));
    assert!(collection(COLLECTIONS_MAX).is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_load_hears_of_its_end() {
    let (mirror, _orders) = mirror();
    mirror.set_position(at(3));
    let pods = Arc::new(Collection::new(Bytes::from_static(b"/registry/pods")));
    assert_eq!(mirror.loaded(&pods, Tier::Index, None).await, Err(Pass::Cold));
    pods.begin_loading(Tier::Index, Instant::now());
    let waiting = {
        let (mirror, pods) = (Arc::clone(&mirror), Arc::clone(&pods));
        tokio::spawn(async move { mirror.loaded(&pods, Tier::Index, None).await })
    };
    tokio::task::yield_now().await;
    let limits = Limits { events: 1, bytes: 1 << 10 };
    let writer = crate::mirror::Writer::load([], 3, Tier::Index, limits);
    pods.set(State::Ready(Arc::clone(writer.store())));
    assert_eq!(waiting.await.expect("it does not panic"), Ok(()));
    assert_eq!(mirror.loaded(&pods, Tier::Value, None).await, Err(Pass::Tier));
    assert!(pods.begin_loading(Tier::Value, Instant::now()));
    assert_eq!(mirror.loaded(&pods, Tier::Value, None).await, Err(Pass::Cold), "it takes too long");
    assert_eq!(mirror.loaded(&pods, Tier::Index, None).await, Ok(()), "its keys are there");
}
