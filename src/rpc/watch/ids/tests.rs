use super::*;
use tokio::sync::oneshot::error::TryRecvError;

const ONE: Source = Source::Etcd(0);
const OTHER: Source = Source::Etcd(1);
const MEMORY: Source = Source::Memory(0);

fn create(ids: &mut Ids, source: Source) -> i64 {
    let id = ids.next();
    ids.created(id, source, 1);
    id
}

fn moving(watch_id: i64) -> Moving {
    let request =
        WatchCreateRequest { watch_id, start_revision: 5, ..WatchCreateRequest::default() };
    Moving { cluster: 0, request, seen: Seen { cluster_id: 7, revision: 9 } }
}

#[test]
fn another_store_is_none_to_go_on_in() {
    let seen = Seen { cluster_id: 7, revision: 9 };
    let header =
        |cluster_id, revision| ResponseHeader { cluster_id, revision, ..ResponseHeader::default() };
    assert!(seen.is_in(&header(7, 9)) && seen.is_in(&header(7, 10)));
    assert!(!seen.is_in(&header(7, 8)) && !seen.is_in(&header(8, 10)));
}

#[test]
fn ids_are_counted_over_all_sources_and_skip_chosen_ones() {
    let mut ids = Ids::default();
    assert_eq!(create(&mut ids, ONE), 0);
    ids.created(1, OTHER, 1);
    assert_eq!(create(&mut ids, OTHER), 2);
    assert_eq!(create(&mut ids, MEMORY), 3);
    assert_eq!(ids.live(OTHER), [1, 2]);
}

#[test]
fn a_request_that_failed_uses_no_id_up() {
    let mut ids = Ids::default();
    assert_eq!(ids.next(), 0);
    assert_eq!(create(&mut ids, OTHER), 0);
    assert_eq!(create(&mut ids, OTHER), 1);
}

#[test]
fn an_automatic_id_is_not_given_twice_and_a_chosen_one_may_be() {
    let mut ids = Ids::default();
    assert_eq!(create(&mut ids, ONE), 0);
    ids.cancelled(0);
    assert_eq!(create(&mut ids, ONE), 1);
    ids.created(5, ONE, 1);
    ids.ended(5, ONE);
    assert_eq!(ids.source_of(5), Some(ONE));
    assert_eq!(ids.live(ONE), [1]);
    ids.cancelled(5);
    assert_eq!(ids.source_of(5), None);
}

#[test]
fn a_lost_source_takes_its_watchers_along() {
    let mut ids = Ids::default();
    create(&mut ids, ONE);
    create(&mut ids, OTHER);
    assert!(ids.has_others(ONE));
    assert_eq!(ids.lost(OTHER), [1]);
    assert!(!ids.has_others(ONE));
    assert_eq!(ids.source_of(1), None);
}

#[test]
fn who_leaves_memory_belongs_to_nobody_until_etcd_has_created_it() {
    let mut ids = Ids::default();
    let id = create(&mut ids, MEMORY);
    ids.leave(moving(id));
    assert_eq!((ids.live(MEMORY), ids.live(ONE)), (vec![], vec![]));
    assert!(ids.has_others(MEMORY) && ids.has_others(ONE));
    assert_eq!(ids.continue_next(), Some(moving(id)));
    let continued = ids.take_continued().expect("the watcher");
    assert_eq!((continued.watch_id, ids.take_continued()), (id, None));
    ids.goes_on(continued, ONE, 9);
    assert_eq!((ids.live(ONE), ids.has_others(ONE)), (vec![id], false));
}

#[test]
fn what_etcd_says_of_all_watchers_is_about_those_it_knew_of() {
    let mut ids = Ids::default();
    assert_eq!(ids.reached(ONE, 9), Reached::All);
    let [known, late] = [create(&mut ids, ONE), create(&mut ids, MEMORY)];
    assert_eq!(ids.reached(ONE, 9), Reached::These(vec![known]));
    ids.leave(moving(late));
    assert_eq!(ids.reached(ONE, 9), Reached::These(vec![known]), "it is on its way");
    ids.continue_next();
    let continued = ids.take_continued().expect("the watcher");
    ids.goes_on(continued, ONE, 9);
    // It had seen everything before 5; at 9, etcd knew of it.
    for (revision, reached) in [
        (4, Reached::All),
        (5, Reached::These(vec![known])),
        (9, Reached::These(vec![known])),
        (10, Reached::All),
    ] {
        assert_eq!(ids.reached(ONE, revision), reached, "{revision}");
    }
}

#[test]
fn an_id_that_was_given_out_again_stays_where_it_is() {
    let mut ids = Ids::default();
    ids.created(3, MEMORY, 1);
    ids.cancelled(3);
    ids.created(3, ONE, 1);
    ids.leave(moving(3));
    assert_eq!((ids.source_of(3), ids.continue_next()), (Some(ONE), None));
}

#[test]
fn who_was_cancelled_does_not_go_on_at_etcd() {
    let mut ids = Ids::default();
    for _ in 0..2 {
        create(&mut ids, MEMORY);
    }
    ids.cancelled(0);
    ids.leave(moving(0));
    ids.leave(moving(1));
    ids.cancelled(1);
    assert_eq!(ids.continue_next(), None);
}

