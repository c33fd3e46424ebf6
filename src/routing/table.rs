//! The key space cut into intervals, each owned by one cluster.

use crate::etcd::key_range::{End, KeyRange};
use bytes::Bytes;
use std::{collections::BTreeMap, fmt};

/// Maps keys to clusters: routes by prefix, and a default for what no route takes.
///
/// A prefix matches whole segments: `/registry/events` owns the key `/registry/events`, where
/// kube-apiserver reads the current revision, and everything below `/registry/events/`, but not
/// `/registry/eventsources`. The longest prefix wins.
#[derive(Debug, Clone)]
pub struct Table<C> {
    default: C,
    /// Sorted by prefix.
    routes: Vec<Route<C>>,
    /// Sorted by start, disjoint and without gaps; the first one starts with the least key and
    /// neighbours belong to different clusters.
    intervals: Vec<Interval<C>>,
}

/// A prefix, without a slash at its end, and the cluster that owns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route<C> {
    pub prefix: Bytes,
    pub cluster: C,
}

/// Where a range of keys lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located<'t, C> {
    One(&'t C),
    /// At least two, in key order; neighbours belong to different clusters.
    Several(Vec<Segment<'t, C>>),
}

/// The part of a range that one cluster owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment<'t, C> {
    pub range: KeyRange,
    pub cluster: &'t C,
}

/// Why a prefix cannot be routed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the prefix \"{0}\" would take every key; name the cluster as the default instead")]
    WholeKeySpace(String),
    #[error("the prefix \"{0}\" has an empty segment (`//`)")]
    EmptySegment(String),
    #[error("the prefix \"{0}\" is routed twice")]
    Duplicate(String),
}

impl<C: Clone + PartialEq> Table<C> {
    pub fn new<P: Into<Bytes>>(
        default: C,
        routes: impl IntoIterator<Item = (P, C)>,
    ) -> Result<Self, Error> {
        let mut sorted: Vec<Route<C>> = Vec::new();
        for (prefix, cluster) in routes {
            sorted.push(Route { prefix: normalize(&prefix.into())?, cluster });
        }
        sorted.sort_by(|a, b| a.prefix.cmp(&b.prefix));
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].prefix == pair[1].prefix) {
            return Err(Error::Duplicate(pair[0].prefix.escape_ascii().to_string()));
        }
        Ok(Self { intervals: cut(default.clone(), &sorted), default, routes: sorted })
    }

    /// The cluster of every key that no route takes.
    pub fn default_cluster(&self) -> &C {
        &self.default
    }

    /// In the order of their prefixes.
    pub fn routes(&self) -> &[Route<C>] {
        &self.routes
    }

    /// The route that decides about `key`; none when it goes to the default cluster.
    pub fn route(&self, key: &[u8]) -> Option<&Route<C>> {
        let matching = self.routes.iter().filter(|route| route.owns(key));
        matching.max_by_key(|route| route.prefix.len())
    }

    pub fn locate_key(&self, key: &[u8]) -> &C {
        &self.intervals[self.index_of(key)].cluster
    }

    /// A range that holds no key belongs to where its start lies.
    pub fn locate(&self, range: &KeyRange) -> Located<'_, C> {
        let first = self.index_of(&range.start);
        let touched = &self.intervals[first..];
        let touched = &touched[..touched.partition_point(|i| range.end.is_after(&i.start))];
        match touched {
            [] | [_] => Located::One(&self.intervals[first].cluster),
            _ if range.is_empty() => Located::One(&self.intervals[first].cluster),
            several => Located::Several(
                several
                    .iter()
                    .map(|i| Segment { range: i.range().intersection(range), cluster: &i.cluster })
                    .collect(),
            ),
        }
    }

    /// The first interval starts with the least key, so there always is one at or before `key`.
    fn index_of(&self, key: &[u8]) -> usize {
        self.intervals.partition_point(|interval| interval.start <= key).saturating_sub(1)
    }
}

impl<C> Route<C> {
    fn owns(&self, key: &[u8]) -> bool {
        key.strip_prefix(&self.prefix[..]).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
    }
}

impl<C: fmt::Display> fmt::Display for Route<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.prefix.escape_ascii(), self.cluster)
    }
}

#[derive(Debug, Clone)]
struct Interval<C> {
    start: Bytes,
    end: End,
    cluster: C,
}

