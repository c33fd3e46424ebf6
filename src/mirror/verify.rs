//! Whether a collection is what etcd has.

use super::{
    Object, Snapshot, Store,
    load::{Failed, Source},
    reader::below,
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::AbortOnDropHandle;

/// Compares one collection after the other, one at a time.
#[derive(Debug)]
pub(super) struct Verifier {
    began: Instant,
    comparing: Option<AbortOnDropHandle<()>>,
    verified: mpsc::Sender<Verified>,
}

/// What a comparison has come to.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) name: Bytes,
    pub(super) store: Arc<Store>,
    /// Whether the collection is as etcd has it; `None` if that could not be found out.
    pub(super) same: Option<bool>,
}

impl Verifier {
    pub(super) fn new(verified: mpsc::Sender<Verified>) -> Self {
        Self { began: Instant::now(), comparing: None, verified }
    }

    /// Whether nothing is compared, and nothing has been for this long.
    pub(super) fn is_due(&self, pause: Duration) -> bool {
        let idle = self.comparing.as_ref().is_none_or(|comparing| comparing.is_finished());
        idle && self.began.elapsed() >= pause
    }

    /// Compares a collection that has all that happened up to `revision`.
    pub(super) fn begin(&mut self, source: Source, name: Bytes, store: &Arc<Store>, revision: i64) {
        self.began = Instant::now();
        let (store, verified, ours) = (Arc::clone(store), self.verified.clone(), store.snapshot());
        // The collection's own last change may be so long ago that etcd has compacted it.
        let revision = revision.max(ours.revision);
        self.comparing = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let same = compare(&source, &name, &ours, revision).await;
            // Fails when the feed has ended, and all that it held with it.
            let _ = verified.send(Verified { name, store, same }).await;
        })));
    }
}

/// Compares the keys and revisions of a collection with etcd's at one revision. `None` if etcd does
/// not say.
async fn compare(source: &Source, name: &Bytes, ours: &Snapshot, revision: i64) -> Option<bool> {
    let mut same = Comparison::new(ours, name);
    let mut each = |theirs: Object| {
        same.next(&theirs);
        Ok(())
    };
    match source.read(below(name), revision, true, &mut each).await {
        Ok(_) => Some(same.finish()),
        // Compacted meanwhile, or not asked in time: that says nothing.
        Err(Failed::Malformed) => Some(false),
        Err(_) => None,
    }
}

/// Two ascending lists of keys, walked through side by side.
struct Comparison<'s> {
    ours: Box<dyn Iterator<Item = &'s Arc<Object>> + Send + 's>,
    same: bool,
}

impl<'s> Comparison<'s> {
    fn new(snapshot: &'s Snapshot, name: &'s Bytes) -> Self {
        let all = snapshot.objects.from_rank(0);
        // The bare name is not below itself.
        let ours = all.filter(move |object| object.key() != &name[..]);
        Self { ours: Box::new(ours), same: true }
    }

    fn next(&mut self, theirs: &Object) {
        let ours = self.ours.next();
        self.same &= ours.is_some_and(|ours| {
            (ours.key(), ours.mod_revision) == (theirs.key(), theirs.mod_revision)
        });
    }

    fn finish(mut self) -> bool {
        self.same && self.ours.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::{Tier, model};

    /// What a comparison of the first state's copy with the other one's keys finds.
    fn same(ours: &[(&str, i64)], theirs: &[(&str, i64)]) -> bool {
        let object = |(key, revision): &(&str, i64)| model::named(key, *revision);
        let ours = ours.iter().map(|one| Arc::new(object(one)));
        let objects = crate::mirror::Tree::from_sorted(ours);
        let snapshot = Snapshot { revision: 9, tier: Tier::Index, objects };
        let name = Bytes::from_static(b"/registry/pods");
        let mut comparison = Comparison::new(&snapshot, &name);
        theirs.iter().for_each(|one| comparison.next(&object(one)));
        comparison.finish()
    }

    #[test]
    fn finds_what_is_missing_too_much_or_of_another_revision() {
        let (a, b) = (("/registry/pods/a", 2), ("/registry/pods/b", 3));
        assert!(same(&[], &[]));
        assert!(same(&[a, b], &[a, b]));
        assert!(same(&[("/registry/pods", 7), a, b], &[a, b]), "the bare name is not below it");
        assert!(!same(&[a], &[a, b]));
        assert!(!same(&[b], &[a, b]));
        assert!(!same(&[a, b], &[a]));
        assert!(!same(&[a, b], &[("/registry/pods/a", 4), b]));
        assert!(!same(&[a, b], &[b, a]));
    }
}
