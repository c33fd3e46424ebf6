//! Which cluster a transaction belongs to.

use super::{Located, Segment, Table};
use crate::etcd::{
    key_range::KeyRange,
    proto::etcdserverpb::{Compare, PutRequest, RequestOp, TxnRequest, request_op::Request},
};
use bytes::Bytes;
use std::{fmt, slice};

/// The keys of all compares and operations, those of nested transactions included.
pub fn keys(txn: &TxnRequest) -> impl Iterator<Item = KeyRange> + '_ {
    parts(txn).filter_map(Part::keys).map(Keys::range)
}

/// The leases that puts attach, those of nested transactions included; 0 detaches and is no lease.
pub fn leases(txn: &TxnRequest) -> impl Iterator<Item = i64> + '_ {
    parts(txn).filter_map(|part| match part {
        Part::Op(Request::RequestPut(put)) if put.lease != 0 => Some(put.lease),
        _ => None,
    })
}

/// The ranges that are deleted, be it by a nested transaction; not single keys.
pub fn deleted_ranges(txn: &TxnRequest) -> impl Iterator<Item = KeyRange> + '_ {
    parts(txn).filter_map(|part| match part {
        Part::Op(Request::RequestDeleteRange(delete)) if !delete.range_end.is_empty() => {
            part.keys().map(Keys::range)
        }
        _ => None,
    })
}

/// The puts of both branches, those of nested transactions included.
pub fn puts(txn: &TxnRequest) -> impl Iterator<Item = &PutRequest> {
    parts(txn).filter_map(|part| match part {
        Part::Op(Request::RequestPut(put)) => Some(put),
        _ => None,
    })
}

/// Bytes of the largest value that is put.
pub fn value_size(txn: &TxnRequest) -> usize {
    puts(txn).map(|put| put.value.len()).max().unwrap_or(0)
}

/// The one cluster that owns every key of `txn`; the default cluster when there is no key.
///
/// # Errors
/// etcd's transactions end at its own store, so one that names keys of two clusters cannot run.
pub fn locate_txn<'t, C: Clone + PartialEq>(
    table: &'t Table<C>,
    txn: &TxnRequest,
) -> Result<&'t C, Box<SpansClusters<C>>> {
    let mut home: Option<(Keys<'_>, &C)> = None;
    for keys in parts(txn).filter_map(Part::keys) {
        let owner = locate_keys(table, keys)?;
        match home {
            None => home = Some((keys, owner)),
            Some((first, cluster)) if cluster != owner => {
                return Err(Box::new(SpansClusters {
                    first: (first.range(), cluster.clone()),
                    second: (keys.range(), owner.clone()),
                }));
            }
            Some(_) => {}
        }
    }
    Ok(home.map_or_else(|| table.default_cluster(), |(_, owner)| owner))
}

fn locate_keys<'t, C: Clone + PartialEq>(
    table: &'t Table<C>,
    keys: Keys<'_>,
) -> Result<&'t C, Box<SpansClusters<C>>> {
    if keys.range_end.is_empty() {
        return Ok(table.locate_key(keys.key));
    }
    match table.locate(&keys.range()) {
        Located::One(owner) => Ok(owner),
        Located::Several(segments) => {
            let place = |index: usize| {
                let Segment { range, cluster } = &segments[index];
                (range.clone(), C::clone(cluster))
            };
            Err(Box::new(SpansClusters { first: place(0), second: place(1) }))
        }
    }
}

/// The first two keys or ranges of a transaction that lie in different clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpansClusters<C> {
    pub first: (KeyRange, C),
    pub second: (KeyRange, C),
}

impl<C> SpansClusters<C> {
    /// The same with another name for each cluster.
    pub fn map<D>(self, name: impl Fn(C) -> D) -> SpansClusters<D> {
        let Self { first, second } = self;
        SpansClusters { first: (first.0, name(first.1)), second: (second.0, name(second.1)) }
    }
}

impl<C: fmt::Display> fmt::Display for SpansClusters<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((first, one), (second, other)) = (&self.first, &self.second);
        write!(
            f,
            "transaction spans clusters: {first} lies in cluster {one}, {second} in cluster {other}"
        )
    }
}

impl<C: fmt::Debug + fmt::Display> std::error::Error for SpansClusters<C> {}

/// `key` and `range_end` as a request spells them.
#[derive(Debug, Clone, Copy)]
struct Keys<'a> {
    key: &'a Bytes,
    range_end: &'a Bytes,
}

impl Keys<'_> {
    fn range(self) -> KeyRange {
        KeyRange::of(self.key.clone(), self.range_end.clone())
    }
}

/// A leaf of a transaction.
#[derive(Debug, Clone, Copy)]
enum Part<'a> {
    Compare(&'a Compare),
    /// Also yielded for a nested transaction itself, ahead of its own parts.
    Op(&'a Request),
}

impl<'a> Part<'a> {
    fn keys(self) -> Option<Keys<'a>> {
        static SINGLE: Bytes = Bytes::new();
        let (key, range_end) = match self {
            Self::Compare(compare) => (&compare.key, &compare.range_end),
            Self::Op(Request::RequestRange(range)) => (&range.key, &range.range_end),
            Self::Op(Request::RequestPut(put)) => (&put.key, &SINGLE),
            Self::Op(Request::RequestDeleteRange(delete)) => (&delete.key, &delete.range_end),
            Self::Op(Request::RequestTxn(_)) => return None,
        };
        Some(Keys { key, range_end })
    }
}