impl<C> Interval<C> {
    fn range(&self) -> KeyRange {
        KeyRange { start: self.start.clone(), end: self.end.clone() }
    }
}

/// `prefix` without the slash at its end, which means the same.
pub fn normalize(prefix: &Bytes) -> Result<Bytes, Error> {
    let printed = prefix.escape_ascii().to_string();
    let name = prefix.strip_suffix(b"/").unwrap_or(prefix);
    if name.is_empty() {
        return Err(Error::WholeKeySpace(printed));
    }
    if prefix.windows(2).any(|pair| pair == b"//") {
        return Err(Error::EmptySegment(printed));
    }
    Ok(prefix.slice_ref(name))
}

/// Paints the routes over the default. They are sorted, so that a prefix comes before those inside
/// it and is painted over by them.
fn cut<C: Clone + PartialEq>(default: C, routes: &[Route<C>]) -> Vec<Interval<C>> {
    let mut starts = BTreeMap::from([(Bytes::new(), default)]);
    for Route { prefix, cluster } in routes {
        let below = Bytes::from([prefix, &b"/"[..]].concat());
        for range in [KeyRange::single(prefix.clone()), KeyRange::prefix(below)] {
            paint(&mut starts, range, cluster);
        }
    }
    let mut intervals: Vec<Interval<C>> = Vec::new();
    for (start, cluster) in starts {
        match intervals.last_mut() {
            Some(last) if last.cluster == cluster => continue,
            Some(last) => last.end = End::Key(start.clone()),
            None => {}
        }
        intervals.push(Interval { start, end: End::Infinite, cluster });
    }
    intervals
}

