//! Ids of the watchers of one stream, given out as etcd does.

use crate::etcd::proto::etcdserverpb::{ResponseHeader, WatchCreateRequest};
use std::{
    collections::{HashMap, VecDeque},
    ops::RangeInclusive,
};

/// The watchers of one client's stream. Used where they may have several sources: each of them would
/// count from 0.
#[derive(Debug, Default)]
pub(super) struct Ids {
    watchers: HashMap<i64, Watcher>,
    /// The next id that is given out if nobody chose it before.
    next: i64,
    /// The id that was given out for the request that waits for its answer.
    given: Option<i64>,
    /// Watchers that memory cannot serve any more, in their order.
    moving: VecDeque<Moving>,
    /// The watcher that is being created at etcd in order to go on there.
    continued: Option<Continued>,
    /// Ids that the cluster at an index was asked to cancel and has not answered for.
    cancelling: HashMap<i64, usize>,
}

/// A watcher that goes on at etcd, and the first revision that it has not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Continued {
    pub(super) id: i64,
    start_revision: i64,
}

/// Whom a cluster's answer about all the watchers that it knows is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// All of the client's stream.
    All,
    /// These, in the order of their ids.
    These(Vec<i64>),
}

/// Where the events of a watcher come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// The stream to the cluster at an index.
    Etcd(usize),
    /// What is held of that cluster.
    Memory(usize),
    /// Nowhere, on the way from its memory to etcd.
    Moving(usize),
}

/// How a watcher goes on at etcd.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moving {
    pub(super) cluster: usize,
    /// Under the watcher's id, from the first revision on that was not delivered.
    pub(super) request: WatchCreateRequest,
    /// The store that it is a watcher of, and a revision that this has had.
    pub(super) seen: Seen,
}

/// A store of etcd's, and a revision that it has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) cluster_id: u64,
    pub(super) revision: i64,
}

impl Seen {
    /// Whether it is the store that now gives this header: one that was restored from a backup has
    /// gone back, and what a watcher has seen of the other says nothing about it.
    pub(super) fn is_in(&self, now: &ResponseHeader) -> bool {
        self.cluster_id == now.cluster_id && self.revision <= now.revision
    }
}

/// One watcher.
///
/// ```text
/// Memory --cannot be served from there--> Moving --created at etcd--> Etcd
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
struct Watcher {
    source: Source,
    /// Created, and not cancelled by etcd.
    live: bool,
    /// Revisions that it may not have seen all events of when etcd says so of all watchers: the
    /// client may have asked for that before etcd knew of this one.
    catching_up: Option<RangeInclusive<i64>>,
}

impl Ids {
    /// The id that etcd would give to the next watcher that does not choose one. Given again until
    /// such a watcher was created: a failed request uses up none.
    pub(super) fn next(&mut self) -> i64 {
        let free = (self.next..).find(|id| !self.watchers.contains_key(id)).unwrap_or(i64::MAX);
        self.given = Some(free);
        free
    }

    /// Where a watcher is served.
    pub(super) fn source_of(&self, id: i64) -> Option<Source> {
        self.watchers.get(&id).map(|watcher| watcher.source)
    }

    /// A watcher was created under `id`.
    pub(super) fn created(&mut self, id: i64, source: Source) {
        self.watchers.insert(id, Watcher { source, live: true, catching_up: None });
        if self.given.take_if(|given| *given == id).is_some() {
            self.next = id.saturating_add(1);
        }
    }

    /// etcd has created a watcher that left memory, when the store was at `revision`.
    pub(super) fn goes_on(&mut self, continued: Continued, source: Source, revision: i64) {
        let Continued { id, start_revision } = continued;
        let catching_up = Some(start_revision..=revision).filter(|range| !range.is_empty());
        self.watchers.insert(id, Watcher { source, live: true, catching_up });
    }

    /// Who has seen everything up to `revision` when this source says so of all its watchers.
    pub(super) fn reached(&self, source: Source, revision: i64) -> Reached {
        let is_sure = |watcher: &Watcher| {
            watcher.source == source
                && watcher.catching_up.as_ref().is_none_or(|range| !range.contains(&revision))
        };
        let mut live = self.watchers.iter().filter(|(_, watcher)| watcher.live);
        if live.clone().all(|(_, watcher)| is_sure(watcher)) {
            return Reached::All;
        }
        let mut ids: Vec<_> =
            live.by_ref().filter(|(_, watcher)| is_sure(watcher)).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        Reached::These(ids)
    }