/// All parts of `txn` at any depth: compares, then success, then failure. Operations without a
/// request are left out; etcd refuses them.
fn parts(txn: &TxnRequest) -> impl Iterator<Item = Part<'_>> {
    let mut parts = Parts { open: Vec::new() };
    parts.push(txn);
    parts
}

/// Walks with a stack of its own, so that no depth of nesting can exhaust the thread's.
struct Parts<'a> {
    open: Vec<List<'a>>,
}

enum List<'a> {
    Compares(slice::Iter<'a, Compare>),
    Ops(slice::Iter<'a, RequestOp>),
}

impl<'a> Parts<'a> {
    fn push(&mut self, txn: &'a TxnRequest) {
        self.open.push(List::Ops(txn.failure.iter()));
        self.open.push(List::Ops(txn.success.iter()));
        self.open.push(List::Compares(txn.compare.iter()));
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let next = match self.open.last_mut()? {
                List::Compares(compares) => compares.next().map(Part::Compare),
                List::Ops(ops) => ops.find_map(|op| op.request.as_ref()).map(Part::Op),
            };
            match next {
                None => drop(self.open.pop()),
                Some(part) => {
                    if let Part::Op(Request::RequestTxn(nested)) = part {
                        self.push(nested);
                    }
                    return Some(part);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::proto::etcdserverpb::{DeleteRangeRequest, RangeRequest};

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    fn put(key: &'static str, lease: i64) -> RequestOp {
        op(Request::RequestPut(PutRequest { key: key.into(), lease, ..Default::default() }))
    }

    fn range(key: &'static str, range_end: &'static str) -> RequestOp {
        let (key, range_end) = (key.into(), range_end.into());
        op(Request::RequestRange(RangeRequest { key, range_end, ..Default::default() }))
    }

    fn delete(key: &'static str) -> RequestOp {
        op(Request::RequestDeleteRange(DeleteRangeRequest {
            key: key.into(),
            ..Default::default()
        }))
    }

    fn compare(key: &'static str) -> Compare {
        Compare { key: key.into(), ..Default::default() }
    }

    fn txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
        TxnRequest { compare, success, failure }
    }

    fn table() -> Table<&'static str> {
        Table::new("main", [("/events", "events")]).expect("the route is sound")
    }

    fn nested() -> TxnRequest {
        let inner = txn(vec![compare("/c2")], vec![put("/p2", 8)], vec![]);
        txn(
            vec![compare("/c1")],
            vec![put("/p1", 7), op(Request::RequestTxn(inner)), RequestOp { request: None }],
            vec![range("/r1/", "/r10"), delete("/d1"), put("/p3", 0)],
        )
    }

    #[test]
    fn visits_every_key_of_compares_and_operations_at_any_depth() {
        let keys: Vec<String> = keys(&nested()).map(|range| range.to_string()).collect();
        let expected = [
            r#""/c1""#,
            r#""/p1""#,
            r#""/c2""#,
            r#""/p2""#,
            r#"["/r1/", "/r10")"#,
            r#""/d1""#,
            r#""/p3""#,
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn collects_the_leases_of_puts_at_any_depth() {
        assert_eq!(leases(&nested()).collect::<Vec<_>>(), [7, 8]);
    }

    #[test]
    fn a_transaction_lies_where_all_of_its_keys_lie() {
        let events = txn(
            vec![compare("/events/a")],
            vec![put("/events/a", 0)],
            vec![range("/events/a", "")],
        );
        assert_eq!(locate_txn(&table(), &events), Ok(&"events"));
    }

    #[test]
    fn a_transaction_without_keys_goes_to_the_default_cluster() {
        let hollow = txn(vec![], vec![RequestOp { request: None }], vec![]);
        assert_eq!(locate_txn(&table(), &hollow), Ok(&"main"));
    }

    #[test]
    fn names_the_first_two_keys_of_different_clusters() {
        let mixed = txn(vec![compare("/a")], vec![put("/b", 0), put("/events/c", 0)], vec![]);
        let error = locate_txn(&table(), &mixed).expect_err("it spans clusters");
        assert_eq!(
            error.to_string(),
            r#"transaction spans clusters: "/a" lies in cluster main, "/events/c" in cluster events"#
        );
    }

    #[test]
    fn names_the_parts_of_one_range_that_spans_clusters() {
        let wide = txn(vec![], vec![range("/", "\0")], vec![]);
        let error = locate_txn(&table(), &wide).expect_err("it spans clusters");
        assert_eq!(error.first, (KeyRange::of("/".into(), "/events".into()), "main"));
        assert_eq!(error.second, (KeyRange::single("/events".into()), "events"));
    }

    #[test]
    fn deep_nesting_does_not_exhaust_the_stack() {
        let mut deep = txn(vec![compare("/events/a")], vec![], vec![]);
        for _ in 0..1_000 {
            deep = txn(vec![], vec![op(Request::RequestTxn(deep))], vec![]);
        }
        assert_eq!(locate_txn(&table(), &deep), Ok(&"events"));
    }
}