/// `starts` maps the first key of each interval to its owner.
fn paint<C: Clone>(starts: &mut BTreeMap<Bytes, C>, range: KeyRange, cluster: &C) {
    if let End::Key(end) = range.end {
        let after = starts.range::<Bytes, _>(..=&end).next_back().map(|(_, owner)| owner.clone());
        starts.retain(|start, _| *start < range.start || *start >= end);
        starts.extend(after.map(|owner| (end, owner)));
    } else {
        starts.retain(|start, _| *start < range.start);
    }
    starts.insert(range.start, cluster.clone());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn kubernetes() -> Table<&'static str> {
        let routes = [
            ("/registry/events", "events"),
            ("/registry/leases/", "leases"),
            ("/registry/leases/kube-system", "main"),
        ];
        Table::new("main", routes).expect("the routes are sound")
    }

    fn range(key: &'static str, range_end: &'static str) -> KeyRange {
        KeyRange::of(Bytes::from_static(key.as_bytes()), Bytes::from_static(range_end.as_bytes()))
    }

    fn segments(table: &Table<&'static str>, range: &KeyRange) -> Vec<String> {
        match table.locate(range) {
            Located::One(cluster) => vec![cluster.to_string()],
            Located::Several(segments) => {
                segments.iter().map(|s| format!("{} {}", s.range, s.cluster)).collect()
            }
        }
    }

    #[test]
    fn a_prefix_owns_its_bare_key_and_what_lies_below() {
        let table = kubernetes();
        for key in ["/registry/events", "/registry/events/", "/registry/events/default/a"] {
            assert_eq!(*table.locate_key(key.as_bytes()), "events", "{key}");
        }
        for key in ["/registry/eventsources/a", "/registry/events.k8s.io/a", "/registry/event", "a"]
        {
            assert_eq!(*table.locate_key(key.as_bytes()), "main", "{key}");
        }
    }

    #[test]
    fn a_slash_at_the_end_of_a_prefix_changes_nothing() {
        assert_eq!(*kubernetes().locate_key(b"/registry/leases"), "leases");
    }

    #[test]
    fn the_longest_prefix_wins_in_any_order_of_routes() {
        let routes = [("/a/b", "inner"), ("/a", "outer"), ("/a/b/c", "innermost")];
        let table = Table::new("main", routes).expect("the routes are sound");
        assert_eq!(*table.locate_key(b"/a/b/x"), "inner");
        assert_eq!(*table.locate_key(b"/a/bx"), "outer");
        assert_eq!(*table.locate_key(b"/a/b/c"), "innermost");
        assert_eq!(table.route(b"/a/b/c/d").map(|r| r.cluster), Some("innermost"));
        assert_eq!(table.route(b"/"), None);
    }

    #[test]
    fn a_list_of_a_routed_prefix_lies_in_one_cluster() {
        let list = range("/registry/events/", "/registry/events0");
        assert_eq!(segments(&kubernetes(), &list), ["events"]);
    }

    #[test]
    fn a_range_over_clusters_is_clipped_and_merged_in_key_order() {
        assert_eq!(
            segments(&kubernetes(), &range("/registry/", "/registry/leases/m")),
            [
                r#"["/registry/", "/registry/events") main"#,
                r#""/registry/events" events"#,
                r#"["/registry/events\x00", "/registry/events/") main"#,
                r#"["/registry/events/", "/registry/events0") events"#,
                r#"["/registry/events0", "/registry/leases") main"#,
                r#""/registry/leases" leases"#,
                r#"["/registry/leases\x00", "/registry/leases/") main"#,
                r#"["/registry/leases/", "/registry/leases/kube-system") leases"#,
                r#""/registry/leases/kube-system" main"#,
                r#"["/registry/leases/kube-system\x00", "/registry/leases/kube-system/") leases"#,
                r#"["/registry/leases/kube-system/", "/registry/leases/kube-system0") main"#,
                r#"["/registry/leases/kube-system0", "/registry/leases/m") leases"#,
            ]
        );
    }

    #[test]
    fn a_route_to_the_default_cluster_cuts_nothing() {
        let table = Table::new("main", [("/a", "main")]).expect("the route is sound");
        assert_eq!(segments(&table, &range("/", "\0")), ["main"]);
    }

    #[test]
    fn a_range_without_keys_belongs_to_where_it_starts() {
        assert_eq!(segments(&kubernetes(), &range("/registry/events/x", "/a")), ["events"]);
    }

    #[test]
    fn refuses_prefixes_that_cannot_be_routed() {
        let error = |prefixes: &[&'static str]| {
            let routes = prefixes.iter().map(|prefix| (*prefix, "other"));
            Table::new("main", routes).expect_err("the routes are not sound")
        };
        assert_eq!(error(&[""]), Error::WholeKeySpace("".into()));
        assert_eq!(error(&["/"]), Error::WholeKeySpace("/".into()));
        assert_eq!(error(&["//"]), Error::EmptySegment("//".into()));
        assert_eq!(error(&["/a//b"]), Error::EmptySegment("/a//b".into()));
        assert_eq!(error(&["/a", "/b", "/a/"]), Error::Duplicate("/a".into()));
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0), Just(b'/'), Just(b'/'), Just(b'a'), Just(b'b'), Just(0xff)], 1..7)
    }

    /// A table that sends every prefix to a cluster of its own number.
    fn table() -> impl Strategy<Value = Table<usize>> {
        let segment = prop_oneof![Just("/a"), Just("/b"), Just("/aa"), Just("/\u{7f}")];
        vec(vec(segment, 1..4), 0..6).prop_map(|routes| {
            let prefixes: std::collections::BTreeSet<String> =
                routes.iter().map(|segments| segments.concat()).collect();
            let routes = prefixes.into_iter().zip(1..);
            Table::new(0, routes).expect("the routes are sound")
        })
    }

    proptest! {
        #[test]
        fn intervals_and_routes_agree(table in table(), key in key()) {
            let by_route = table.route(&key).map_or(0, |route| route.cluster);
            prop_assert_eq!(*table.locate_key(&key), by_route);
        }

        #[test]
        fn segments_partition_the_range(table in table(), start in key(), end in key(), key in key()) {
            let range = KeyRange::of(start.into(), end.into());
            match table.locate(&range) {
                Located::One(cluster) => {
                    prop_assert!(!range.contains(&key) || table.locate_key(&key) == cluster);
                }
                Located::Several(segments) => {
                    prop_assert_eq!(&segments[0].range.start, &range.start);
                    prop_assert_eq!(&segments[segments.len() - 1].range.end, &range.end);
                    for pair in segments.windows(2) {
                        prop_assert_eq!(&pair[0].range.end, &End::Key(pair[1].range.start.clone()));
                        prop_assert_ne!(pair[0].cluster, pair[1].cluster);
                    }
                    for segment in segments {
                        prop_assert!(!segment.range.is_empty());
                        prop_assert!(
                            !segment.range.contains(&key) || table.locate_key(&key) == segment.cluster
                        );
                    }
                }
            }
        }
    }
}