    /// etcd cancelled a watcher. Its id stays taken until the client cancels it too.
    pub(super) fn ended(&mut self, id: i64) {
        self.cancelling.remove(&id);
        if let Some(watcher) = self.watchers.get_mut(&id) {
            watcher.live = false;
        }
    }

    /// The client cancelled a watcher.
    pub(super) fn cancelled(&mut self, id: i64) {
        match self.watchers.remove(&id).map(|watcher| watcher.source) {
            Some(Source::Etcd(cluster)) => {
                self.cancelling.insert(id, cluster);
            }
            Some(Source::Moving(_)) => self.moving.retain(|moving| moving.request.watch_id != id),
            Some(Source::Memory(_)) | None => {}
        }
    }

    /// Whether etcd is still to answer that a watcher of this id is cancelled. Another one of the same
    /// id must be created behind that.
    pub(super) fn is_cancelling(&self, id: i64) -> bool {
        self.cancelling.contains_key(&id)
    }

    /// The watchers of a source that may still see events, in the order of their ids.
    pub(super) fn live(&self, source: Source) -> Vec<i64> {
        let live = self.watchers.iter().filter(|(_, w)| w.live && w.source == source);
        let mut ids: Vec<_> = live.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Forgets all watchers of a source, and returns those that were live.
    pub(super) fn lost(&mut self, source: Source) -> Vec<i64> {
        let live = self.live(source);
        self.watchers.retain(|_, watcher| watcher.source != source);
        self.cancelling.retain(|_, cluster| Source::Etcd(*cluster) != source);
        live
    }

    /// Whether watchers of other sources than this one are live.
    pub(super) fn has_others(&self, source: Source) -> bool {
        self.watchers.values().any(|watcher| watcher.live && watcher.source != source)
    }

    /// A watcher leaves memory, unless the client has cancelled it already.
    pub(super) fn leave(&mut self, moving: Moving) {
        let from = Source::Memory(moving.cluster);
        match self.watchers.get_mut(&moving.request.watch_id) {
            Some(watcher) if watcher.source == from => {
                watcher.source = Source::Moving(moving.cluster);
                self.moving.push_back(moving);
            }
            _ => {}
        }
    }

    /// The next watcher that is to be created at etcd, whose answer is not for the client.
    pub(super) fn continue_next(&mut self) -> Option<Moving> {
        let moving = self.moving.pop_front()?;
        let WatchCreateRequest { watch_id: id, start_revision, .. } = moving.request;
        self.continued = Some(Continued { id, start_revision });
        Some(moving)
    }

    /// The watcher that the next answer to a create request is about, if the client did not ask.
    pub(super) fn take_continued(&mut self) -> Option<Continued> {
        self.continued.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Source = Source::Etcd(0);
    const OTHER: Source = Source::Etcd(1);
    const MEMORY: Source = Source::Memory(0);

    fn create(ids: &mut Ids, source: Source) -> i64 {
        let id = ids.next();
        ids.created(id, source);
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
        let header = |cluster_id, revision| ResponseHeader {
            cluster_id,
            revision,
            ..ResponseHeader::default()
        };
        assert!(seen.is_in(&header(7, 9)) && seen.is_in(&header(7, 10)));
        assert!(!seen.is_in(&header(7, 8)) && !seen.is_in(&header(8, 10)));
    }

    #[test]
    fn ids_are_counted_over_all_sources_and_skip_chosen_ones() {
        let mut ids = Ids::default();
        assert_eq!(create(&mut ids, ONE), 0);
        ids.created(1, OTHER);
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
        ids.created(5, ONE);
        ids.ended(5);
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
        assert_eq!((continued.id, ids.take_continued()), (id, None));
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
        ids.created(3, MEMORY);
        ids.cancelled(3);
        ids.created(3, ONE);
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
        ids.created(7, ONE);
        ids.cancelled(7);
        assert!(ids.is_cancelling(7));
        ids.ended(7);
        assert!(!ids.is_cancelling(7));
        ids.created(8, ONE);
        ids.cancelled(8);
        ids.lost(OTHER);
        assert!(ids.is_cancelling(8));
        ids.lost(ONE);
        assert!(!ids.is_cancelling(8));
    }
}
