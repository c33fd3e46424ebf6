//! Calls as kube-apiserver makes them, in the proportions of etcd's own robustness tests: of the
//! reads 80% are lists in pages, 8% are for the revision alone, 5% are of one object, and 7% may be
//! stale; of the writes 90% are updates.

use super::Client;
use crate::history::{Answer, Change, Kv, Range, Request};
use rand::Rng;

const PAUSE_MAX: u64 = 12;

/// Objects in a page.
const PAGE: i64 = 4;

const RESOURCES: [&str; 2] = ["/registry/pods/default/", "/registry/events/default/"];

pub(super) async fn run(mut client: Client) {
    while client.goes_on(PAUSE_MAX).await {
        let resource = RESOURCES[client.random.random_range(0..RESOURCES.len())];
        match client.random.random_bool(0.5) {
            true => client.reads(resource).await,
            false => client.writes(resource).await,
        }
    }
}

impl Client {
    async fn reads(&mut self, resource: &str) {
        match self.random.random_range(0..100) {
            0..80 => self.pages(resource).await,
            80..88 => _ = self.read(Range::below(resource), 0, 1).await,
            88..93 => _ = self.find(resource).await,
            93..98 => self.stale(Range::below(resource)).await,
            _ => {
                let key = self.key_below(resource);
                self.stale(Range::one(&key)).await;
            }
        }
    }

    /// A list in pages, the later ones at the revision of the first.
    async fn pages(&mut self, resource: &str) {
        let (mut range, mut revision) = (Range::below(resource), 0);
        while let Some(Answer::Range { header, kvs, more: true, .. }) =
            self.read(range.clone(), revision, PAGE).await
        {
            let Some(last) = kvs.last() else { return };
            range.key = format!("{}\0", last.key);
            revision = if revision > 0 { revision } else { header.revision };
        }
    }

    async fn stale(&mut self, range: Range) {
        let read =
            Request::Range { range, revision: 0, serializable: true, limit: 0, count_only: false };
        self.caller.call(read).await;
    }

    /// A key and what it holds; `None` when it could not be read.
    async fn find(&mut self, resource: &str) -> Option<(String, Option<Kv>)> {
        let key = self.key_below(resource);
        match self.read(Range::one(&key), 0, 1).await? {
            Answer::Range { kvs, .. } => Some((key, kvs.into_iter().next())),
            _ => None,
        }
    }

    /// Creates, updates or deletes, if nobody else has meanwhile.
    async fn writes(&mut self, resource: &str) {
        let Some((key, found)) = self.find(resource).await else { return };
        let expected = found.map_or(0, |kv| kv.mod_revision);
        let deletes = expected > 0 && self.random.random_range(0..95) < 5;
        let change = if deletes { Change::Delete } else { self.put() };
        self.caller.call(Request::Swap { key, expected, change }).await;
    }
}
