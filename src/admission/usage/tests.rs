use super::*;
use futures_util::{FutureExt, future::join_all};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::time::advance;

#[derive(Default)]
struct Counted {
    keys: AtomicU64,
    times: AtomicU64,
    mean_size: Option<f64>,
}

impl Counted {
    fn times(&self) -> u64 {
        self.times.load(Relaxed)
    }
}

impl Census for Counted {
    fn count<'c>(&'c self, _range: &'c KeyRange) -> BoxFuture<'c, Result<u64, Uncounted>> {
        async {
            self.times.fetch_add(1, Relaxed);
            let counted = self.keys.load(Relaxed);
            tokio::task::yield_now().await;
            Ok(counted)
        }
        .boxed()
    }

    fn mean_size(&self, _range: &KeyRange) -> Option<f64> {
        self.mean_size
    }
}

const AMPLE: fn(Stored) -> bool = |_| false;

const ONE: Stored = Stored { keys: 1, bytes: 100 };

fn range() -> KeyRange {
    KeyRange::prefix("/registry/pods/".into())
}

/// What is stored for certain, counted where that is due.
async fn keys(usage: &Usage, census: &Counted, exceeds: impl Fn(Stored) -> bool) -> u64 {
    usage.count(&range(), census, exceeds).await;
    usage.state.lock().stored().keys
}

fn grow(usage: &Arc<Usage>, certain: bool) -> Growth {
    usage.grow(ONE, certain, AMPLE).expect("room")
}

