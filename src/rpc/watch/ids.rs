//! Ids of the watchers of one stream, given out as etcd does.

#[cfg(test)]
mod tests;

use super::away::Away;
use crate::etcd::proto::etcdserverpb::{ResponseHeader, WatchCreateRequest};
use std::{
    collections::{HashMap, VecDeque},
    ops::RangeInclusive,
};
use tokio::{sync::oneshot, time::Instant};

/// The watchers of one client's stream. Used where they may have several sources: each of them would
/// count from 0.
#[derive(Debug, Default)]
pub(super) struct Ids {
    watchers: HashMap<i64, Watcher>,
    /// The next id that is given out if nobody chose it before.
    next: i64,
    /// The id that was given out for the request that waits for its answer.
    given: Option<i64>,
    /// What was asked for with the request that waits for its answer, if memory could serve it.
    asked: Option<WatchCreateRequest>,
    /// Watchers that memory cannot serve any more, in their order.
    moving: VecDeque<Moving>,
    /// The watcher that is being created at etcd in order to go on there, from the first revision on
    /// that it has not seen.
    continued: Option<WatchCreateRequest>,
    /// By index of the cluster, where watchers are away from memory.
    away: HashMap<usize, Away>,
    /// Watchers that have left etcd for memory.
    returning: VecDeque<Returning>,
    /// Ids that etcd was asked to cancel and has not answered for.
    cancelling: HashMap<i64, Cancelling>,
}

/// A watcher that etcd is asked to cancel on this stream.
#[derive(Debug)]
struct Cancelling {
    source: Source,
    /// Dropped with this, for who waits for the answer.
    answered: Option<oneshot::Sender<()>>,
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
    /// The stream to that cluster for those that memory could serve.
    Away(usize),
    /// What is held of that cluster.
    Memory(usize),
    /// Nowhere, on the way between its memory and etcd.
    Moving(usize),
}

impl Source {
    pub(super) fn cluster(self) -> usize {
        match self {
            Self::Etcd(cluster)
            | Self::Away(cluster)
            | Self::Memory(cluster)
            | Self::Moving(cluster) => cluster,
        }
    }
}

/// Watchers that come back to the memory of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Returning {
    pub(super) cluster: usize,
    /// As they were asked for last.
    pub(super) requests: Vec<WatchCreateRequest>,
    /// All of them have seen everything up to here.
    pub(super) seen: Seen,
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
///           cannot be served from there           created at etcd
///         .-----------------------------> Moving ----------------.
///         |                               |   ^                  v
///       Memory <--finds its place there---'   '--can be served-- Away
/// ```
#[derive(Debug, Clone, PartialEq)]
struct Watcher {
    source: Source,
    /// Created, and not cancelled by etcd.
    live: bool,
    /// Revisions that it may not have seen all events of when etcd says so of all watchers: the
    /// client may have asked for that before etcd knew of this one.
    catching_up: Option<RangeInclusive<i64>>,
    /// Of one that is away.
    home: Option<Home>,
}

/// What it takes to come back to memory.
#[derive(Debug, Clone, PartialEq)]
struct Home {
    request: WatchCreateRequest,
    /// A revision that etcd had after the watcher was created there.
    created: i64,
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

    /// What the client asks for with the create request that etcd gets next, if memory could serve it.
    pub(super) fn ask(&mut self, request: Option<WatchCreateRequest>) {
        self.asked = request;
    }

    /// A watcher was created under `id`, when the store was at `revision`.
    pub(super) fn created(&mut self, id: i64, source: Source, revision: i64) {
        let request = self.asked.take().filter(|_| matches!(source, Source::Away(_)));
        let home = request.map(|request| Home { request, created: revision });
        self.watchers.insert(id, Watcher { source, live: true, catching_up: None, home });
        if self.given.take_if(|given| *given == id).is_some() {
            self.next = id.saturating_add(1);
        }
    }

