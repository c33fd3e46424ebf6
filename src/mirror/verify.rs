//! Whether a collection is what etcd has.

use super::{
    Object, Snapshot, Store,
    load::{Failed, Source},
    reader::below,
};
use bytes::Bytes;
use std::sync::Arc;

/// Compares the keys and revisions of a collection with etcd's at one revision. `None` if etcd does
/// not say.
pub(super) async fn compare(source: &Source, name: &Bytes, store: &Arc<Store>) -> Option<bool> {
    let ours = store.snapshot();
    let mut same = Comparison::new(&ours, name);
    let mut each = |theirs: Object| {
        same.next(&theirs);
        Ok(())
    };
    match source.read(below(name), ours.revision, true, &mut each).await {
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
