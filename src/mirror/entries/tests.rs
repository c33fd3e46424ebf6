use super::*;
use crate::{
    etcd::proto::mvccpb::KeyValue,
    mirror::{Families, Kind, Limits, Object, model},
};
use std::future::pending;
use tokio::time::advance;

fn config(memory_bytes: usize) -> Config {
    Config {
        memory_bytes: memory_bytes as u64,
        history: Limits { events: 100, bytes: 1 << 20 },
        wait_max: Duration::from_millis(500),
        pinned: vec![Bytes::from_static(b"/pinned")],
        verify_interval: None,
        consistency_checks: false,
    }
}

const ENOUGH: usize = 1 << 30;

fn entries() -> Entries {
    Entries::new(&"main".into(), Families::default().cluster("main"), mpsc::channel(1).0)
}

fn object(name: &str, revision: i64, size: usize) -> Object {
    model::object(&KeyValue {
        key: format!("{name}/{revision}").into(),
        mod_revision: revision,
        value: vec![b'x'; size].into(),
        ..KeyValue::default()
    })
}

impl Entries {
    /// Begins a load that never ends by itself.
    fn wait_for(&mut self, name: &'static str, tier: Tier) -> Arc<Collection> {
        let collection = Arc::new(Collection::new(Bytes::from_static(name.as_bytes())));
        assert!(collection.begin_loading(tier, Instant::now()));
        let load = AbortOnDropHandle::new(tokio::spawn(pending()));
        self.expect(Arc::clone(&collection), tier, Arc::default(), load);
        collection
    }

    fn end(&mut self, name: &'static str, loaded: Result<Vec<Object>, Failed>, config: &Config) {
        let name = Bytes::from_static(name.as_bytes());
        let loaded = loaded.map(|objects| Loaded { revision: 10, objects });
        let read = self.by_name.get(&name).and_then(Entry::load).cloned().unwrap_or_default();
        self.on_loaded(Ended { name, read, loaded }, config);
    }

    /// Holds one object of this size.
    fn hold(&mut self, name: &'static str, size: usize) -> Arc<Collection> {
        let collection = self.wait_for(name, Tier::Value);
        self.end(name, Ok(vec![object(name, 3, size)]), &config(ENOUGH));
        collection.touch();
        collection
    }

    /// Bytes that leave room for all but `size`.
    fn all_but(&self, size: usize) -> Config {
        config(self.held() - size)
    }
}

fn tier(collection: &Collection) -> Option<Tier> {
    collection.snapshot().map(|snapshot| snapshot.tier)
}

fn keys(collection: &Collection) -> Vec<i64> {
    let snapshot = collection.snapshot().expect("ready");
    snapshot.objects.from_rank(0).map(|object| object.mod_revision).collect()
}

#[tokio::test(start_paused = true)]
async fn what_happened_during_the_load_is_there_after_it() {
    let mut entries = entries();
    let collection = entries.wait_for("/pods", Tier::Value);
    let put = |revision| Change { kind: Kind::Put, object: object("/pods", revision, 1) };
    // The load has the first one already.
    entries.apply(b"/pods", vec![put(9)]);
    entries.apply(b"/pods", vec![put(11), put(12)]);
    entries.apply(b"/others", vec![put(12)]);
    assert!(collection.store().is_none());
    entries.end("/pods", Ok(vec![object("/pods", 4, 1)]), &config(ENOUGH));
    entries.apply(b"/pods", vec![put(13)]);
    assert_eq!(keys(&collection), [11, 12, 13, 4], "in the order of their keys");
}

#[tokio::test(start_paused = true)]
async fn values_go_first_and_of_what_was_not_read_for_longest() {
    let mut entries = entries();
    let pinned = entries.hold("/pinned", 1000);
    advance(Duration::from_secs(1)).await;
    let old = entries.hold("/old", 1000);
    advance(Duration::from_secs(1)).await;
    let young = entries.hold("/young", 1000);
    let tiers = || [&pinned, &old, &young].map(|collection| tier(collection));
    let (index, value) = (Some(Tier::Index), Some(Tier::Value));

    entries.make_room(&entries.all_but(0));
    assert_eq!(tiers(), [value, value, value]);
    entries.make_room(&entries.all_but(1));
    assert_eq!(tiers(), [value, index, value]);
    assert!(!old.begin_loading(Tier::Value, Instant::now()), "its values rest");
    entries.make_room(&entries.all_but(1));
    assert_eq!(tiers(), [value, index, index]);
    entries.make_room(&entries.all_but(1));
    assert_eq!(tiers(), [value, None, index]);
    entries.make_room(&entries.all_but(1));
    assert_eq!(tiers(), [value, None, None]);
    entries.make_room(&entries.all_but(1));
    assert_eq!(tiers(), [index, None, None]);
    entries.make_room(&config(0));
    assert_eq!((tiers(), entries.held()), ([None, None, None], 0));
    assert!(!old.begin_loading(Tier::Index, Instant::now()), "it rests");
    assert!(old.begin_loading(Tier::Index, Instant::now() + REST));
}