#[test]
fn an_id_is_being_cancelled_until_etcd_says_so() {
    let mut ids = Ids::default();
    ids.created(7, ONE, 1);
    ids.cancelled(7);
    assert_eq!(ids.cancelling(7), Some(ONE));
    ids.ended(7, ONE);
    assert_eq!(ids.cancelling(7), None);
    ids.created(8, ONE, 1);
    ids.cancelled(8);
    ids.lost(OTHER);
    assert_eq!(ids.cancelling(8), Some(ONE));
    ids.lost(ONE);
    assert_eq!(ids.cancelling(8), None);
}

/// A client that chose the id of a watcher it had just cancelled, for keys on another cluster, had the
/// new one cancelled by what the first cluster said of the old one.
#[test]
fn what_is_said_of_who_had_an_id_before_is_not_about_who_has_it_now() {
    let mut ids = Ids::default();
    ids.created(7, ONE, 1);
    ids.cancelled(7);
    let mut answered = ids.answered(7);
    ids.created(7, OTHER, 1);
    ids.ended(7, OTHER);
    assert_eq!((ids.cancelling(7), answered.try_recv()), (Some(ONE), Err(TryRecvError::Empty)));
    ids.created(7, OTHER, 1);
    ids.ended(7, ONE);
    assert_eq!((ids.cancelling(7), answered.try_recv()), (None, Err(TryRecvError::Closed)));
    assert_eq!(ids.live(OTHER), [7]);
    ids.cancelled(7);
    let mut answered = ids.answered(7);
    ids.lost(OTHER);
    assert_eq!(answered.try_recv(), Err(TryRecvError::Closed));
}

const AWAY: Source = Source::Away(0);

/// Watchers 0 and on that are away, created when the store was at these revisions, and asked how far
/// they are.
fn away(created: &[i64]) -> Ids {
    let mut ids = Ids::default();
    for revision in created {
        let request = WatchCreateRequest { watch_id: ids.next(), ..WatchCreateRequest::default() };
        ids.ask(Some(request.clone()));
        ids.created(request.watch_id, AWAY, *revision);
    }
    ids.away(0).ask(Instant::now());
    ids
}

fn part(ids: &mut Ids, revision: i64) -> Option<Vec<i64>> {
    ids.part(0, Seen { cluster_id: 7, revision }, Instant::now());
    let returning = ids.return_next()?;
    assert_eq!((returning.cluster, returning.seen.revision), (0, revision));
    Some(returning.requests.iter().map(|request| request.watch_id).collect())
}

#[test]
fn all_leave_etcd_at_once_when_it_says_where_they_are() {
    let mut ids = away(&[5, 6]);
    assert_eq!(part(&mut ids, 7), Some(vec![0, 1]));
    assert_eq!((ids.live(AWAY), ids.source_of(0)), (vec![], Some(Source::Moving(0))));
    assert!(ids.take_left(0) && !ids.take_left(0));
    ids.comes_back(0, 0);
    assert_eq!(ids.live(MEMORY), [0]);
    ids.goes_back(moving(1));
    assert_eq!(ids.continue_next(), Some(moving(1)));
    let continued = ids.take_continued().expect("the watcher");
    ids.goes_on(continued, AWAY, 9);
    assert_eq!(ids.homes(0).collect::<Vec<_>>(), [&moving(1).request]);
}

#[test]
fn an_answer_that_may_be_older_than_a_watcher_lets_nobody_leave() {
    let mut ids = away(&[5, 6]);
    assert_eq!(part(&mut ids, 6), None);
    assert_eq!((ids.live(AWAY), ids.take_left(0)), (vec![0, 1], false));
    assert_eq!(part(&mut ids, 7), Some(vec![0, 1]));
}

#[test]
fn nobody_leaves_who_was_not_asked_or_before_a_request_is_answered() {
    let mut ids = away(&[5, 5]);
    ids.away(0).hold();
    assert_eq!(part(&mut ids, 9), None);
    ids.away(0).ask(Instant::now());
    assert_eq!(ids.cancelled(0), Some(AWAY));
    assert_eq!(part(&mut ids, 9), None);
    ids.ended(0, AWAY);
    assert_eq!(part(&mut ids, 9), Some(vec![1]));
}

#[test]
fn one_that_cannot_come_back_keeps_the_others() {
    let mut ids = away(&[5]);
    ids.created(9, AWAY, 5);
    assert_eq!(part(&mut ids, 9), None);
}

#[test]
fn who_is_cancelled_on_the_way_does_not_come_back() {
    let mut ids = away(&[5, 5, 5]);
    ids.part(0, Seen { cluster_id: 7, revision: 9 }, Instant::now());
    assert_eq!(ids.cancelled(1), Some(Source::Moving(0)));
    let returning = ids.return_next().expect("some return");
    let left: Vec<_> = returning.requests.iter().map(|request| request.watch_id).collect();
    assert_eq!(left, [0, 2]);
    assert_eq!(ids.source_of(1), None);
}

#[test]
fn what_etcd_has_cancelled_is_answered_for_by_memory() {
    let mut ids = away(&[5, 5]);
    ids.ended(0, AWAY);
    assert_eq!(part(&mut ids, 9), Some(vec![1]));
    assert_eq!((ids.source_of(0), ids.live(MEMORY)), (Some(MEMORY), vec![]));
}
