//! Ids of the watchers of one stream, given out as etcd does.

use std::collections::HashMap;

/// The watchers of one client's stream. Used where a stream may reach several clusters: each of
/// them would count from 0.
#[derive(Debug, Default)]
pub(super) struct Ids {
    watchers: HashMap<i64, Watcher>,
    /// The next id that is given out if nobody chose it before.
    next: i64,
    /// The id that was given out for the request that waits for its answer.
    given: Option<i64>,
}

/// One watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watcher {
    /// Index of the cluster that it watches.
    cluster: usize,
    /// Created, and not cancelled by etcd.
    live: bool,
}

impl Ids {
    /// The id that etcd would give to the next watcher that does not choose one. Given again until
    /// such a watcher was created: a failed request uses up none.
    pub(super) fn next(&mut self) -> i64 {
        let free = (self.next..).find(|id| !self.watchers.contains_key(id)).unwrap_or(i64::MAX);
        self.given = Some(free);
        free
    }

    /// The cluster of a watcher.
    pub(super) fn cluster_of(&self, id: i64) -> Option<usize> {
        self.watchers.get(&id).map(|watcher| watcher.cluster)
    }

    /// etcd created a watcher under `id`.
    pub(super) fn created(&mut self, id: i64, cluster: usize) {
        self.watchers.insert(id, Watcher { cluster, live: true });
        if self.given.take_if(|given| *given == id).is_some() {
            self.next = id.saturating_add(1);
        }
    }

    /// etcd cancelled a watcher. Its id stays taken until the client cancels it too.
    pub(super) fn ended(&mut self, id: i64) {
        if let Some(watcher) = self.watchers.get_mut(&id) {
            watcher.live = false;
        }
    }

    /// The client cancelled a watcher.
    pub(super) fn cancelled(&mut self, id: i64) {
        self.watchers.remove(&id);
    }

    /// The watchers of a cluster that may still see events, in the order of their ids.
    pub(super) fn live(&self, cluster: usize) -> Vec<i64> {
        let live = self.watchers.iter().filter(|(_, w)| w.live && w.cluster == cluster);
        let mut ids: Vec<_> = live.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Forgets all watchers of a cluster, and returns those that were live.
    pub(super) fn lost(&mut self, cluster: usize) -> Vec<i64> {
        let live = self.live(cluster);
        self.watchers.retain(|_, watcher| watcher.cluster != cluster);
        live
    }

    /// Whether watchers of other clusters than this one are live.
    pub(super) fn has_others(&self, cluster: usize) -> bool {
        self.watchers.values().any(|watcher| watcher.live && watcher.cluster != cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(ids: &mut Ids, cluster: usize) -> i64 {
        let id = ids.next();
        ids.created(id, cluster);
        id
    }

    #[test]
    fn ids_are_counted_over_all_clusters_and_skip_chosen_ones() {
        let mut ids = Ids::default();
        assert_eq!(create(&mut ids, 0), 0);
        ids.created(1, 1);
        assert_eq!(create(&mut ids, 1), 2);
        assert_eq!(ids.live(1), [1, 2]);
    }

    #[test]
    fn a_request_that_failed_uses_no_id_up() {
        let mut ids = Ids::default();
        assert_eq!(ids.next(), 0);
        assert_eq!(create(&mut ids, 1), 0);
        assert_eq!(create(&mut ids, 1), 1);
    }

    #[test]
    fn an_automatic_id_is_not_given_twice_and_a_chosen_one_may_be() {
        let mut ids = Ids::default();
        assert_eq!(create(&mut ids, 0), 0);
        ids.cancelled(0);
        assert_eq!(create(&mut ids, 0), 1);
        ids.created(5, 0);
        ids.ended(5);
        assert_eq!(ids.cluster_of(5), Some(0));
        assert_eq!(ids.live(0), [1]);
        ids.cancelled(5);
        assert_eq!(ids.cluster_of(5), None);
    }

    #[test]
    fn a_lost_cluster_takes_its_watchers_along() {
        let mut ids = Ids::default();
        create(&mut ids, 0);
        create(&mut ids, 1);
        assert!(ids.has_others(0));
        assert_eq!(ids.lost(1), [1]);
        assert!(!ids.has_others(0));
        assert_eq!(ids.cluster_of(1), None);
    }
}
