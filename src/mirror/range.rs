//! `Range` on a snapshot, as etcd does it.

mod order;
mod response;
#[cfg(test)]
mod tests;

use super::{
    object::Object,
    snapshot::{Snapshot, Tier},
    tree::{Totals, Tree},
};
use crate::etcd::{
    key_range::{End, KeyRange},
    proto::etcdserverpb::{
        RangeRequest,
        range_request::{SortOrder, SortTarget},
    },
};
use order::Order;
pub use response::{Response, Stream};
use std::{ops::Range, sync::Arc};

/// Whether a snapshot of this tier has what the answer takes, and etcd would answer at all.
pub fn answers(request: &RangeRequest, tier: Tier) -> bool {
    let known = SortOrder::try_from(request.sort_order).is_ok();
    let Ok(target) = SortTarget::try_from(request.sort_target) else { return false };
    let takes_values = !request.count_only && (!request.keys_only || target == SortTarget::Value);
    known && !request.key.is_empty() && (tier == Tier::Value || !takes_values)
}

/// The answer to a request: which objects, and what is said about them.
#[derive(Debug, Clone)]
pub struct Found {
    selection: Selection,
    keys_only: bool,
    totals: Totals,
    pub more: bool,
    /// Keys in the range, whatever limit and filters leave of them.
    pub count: i64,
}

#[derive(Debug, Clone)]
enum Selection {
    /// Neighbours in the order of their keys.
    Ranks(Tree, Range<usize>),
    List(Vec<Arc<Object>>),
}

impl Found {
    /// Answers a request for keys that all lie in the collection, and for the revision of the
    /// snapshot. `None` where only etcd can: see [`answers`], and where the order of equal objects
    /// would show.
    pub fn of(snapshot: &Snapshot, request: &RangeRequest) -> Option<Self> {
        if !answers(request, snapshot.tier) {
            return None;
        }
        let objects = &snapshot.objects;
        if request.range_end.is_empty() {
            return Some(Self::single(objects.get(&request.key), request));
        }
        let ranks = ranks(objects, &KeyRange::of(request.key.clone(), request.range_end.clone()));
        let count = ranks.len();
        let (selection, more) = if request.count_only {
            (Selection::List(Vec::new()), false)
        } else {
            let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
            select(objects, ranks, request, limit.unwrap_or(usize::MAX))?
        };
        let (totals, keys_only) = (selection.totals(), request.keys_only);
        Some(Self { selection, keys_only, totals, more, count: count as i64 })
    }

    /// The answer to a request for one key: what most reads ask for, and worth a shorter way.
    fn single(object: Option<&Arc<Object>>, request: &RangeRequest) -> Self {
        let told = object.filter(|object| !request.count_only && passes(object, request));
        let selection = Selection::List(told.cloned().into_iter().collect());
        let (totals, keys_only) = (selection.totals(), request.keys_only);
        Self { selection, keys_only, totals, more: false, count: object.is_some().into() }
    }

    /// Number of key-values.
    pub fn len(&self) -> usize {
        self.totals.count
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the key-values as they are sent.
    pub fn bytes(&self) -> usize {
        if self.keys_only { self.totals.keys_bytes } else { self.totals.bytes }
    }

    /// Whether it tells of a lease without the value beside it. etcd does so before 3.7; since then it
    /// answers from its index, which does not know leases.
    pub fn shows_leases_of_keys(&self) -> bool {
        self.keys_only && self.totals.leased > 0
    }
}

/// The ranks of the objects in a range of keys.
fn ranks(objects: &Tree, range: &KeyRange) -> Range<usize> {
    let start = objects.before_key(&range.start).count;
    let end = match &range.end {
        End::Key(end) => objects.before_key(end).count,
        End::Infinite => objects.totals().count,
    };
    start..end.max(start)
}

/// What the request selects of these, and whether there would be more without its limit.
fn select(
    objects: &Tree,
    ranks: Range<usize>,
    request: &RangeRequest,
    limit: usize,
) -> Option<(Selection, bool)> {
    let order = Order::of(request);
    let filtered = request.is_filtered();
    if !filtered && order == Order::Keys {
        let end = ranks.end.min(ranks.start.saturating_add(limit));
        let selection = Selection::Ranks(objects.clone(), ranks.start..end);
        return Some((selection, end < ranks.end));
    }
    // Where an order is only implied by its target, etcd sorts what the limit has left, and one more.
    let all = filtered || request.sort_order != SortOrder::None as i32;
    let walked = if all { usize::MAX } else { limit.saturating_add(1) };
    let walked = objects.ranks(ranks).take(walked);
    let mut selected: Vec<_> = walked.filter(|object| passes(object, request)).cloned().collect();
    order.sort(&mut selected, limit)?;
    let more = selected.len() > limit;
    selected.truncate(limit);
    Some((Selection::List(selected), more))
}

/// Whether an object lies between the bounds, of which 0 is none.
fn passes(object: &Object, request: &RangeRequest) -> bool {
    let within =
        |revision, min, max| (min == 0 || revision >= min) && (max == 0 || revision <= max);
    within(object.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(object.create_revision, request.min_create_revision, request.max_create_revision)
}

impl Selection {
    fn totals(&self) -> Totals {
        match self {
            Self::Ranks(tree, ranks) => tree.before_rank(ranks.end) - tree.before_rank(ranks.start),
            Self::List(objects) => objects.iter().map(|object| Totals::of(object)).sum(),
        }
    }

    /// What follows the first `skipped` objects.
    fn rest(&self, skipped: usize) -> Box<dyn Iterator<Item = &Arc<Object>> + '_> {
        match self {
            Self::Ranks(tree, ranks) => Box::new(tree.ranks(ranks.start + skipped..ranks.end)),
            Self::List(objects) => Box::new(objects[skipped..].iter()),
        }
    }
}
