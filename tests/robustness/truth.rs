//! What has happened at an etcd, by its own account: every revision, and the state at each.

use crate::history::{Event, Kv, Moment, Range};
use std::collections::{BTreeMap, HashMap};

/// Everything that ever happened at one cluster, as a watch at its members told it.
#[derive(Debug)]
pub(crate) struct Truth {
    pub(crate) cluster_id: u64,
    /// The newest revision.
    pub(crate) revision: i64,
    /// The changes of each revision in their order, and when they were heard of.
    pub(crate) events: BTreeMap<i64, (Moment, Vec<Event>)>,
    /// What each key was from which revision on.
    versions: BTreeMap<String, Vec<(i64, Option<Kv>)>>,
    /// When a value was put, at which revisions.
    values: HashMap<String, Vec<i64>>,
}

impl Default for Truth {
    /// A new store, which is at revision 1 and has nothing.
    fn default() -> Self {
        let (events, versions, values) = Default::default();
        Self { cluster_id: 0, revision: 1, events, versions, values }
    }
}

impl Truth {
    /// Adds what is not known yet. Revisions come in their order and whole.
    pub(crate) fn add(&mut self, at: Moment, events: Vec<Event>) {
        let known = self.revision;
        for event in events.into_iter().filter(|event| event.revision() > known) {
            self.revision = event.revision();
            let now = (!event.deleted).then(|| event.kv.clone());
            if let Some(kv) = &now {
                self.values.entry(kv.value.clone()).or_default().push(event.revision());
            }
            self.versions.entry(event.kv.key.clone()).or_default().push((event.revision(), now));
            let (_, same) = self.events.entry(event.revision()).or_insert((at, Vec::new()));
            same.push(event);
        }
    }

    /// A key as it was at a revision.
    pub(crate) fn get(&self, key: &str, revision: i64) -> Option<&Kv> {
        let versions = self.versions.get(key)?;
        let after = versions.partition_point(|(at, _)| *at <= revision);
        versions[..after].last()?.1.as_ref()
    }

    /// Keys as they were at a revision, in their order.
    pub(crate) fn range(&self, range: &Range, revision: i64) -> Vec<&Kv> {
        if range.end.is_empty() {
            return self.get(&range.key, revision).into_iter().collect();
        }
        let keys = self.versions.range(range.key.clone()..range.end.clone());
        keys.filter_map(|(key, _)| self.get(key, revision)).collect()
    }

    /// The revisions at which a value was put.
    pub(crate) fn puts_of(&self, value: &str) -> &[i64] {
        self.values.get(value).map_or(&[], Vec::as_slice)
    }

    /// What happened from one revision to another, each with its moment.
    pub(crate) fn between(&self, first: i64, last: i64) -> impl Iterator<Item = (Moment, &Event)> {
        let revisions = if first <= last { Some(self.events.range(first..=last)) } else { None };
        revisions
            .into_iter()
            .flatten()
            .flat_map(|(_, (at, events))| events.iter().map(|event| (*at, event)))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (Moment, &Event)> {
        self.between(0, self.revision)
    }
}