#[tokio::test(start_paused = true)]
async fn what_is_empty_is_not_given_up_for_room() {
    let mut entries = entries();
    let empty = entries.wait_for("/empty", Tier::Value);
    entries.end("/empty", Ok(vec![]), &config(ENOUGH));
    advance(Duration::from_secs(1)).await;
    let full = entries.hold("/full", 1000);
    entries.make_room(&config(0));
    assert_eq!((tier(&empty), tier(&full)), (Some(Tier::Value), None));
}

/// `mirror.history` was taken over for collections alone that were loaded after it had changed.
#[tokio::test(start_paused = true)]
async fn how_much_is_remembered_changes_for_what_is_held() {
    let mut entries = entries();
    let collection = entries.hold("/pods", 1);
    let store = collection.store().expect("ready");
    let put = |revision| Change { kind: Kind::Put, object: object("/pods", revision, 1) };
    let remembered = || store.history(|history| (history.len(), history.floor()));
    let limits = |events| Limits { events, bytes: 1 << 20 };
    entries.apply(b"/pods", (11..=15).map(put).collect());
    assert!(store.at(12).is_ok());
    entries.remember(limits(2));
    assert_eq!(remembered(), (2, 13));
    assert!(store.at(12).is_err(), "what was asked for before is forgotten, too");
    entries.remember(limits(4));
    entries.apply(b"/pods", (16..=18).map(put).collect());
    assert_eq!(remembered(), (4, 14));
}

#[tokio::test(start_paused = true)]
async fn only_what_nobody_reads_makes_room_for_others() {
    let mut entries = entries();
    let used = entries.hold("/used", 1000);
    entries.hold("/idle", 1000);
    let held = entries.held();
    let config = config(held + 500);
    let new = Bytes::from_static(b"/new");
    assert_eq!(entries.room_for(&new, &config), 500);
    advance(IN_USE).await;
    used.touch();
    assert_eq!(entries.room_for(&new, &config), 500 + held / 2);
    assert_eq!(entries.room_for(&Bytes::from_static(b"/used"), &config), 500 + held);
}