    /// etcd has created a watcher that left memory, when the store was at `revision`.
    pub(super) fn goes_on(&mut self, request: WatchCreateRequest, source: Source, revision: i64) {
        let catching_up = Some(request.start_revision..=revision).filter(|range| !range.is_empty());
        let id = request.watch_id;
        let home = Some(Home { request, created: revision });
        self.watchers.insert(id, Watcher { source, live: true, catching_up, home });
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

    /// etcd cancelled a watcher of this source. Its id stays taken until the client cancels it too.
    pub(super) fn ended(&mut self, id: i64, source: Source) {
        if self.cancelling(id) == Some(source) {
            self.cancelling.remove(&id);
        }
        if let Some(watcher) = self.watchers.get_mut(&id).filter(|here| here.source == source) {
            watcher.live = false;
        }
    }

    /// The client cancels a watcher, which was here.
    pub(super) fn cancelled(&mut self, id: i64) -> Option<Source> {
        let source = self.watchers.remove(&id)?.source;
        match source {
            Source::Etcd(_) | Source::Away(_) => {
                self.cancelling.insert(id, Cancelling { source, answered: None });
            }
            Source::Moving(_) => {
                self.moving.retain(|moving| moving.request.watch_id != id);
                for returning in &mut self.returning {
                    returning.requests.retain(|request| request.watch_id != id);
                }
            }
            Source::Memory(_) => {}
        }
        Some(source)
    }

    /// Where etcd is still to answer that a watcher of this id is cancelled. Another one of the same
    /// id must be created behind that.
    pub(super) fn cancelling(&self, id: i64) -> Option<Source> {
        self.cancelling.get(&id).map(|cancelling| cancelling.source)
    }

    /// Ends when etcd has answered that, or cannot any more.
    pub(super) fn answered(&mut self, id: i64) -> oneshot::Receiver<()> {
        let (answered, waiting) = oneshot::channel();
        if let Some(cancelling) = self.cancelling.get_mut(&id) {
            cancelling.answered = Some(answered);
        }
        waiting
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
        self.cancelling.retain(|_, at| at.source != source);
        if let Source::Away(cluster) = source {
            self.away.remove(&cluster);
        }
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
        self.continued = Some(moving.request.clone());
        Some(moving)
    }

    /// The watcher that the next answer to a create request is about, if the client did not ask.
    pub(super) fn take_continued(&mut self) -> Option<WatchCreateRequest> {
        self.continued.take()
    }

    /// The stream to a cluster for watchers that are away from its memory.
    pub(super) fn away(&mut self, cluster: usize) -> &mut Away {
        self.away.entry(cluster).or_default()
    }

    /// Watchers that are away from the memory of a cluster, as they were asked for.
    pub(super) fn homes(&self, cluster: usize) -> impl Iterator<Item = &WatchCreateRequest> {
        let away =
            move |watcher: &&Watcher| watcher.live && watcher.source == Source::Away(cluster);
        let homes = self.watchers.values().filter(away).filter_map(|watcher| watcher.home.as_ref());
        homes.map(|home| &home.request)
    }

    /// etcd says that the watchers of the stream away from memory have seen this. If they are to come
    /// back and that is certain of each, they leave the stream.
    pub(super) fn part(&mut self, cluster: usize, seen: Seen, now: Instant) {
        let source = Source::Away(cluster);
        let Some(away) = self.away.get_mut(&cluster).filter(|away| away.is_due(now)) else {
            return;
        };
        let mut here: Vec<_> =
            self.watchers.values_mut().filter(|watcher| watcher.source == source).collect();
        let is_sure = |watcher: &&mut Watcher| {
            let home = watcher.home.as_ref();
            !watcher.live || home.is_some_and(|home| home.created < seen.revision)
        };
        if !here.iter().all(is_sure) || self.cancelling.values().any(|at| at.source == source) {
            return;
        }
        let mut requests = Vec::new();
        for watcher in &mut here {
            watcher.source = match watcher.home.take().filter(|_| watcher.live) {
                Some(home) => {
                    requests.push(home.request);
                    Source::Moving(cluster)
                }
                // The client has still to cancel it, and somebody to answer that.
                None => Source::Memory(cluster),
            };
            watcher.catching_up = None;
        }
        requests.sort_unstable_by_key(|request| request.watch_id);
        self.returning.push_back(Returning { cluster, requests, seen });
        away.leave();
    }

    /// Whether the watchers of the stream to a cluster have left it. Told once.
    pub(super) fn take_left(&mut self, cluster: usize) -> bool {
        let left = self.away.get(&cluster).is_some_and(Away::has_left);
        left && self.away.remove(&cluster).is_some()
    }

    /// The next watchers that are to find their places in memory.
    pub(super) fn return_next(&mut self) -> Option<Returning> {
        self.returning.pop_front()
    }

    /// A watcher that has left etcd takes its place in memory, unless the client has cancelled it
    /// already.
    pub(super) fn comes_back(&mut self, id: i64, cluster: usize) -> bool {
        match self.watchers.get_mut(&id) {
            Some(watcher) if watcher.source == Source::Moving(cluster) => {
                watcher.source = Source::Memory(cluster);
                true
            }
            _ => false,
        }
    }

    /// A watcher that has left etcd has none there.
    pub(super) fn goes_back(&mut self, moving: Moving) {
        self.moving.push_back(moving);
    }
}
