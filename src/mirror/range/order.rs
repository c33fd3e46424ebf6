//! The order of the key-values in an answer.
//!
//! etcd sorts with Go's `sort.Sort`, which puts equal elements in an order that depends on their
//! number and on the release of Go; only up to [`STABLE`] of them keep theirs in all releases.
//! Answers that this would show in are left to etcd.

use crate::{
    etcd::proto::etcdserverpb::{
        RangeRequest,
        range_request::{SortOrder, SortTarget},
    },
    mirror::Object,
};
use std::{cmp::Ordering, sync::Arc};

/// Elements up to which every release of Go sorts by insertion alone.
pub(super) const STABLE: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// As they lie in the store.
    Keys,
    By {
        target: SortTarget,
        descending: bool,
    },
}

impl Order {
    /// A target other than the key implies that the order ascends.
    pub(super) fn of(request: &RangeRequest) -> Self {
        let target = request.sort_target();
        match request.sort_order() {
            SortOrder::None | SortOrder::Ascend if target == SortTarget::Key => Self::Keys,
            SortOrder::None | SortOrder::Ascend => Self::By { target, descending: false },
            SortOrder::Descend => Self::By { target, descending: true },
        }
    }

    /// Sorts objects that lie in the order of their keys. `None` where the first `limit` of them
    /// depend on how equal ones are put.
    pub(super) fn sort(self, objects: &mut [Arc<Object>], limit: usize) -> Option<()> {
        let Self::By { target, descending } = self else { return Some(()) };
        let compare = |a: &Arc<Object>, b: &Arc<Object>| {
            let ascending = compare(target, a, b);
            if descending { ascending.reverse() } else { ascending }
        };
        objects.sort_by(compare);
        let mut neighbours = objects.windows(2).take(limit);
        let tied = neighbours.any(|pair| compare(&pair[0], &pair[1]) == Ordering::Equal);
        (objects.len() <= STABLE || !tied).then_some(())
    }
}

fn compare(target: SortTarget, a: &Object, b: &Object) -> Ordering {
    match target {
        SortTarget::Key => a.key().cmp(b.key()),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value().cmp(&b.value()),
    }
}