#[tokio::test(start_paused = true)]
async fn it_counts_seldom_and_before_it_refuses() {
    let (usage, census) = (Arc::new(Usage::default()), Counted::default());
    let full = |stored: Stored| stored.keys >= 3;
    for expected in 0..3 {
        assert_eq!(keys(&usage, &census, full).await, expected);
        grow(&usage, true).end(true);
    }
    assert_eq!(census.times(), 1);
    // Somebody else deletes; that is seen before anything is refused.
    advance(Duration::from_secs(1)).await;
    assert_eq!(keys(&usage, &census, full).await, 0);
    assert_eq!(census.times(), 2);
    census.keys.store(7, Relaxed);
    advance(Duration::from_secs(10)).await;
    assert_eq!(keys(&usage, &census, full).await, 7);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_stored_leaves_no_trace() {
    let (usage, census) = (Arc::new(Usage::default()), Counted::default());
    assert_eq!(keys(&usage, &census, AMPLE).await, 0);
    let full = |stored: Stored| stored.keys >= 2;
    let (one, other) = (grow(&usage, true), grow(&usage, true));
    assert_eq!(usage.grow(ONE, true, full).expect_err("no room").keys, 2);
    drop(one);
    other.end(true);
    assert_eq!(keys(&usage, &census, AMPLE).await, 1);
    drop(usage.grow(ONE, true, full).expect("room"));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_may_be_an_update_fills_nothing_and_is_looked_into() {
    let (usage, census) = (Arc::new(Usage::default()), Counted::default());
    let full = |stored: Stored| stored.keys >= 1;
    assert_eq!(keys(&usage, &census, full).await, 0);
    grow(&usage, false).end(true);
    assert_eq!(keys(&usage, &census, full).await, 0);
    census.keys.store(1, Relaxed);
    advance(Duration::from_secs(1)).await;
    assert_eq!(keys(&usage, &census, full).await, 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_has_its_size_and_not_that_of_what_is_written() {
    for (mean_size, expected) in [(None, 5 * 100), (Some(1000.0), 4 * 1000 + 100)] {
        let census = Counted { keys: 4.into(), mean_size, ..Counted::default() };
        let usage = Arc::new(Usage::default());
        keys(&usage, &census, AMPLE).await;
        grow(&usage, true).end(true);
        grow(&usage, false).end(true);
        assert_eq!(usage.state.lock().stored(), Stored { keys: 5, bytes: expected });
    }
}

/// A census that etcd takes before a key is stored, and answers after that.
struct Overtaken(Mutex<Option<Growth>>);

impl Census for Overtaken {
    fn count<'c>(&'c self, _range: &'c KeyRange) -> BoxFuture<'c, Result<u64, Uncounted>> {
        let stored = self.0.lock().take().map(|growth| growth.end(true));
        async move { stored.map(|()| 5).ok_or(Uncounted::Refused) }.boxed()
    }

    fn mean_size(&self, _range: &KeyRange) -> Option<f64> {
        None
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_during_a_count_is_not_lost() {
    let usage = Arc::new(Usage::default());
    let census = Overtaken(Mutex::new(Some(grow(&usage, true))));
    usage.count(&range(), &census, AMPLE).await;
    assert_eq!(usage.state.lock().stored().keys, 6);
}

/// 500 creates at a full quota had etcd count 60,100 keys 525 times.
#[tokio::test(start_paused = true)]
async fn one_count_is_enough_for_all_who_come_meanwhile() {
    let (usage, census) = (Usage::default(), Counted { keys: 100.into(), ..Counted::default() });
    let full = |stored: Stored| stored.keys >= 100;
    let all = (0..500).map(|_| keys(&usage, &census, full));
    assert!(join_all(all).await.iter().all(|keys| *keys == 100));
    assert_eq!(census.times(), 1);
    // Where there is room, nobody waits for a count that somebody else makes.
    advance(AGE_MAX).await;
    let mut counting = pin!(keys(&usage, &census, AMPLE));
    assert!(counting.as_mut().now_or_never().is_none());
    assert!(keys(&usage, &census, AMPLE).now_or_never().is_some());
    counting.await;
    assert_eq!(census.times(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_while_counting_hands_it_on() {
    let (usage, census) = (Usage::default(), Counted::default());
    let mut leaving = Box::pin(keys(&usage, &census, AMPLE));
    assert!((&mut leaving).now_or_never().is_none());
    let mut other = Box::pin(keys(&usage, &census, AMPLE));
    assert!((&mut other).now_or_never().is_none());
    drop(leaving);
    assert_eq!(other.await, 0);
    assert_eq!(census.times(), 2);
}

/// Of 90 creates at once 9 were refused although there was room for 100.
#[tokio::test(start_paused = true)]
async fn what_was_added_during_a_count_is_counted_anew_before_anything_is_refused() {
    let (usage, census) = (Arc::new(Usage::default()), Counted::default());
    let full = |stored: Stored| stored.keys >= 3;
    keys(&usage, &census, full).await;
    let (one, other) = (grow(&usage, true), grow(&usage, true));
    // etcd has stored both, and counts them before it has said so.
    census.keys.store(2, Relaxed);
    advance(AGE_MAX).await;
    assert_eq!(keys(&usage, &census, AMPLE).await, 4);
    one.end(true);
    let mut third = pin!(keys(&usage, &census, full));
    assert!(third.as_mut().now_or_never().is_none(), "nobody can tell yet");
    other.end(true);
    assert_eq!(third.await, 2);
    assert_eq!(census.times(), 3);
}

/// A client that leaves does not take back what it has sent.
#[tokio::test(start_paused = true)]
async fn what_nobody_heard_of_is_there_until_it_is_counted() {
    let (usage, census) = (Arc::new(Usage::default()), Counted::default());
    let full = |stored: Stored| stored.keys >= 1;
    keys(&usage, &census, full).await;
    let mut sent = grow(&usage, true);
    sent.send();
    drop(sent);
    assert!(usage.grow(ONE, true, full).is_err());
    assert_eq!(keys(&usage, &census, full).await, 0);
    assert!(usage.grow(ONE, true, full).is_ok());
}

/// What is added takes for ever at an etcd that hangs.
#[tokio::test(start_paused = true)]
async fn what_is_being_added_is_not_waited_for_without_end() {
    let (usage, census) = (Arc::new(Usage::default()), Counted::default());
    let full = |stored: Stored| stored.keys >= 2;
    let _hangs = grow(&usage, true);
    census.keys.store(1, Relaxed);
    assert_eq!(keys(&usage, &census, full).await, 2);
    assert!(usage.grow(ONE, true, full).is_err());
    assert_eq!(census.times(), 2);
}