#[tokio::test(start_paused = true)]
async fn a_load_counts_and_is_given_up_after_what_nobody_reads() {
    let mut entries = entries();
    let held = entries.hold("/held", 1000);
    let loading = Arc::new(Collection::new(Bytes::from_static(b"/loading")));
    assert!(loading.begin_loading(Tier::Value, Instant::now()));
    let read = Arc::new(AtomicUsize::new(0));
    let load = AbortOnDropHandle::new(tokio::spawn(pending()));
    entries.expect(Arc::clone(&loading), Tier::Value, Arc::clone(&read), load);
    let before = entries.held();
    read.store(700, Relaxed);
    assert_eq!(entries.held(), before + 700);
    advance(IN_USE).await;
    entries.make_room(&config(700));
    assert_eq!((tier(&held), loading.state().as_str()), (None, "loading"));
    entries.make_room(&config(699));
    assert_eq!((entries.held(), loading.state().as_str()), (0, "resting"));
    // It has come too late.
    entries.end("/loading", Ok(vec![]), &config(ENOUGH));
    assert!(loading.store().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_load_is_given_up_before_what_is_read() {
    let mut entries = entries();
    let held = entries.hold("/held", 1000);
    let before = entries.held();
    let loading = entries.wait_for("/loading", Tier::Value);
    let put = Change { kind: Kind::Put, object: object("/loading", 11, 100) };
    entries.apply(b"/loading", vec![put]);
    assert!(entries.held() > before);
    entries.make_room(&config(before));
    assert_eq!((tier(&held), loading.state().as_str()), (Some(Tier::Value), "resting"));
}

#[tokio::test(start_paused = true)]
async fn what_comes_of_an_earlier_load_is_not_taken_for_a_later_one() {
    let mut entries = entries();
    entries.wait_for("/pods", Tier::Index);
    let read = entries.by_name[&b"/pods"[..]].load().cloned().expect("a load");
    entries.forget_all();
    let collection = entries.wait_for("/pods", Tier::Value);
    let loaded = Ok(Loaded { revision: 10, objects: vec![object("/pods", 4, 0)] });
    let name = Bytes::from_static(b"/pods");
    entries.on_loaded(Ended { name, read, loaded }, &config(ENOUGH));
    assert_eq!(collection.state().as_str(), "loading");
}

#[tokio::test(start_paused = true)]
async fn keys_may_be_held_where_values_are_too_many() {
    let mut entries = entries();
    let collection = entries.wait_for("/large", Tier::Value);
    entries.end("/large", Err(Failed::TooLarge), &config(ENOUGH));
    assert_eq!(collection.state().as_str(), "cold");
    assert!(!collection.begin_loading(Tier::Value, Instant::now()));
    assert!(collection.begin_loading(Tier::Index, Instant::now()));
    collection.set(State::Cold);
    assert!(collection.begin_loading(Tier::Value, Instant::now() + REST_TOO_LARGE));

    let collection = entries.wait_for("/larger", Tier::Index);
    entries.end("/larger", Err(Failed::TooLarge), &config(ENOUGH));
    assert_eq!(collection.state().as_str(), "resting");
    assert!(!collection.begin_loading(Tier::Index, Instant::now() + REST));

    let collection = entries.wait_for("/failed", Tier::Value);
    entries.end("/failed", Err(Failed::Denied), &config(ENOUGH));
    assert!(!collection.begin_loading(Tier::Value, Instant::now()));
    assert!(collection.begin_loading(Tier::Value, Instant::now() + REST));
}

/// It was read from etcd again and again, and neither a metric nor the log told of it.
#[tokio::test(start_paused = true)]
async fn a_load_that_misses_too_much_is_given_up() {
    let mut entries = entries();
    let collection = entries.wait_for("/busy", Tier::Index);
    let put =
        |revision| Change { kind: Kind::Put, object: object("/busy", revision, SINCE_MAX / 3) };
    entries.apply(b"/busy", vec![put(11), put(12)]);
    assert_eq!(collection.state().as_str(), "loading");
    entries.apply(b"/busy", vec![put(13)]);
    assert_eq!((collection.state().as_str(), entries.held()), ("resting", 0));
    assert_eq!(entries.metrics.loads_failed.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn values_come_to_keys_that_are_read_meanwhile() {
    let (mut entries, config) = (entries(), config(ENOUGH));
    let collection = entries.wait_for("/pods", Tier::Index);
    entries.end("/pods", Ok(vec![object("/pods", 4, 0)]), &config);
    let store = collection.store().expect("ready");
    let want = |entries: &mut Entries| {
        assert!(collection.begin_loading(Tier::Value, Instant::now()));
        let load = AbortOnDropHandle::new(tokio::spawn(pending()));
        entries.expect(Arc::clone(&collection), Tier::Value, Arc::default(), load);
    };
    want(&mut entries);
    entries.end("/pods", Err(Failed::TooLarge), &config);
    assert_eq!((tier(&collection), collection.is_filling()), (Some(Tier::Index), false));
    advance(REST_TOO_LARGE).await;
    want(&mut entries);
    // Read at revision 10, where the feed is at 9.
    entries.end("/pods", Ok(vec![object("/pods", 4, 1), object("/pods", 8, 1)]), &config);
    entries.fill(9, &config);
    assert_eq!((tier(&collection), keys(&collection)), (Some(Tier::Index), vec![4]));
    for revision in [8, 11] {
        // As the keys were read at revision 10, too, the first is passed over.
        let change = Change { kind: Kind::Put, object: object("/pods", revision, 1) };
        entries.apply(b"/pods", vec![change]);
    }
    entries.fill(11, &config);
    assert_eq!((tier(&collection), keys(&collection)), (Some(Tier::Value), vec![11, 4, 8]));
    assert!(Arc::ptr_eq(&store, &collection.store().expect("ready")), "who follows it can stay");
    assert!(!collection.is_filling());
}
