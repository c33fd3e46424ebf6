//! Small histories to check the checks with.

use super::Case;
use crate::{
    history::{
        Answer, Call, Change, Event, Header, History, Kv, Moment, Owner, Range, Request, Told, Via,
        Watch,
    },
    truth::Truth,
};
use std::{collections::BTreeMap, ops};

pub(super) const SECOND: Moment = 1_000_000_000;

const CLUSTER: u64 = 5;

/// What happens at one cluster, and what its clients are told.
#[derive(Clone)]
pub(super) struct Sample {
    owner: Owner,
    events: Vec<(Moment, Event)>,
    calls: Vec<Call>,
    watches: Vec<Watch>,
}

impl Sample {
    pub(super) fn new() -> Self {
        Self { owner: Owner::Main, events: Vec::new(), calls: Vec::new(), watches: Vec::new() }
    }

    pub(super) fn of(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    pub(super) fn put(self, key: &str, value: &str, revision: i64) -> Self {
        self.put_leased(key, value, revision, 0)
    }

    pub(super) fn put_leased(mut self, key: &str, value: &str, revision: i64, lease: i64) -> Self {
        let prev = self.truth().get(key, revision).cloned();
        let (key, value) = (key.to_owned(), value.to_owned());
        let create_revision = prev.as_ref().map_or(revision, |prev| prev.create_revision);
        let version = prev.as_ref().map_or(1, |prev| prev.version + 1);
        let kv = Kv { key, value, create_revision, mod_revision: revision, version, lease };
        self.events.push((0, Event { kv, deleted: false, prev }));
        self
    }

    pub(super) fn deleted(mut self, key: &str, revision: i64, at: Moment) -> Self {
        let prev = self.truth().get(key, revision).cloned();
        let kv = Kv {
            key: key.to_owned(),
            value: String::new(),
            create_revision: 0,
            mod_revision: revision,
            version: 0,
            lease: 0,
        };
        self.events.push((at, Event { kv, deleted: true, prev }));
        self
    }

    pub(super) fn call(
        mut self,
        when: ops::Range<Moment>,
        request: Request,
        answer: Result<Answer, String>,
    ) -> Self {
        let (start, end) = (when.start, when.end);
        let (owner, via) = (self.owner, Via::Direct);
        self.calls.push(Call { client: 0, via, owner, start, end, request, answer });
        self
    }

    /// A read that shows its range as it was at the revision in its header, or the one asked for.
    pub(super) fn read_call(self, when: ops::Range<Moment>, request: Request, header: i64) -> Self {
        let Request::Range { range, revision, .. } = &request else { panic!("a range") };
        let at = if *revision > 0 { *revision } else { header };
        let kvs: Vec<Kv> = self.truth().range(range, at).into_iter().cloned().collect();
        let count = kvs.len() as i64;
        let answer = Answer::Range { header: head(header), kvs, count, more: false };
        self.call(when, request, Ok(answer))
    }

    /// A watcher of everything below `/` that is told this.
    pub(super) fn watch(mut self, start_revision: i64, told: Vec<Told>) -> Self {
        self.watches.push(Watch {
            client: 0,
            via: Via::Direct,
            owner: self.owner,
            range: Range::below("/"),
            start_revision,
            prev_kv: true,
            puts: true,
            deletes: true,
            told,
        });
        self
    }

    /// A response with these events; those that did not happen are left out.
    pub(super) fn told(&self, revisions: &[i64]) -> Told {
        let events = self.events.iter().map(|(_, event)| event);
        let events = events.filter(|event| revisions.contains(&event.revision())).cloned();
        let header = head(revisions.last().copied().unwrap_or(0));
        Told { at: 0, header, events: events.collect() }
    }

    pub(super) fn progress(revision: i64) -> Told {
        Told { at: 0, header: head(revision), events: Vec::new() }
    }

    pub(super) fn kv(&self, key: &str, revision: i64) -> Option<Kv> {
        self.truth().get(key, revision).cloned()
    }

    pub(super) fn written(revision: i64) -> Result<Answer, String> {
        Ok(Answer::Written { header: head(revision) })
    }

    pub(super) fn swapped(
        revision: i64,
        succeeded: bool,
        current: Option<Kv>,
    ) -> Result<Answer, String> {
        Ok(Answer::Swapped { header: head(revision), succeeded, current })
    }

    pub(super) fn lease(lease: i64, ttl: i64) -> Result<Answer, String> {
        Ok(Answer::Lease { header: head(1), lease, ttl })
    }

    fn truth(&self) -> Truth {
        let mut truth = Truth::default();
        truth.cluster_id = CLUSTER;
        // Those of one revision come together.
        for same in self.events.chunk_by(|one, next| one.1.revision() == next.1.revision()) {
            truth.add(same[0].0, same.iter().map(|(_, event)| event.clone()).collect());
        }
        truth
    }

    pub(super) fn case(&self) -> Case {
        let mut truths: BTreeMap<_, _> = Owner::ALL.map(|owner| (owner, Truth::default())).into();
        truths.insert(self.owner, self.truth());
        let (calls, watches) = (self.calls.clone(), self.watches.clone());
        Case { history: History { calls, watches }, truths }
    }
}

fn head(revision: i64) -> Header {
    Header { cluster_id: CLUSTER, revision }
}

pub(super) fn read(key: &str) -> Request {
    read_at(key, 0)
}

pub(super) fn read_at(key: &str, revision: i64) -> Request {
    let range = Range::one(key);
    Request::Range { range, revision, serializable: false, limit: 0, count_only: false }
}

fn put(value: &str) -> Change {
    Change::Put { value: value.to_owned(), lease: 0 }
}

pub(super) fn write(key: &str, value: &str) -> Request {
    Request::Write { key: key.to_owned(), change: put(value) }
}

pub(super) fn swap(key: &str, expected: i64, value: &str) -> Request {
    Request::Swap { key: key.to_owned(), expected, change: put(value) }
}
