//! Which shape a request has, told from its fields alone.
//!
//! The shapes are those of kube-apiserver, etcd's own tools and client libraries. What none of them
//! sends gets the nearest one; nothing is refused for its shape.

use super::Shape;
use crate::etcd::{
    key_range::KeyRange,
    proto::etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        range_request::{SortOrder, SortTarget},
        request_op::Request,
    },
};
use bytes::Bytes;

/// What a call is, from what must never wait to what an operator does by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Health checks, compaction, leases and lists of them, leader election, watch cancels: late means
    /// an outage.
    Critical,
    Write,
    /// Reads one key.
    PointRead,
    /// Asks only for the current revision.
    Probe,
    /// Reads at most [`PAGE_MAX`] values.
    PagedList,
    /// Reads an unknown or a large number of values.
    HeavyList,
    Watch,
    /// Loses nothing by waiting: counts, consistency checks, digests, backups.
    Background,
    /// Changes or inspects the cluster itself.
    Admin,
}

impl Class {
    pub const ALL: [Self; 9] = [
        Self::Critical,
        Self::Write,
        Self::PointRead,
        Self::Probe,
        Self::PagedList,
        Self::HeavyList,
        Self::Watch,
        Self::Background,
        Self::Admin,
    ];

    /// As in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Write => "write",
            Self::PointRead => "point_read",
            Self::Probe => "probe",
            Self::PagedList => "paged_list",
            Self::HeavyList => "heavy_list",
            Self::Watch => "watch",
            Self::Background => "background",
            Self::Admin => "admin",
        }
    }
}

/// A list that asks for more than this is heavy. Controllers page by 500 and etcd's mirror by 1000.
pub const PAGE_MAX: i64 = 1_000;

/// The page of kube-apiserver's consistency check, and of no hurried reader at one fixed revision.
pub const CHECK_PAGE: i64 = 10_000;

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub shape: Shape,
    pub class: Class,
}

impl Kind {
    pub const fn of(shape: Shape) -> Self {
        Self { shape, class: shape.class() }
    }

    /// `critical` says that the control plane hangs on its keys.
    const fn on(shape: Shape, critical: bool) -> Self {
        let class = if critical { Class::Critical } else { shape.class() };
        Self { shape, class }
    }
}

/// `Range` and `RangeStream`.
pub fn range(request: &RangeRequest) -> Kind {
    let key = &request.key[..];
    if request.range_end.is_empty() {
        let shape = match key {
            _ if is_health(key) => Shape::Health,
            _ if request.count_only || is_collection(key) => Shape::CurrentRevision,
            _ => Shape::Get,
        };
        return Kind::on(shape, is_control(key));
    }
    let shape = match (request.limit, request.revision) {
        _ if request.count_only => Shape::Count,
        _ if !limit_saves_work(request) => Shape::SortedList,
        // Where an order is only implied by its target, etcd sorts what the limit has left.
        (..=0, _) if request.sort_target() != SortTarget::Key => Shape::SortedList,
        (..=0, ..=0) if request.keys_only => Shape::Keys,
        (..=0, _) => Shape::List,
        (1..=PAGE_MAX, _) => Shape::Page,
        (CHECK_PAGE, 1..) => Shape::CheckPage,
        _ => Shape::BulkPage,
    };
    Kind::on(shape, is_of_control(&request.key, &request.range_end))
}

pub fn put(request: &PutRequest) -> Kind {
    Kind::on(Shape::Put, is_control(&request.key))
}

pub fn delete_range(request: &DeleteRangeRequest) -> Kind {
    match request.range_end.is_empty() {
        true => Kind::on(Shape::Delete, is_control(&request.key)),
        false => Kind::of(Shape::DeleteRange),
    }
}

/// A transaction that only reads has the class of its heaviest read, any other is a write. It is
/// critical when all of its keys are, lest one such key carry a large transaction past the queues.
pub fn txn(request: &TxnRequest) -> Kind {
    let shape = txn_shape(request);
    let ops = || request.success.iter().chain(&request.failure).filter_map(op);
    let compares = || request.compare.iter().map(compare);
    let mut all = ops().chain(compares()).peekable();
    if all.peek().is_some() && all.all(|class| class == Class::Critical) {
        return Kind { shape, class: Class::Critical };
    }
    if shape != Shape::ReadTxn {
        return Kind::of(shape);
    }
    let heaviest = ops().chain(compares()).max_by_key(|class| read_weight(*class));
    // A critical read among others is as any of them.
    let class = heaviest.filter(|class| *class != Class::Critical);
    Kind { shape, class: class.unwrap_or(Class::PointRead) }
}

/// Kubernetes' three transactions: one compare of a key's revision, one write of that key.
fn txn_shape(request: &TxnRequest) -> Shape {
    let ops =
        || request.success.iter().chain(&request.failure).filter_map(|op| op.request.as_ref());
    if ops().all(|op| matches!(op, Request::RequestRange(_))) {
        return Shape::ReadTxn;
    }
    let ([compare], [success]) = (&request.compare[..], &request.success[..]) else {
        return Shape::Txn;
    };
    let only_reads_otherwise =
        request.failure.iter().all(|op| matches!(op.request, Some(Request::RequestRange(_))));
    let by_revision = compare.range_end.is_empty()
        && compare.result() == CompareResult::Equal
        && compare.target() == CompareTarget::Mod;
    if !by_revision || !only_reads_otherwise {
        return Shape::Txn;
    }
    let absent = matches!(compare.target_union, None | Some(TargetUnion::ModRevision(0)));
    match &success.request {
        Some(Request::RequestPut(put)) if put.key == compare.key => {
            if absent {
                Shape::Create
            } else {
                Shape::Update
            }
        }
        Some(Request::RequestDeleteRange(delete))
            if delete.key == compare.key && delete.range_end.is_empty() =>
        {
            Shape::Delete
        }
        _ => Shape::Txn,
    }
}

/// Methods whose shape does not hang on their message, by path (`/etcdserverpb.Lease/LeaseGrant`).
/// What is not known here is an operator's tool.
pub fn method(path: &str) -> Kind {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    Kind::of(match (service.rsplit('.').next().unwrap_or(service), method) {
        ("KV", "Compact") => Shape::Compact,
        ("Lease", "LeaseGrant" | "LeaseKeepAlive" | "LeaseRevoke") => Shape::Lease,
        ("Lease", "LeaseTimeToLive") => Shape::LeaseRead,
        ("Election", "Observe") => Shape::Observe,
        ("Lock" | "Election", _) => Shape::Election,
        // `etcdctl endpoint health` asks for alarms, kube-apiserver for the status.
        ("Maintenance", "Status" | "Alarm") => Shape::Status,
        ("Maintenance", "Snapshot" | "Hash" | "HashKV") => Shape::Snapshot,
        ("Health", "Check") => Shape::Health,
        ("Health", "Watch") => Shape::Watch,
        _ => Shape::Admin,
    })
}

/// Nested transactions count as writes, as they do at etcd.
fn op(op: &RequestOp) -> Option<Class> {
    Some(match op.request.as_ref()? {
        Request::RequestRange(request) => range(request).class,
        Request::RequestPut(request) => put(request).class,
        Request::RequestDeleteRange(request) => delete_range(request).class,
        Request::RequestTxn(_) => Class::Write,
    })
}

/// A compare of a range reads every value of it.
fn compare(compare: &Compare) -> Class {
    let (key, range_end) = (&compare.key, &compare.range_end);
    match range_end.is_empty() {
        true if is_control(key) => Class::Critical,
        true => Class::PointRead,
        false if is_of_control(key, range_end) => Class::Critical,
        false => Class::HeavyList,
    }
}

fn read_weight(class: Class) -> u8 {
    match class {
        Class::HeavyList => 3,
        Class::Background => 2,
        Class::PagedList => 1,
        _ => 0,
    }
}

/// etcd reads the whole range before it sorts or filters it.
fn limit_saves_work(request: &RangeRequest) -> bool {
    let unsorted = request.sort_order() == SortOrder::None
        || (request.sort_order(), request.sort_target()) == (SortOrder::Ascend, SortTarget::Key);
    unsorted && !request.is_filtered()
}

/// kube-apiserver's `<etcd-prefix>/health`, and the `health` of etcdctl and others.
fn is_health(key: &[u8]) -> bool {
    matches!(
        split(key),
        [Some(b"health"), None, ..]
            | [Some(b""), Some(b"health"), None, _]
            | [Some(b""), Some(_), Some(b"health"), None]
    )
}

/// Keys that hold a control plane together: compaction's clock, the list of its own members, and
/// the leases by which its leaders are elected.
fn is_control(key: &[u8]) -> bool {
    match split(key) {
        [Some(b"compact_rev_key"), None, ..] => true,
        [Some(b""), Some(_), Some(b"masterleases" | b"peerserverleases"), None] => true,
        _ => control_prefix(key).is_some(),
    }
}

/// Whether there are no other keys in a range: each kube-apiserver lists all of these every 10 s, and
/// is not to wait for lists of pods.
fn is_of_control(key: &Bytes, range_end: &Bytes) -> bool {
    let Some(prefix) = control_prefix(key) else { return false };
    let range = KeyRange::of(key.clone(), range_end.clone());
    range.end <= KeyRange::prefix(key.slice_ref(prefix)).end
}

/// What `key` begins with, where such keys hold a control plane together; up to the slash.
fn control_prefix(key: &[u8]) -> Option<&[u8]> {
    let rest = match split(key) {
        [Some(b""), Some(_), Some(b"masterleases" | b"peerserverleases"), Some(rest)] => rest,
        [Some(b""), Some(_), Some(b"leases"), Some(rest)] => rest.strip_prefix(b"kube-system/")?,
        _ => return None,
    };
    Some(&key[..key.len() - rest.len()])
}

/// The bare name of a resource, which holds no object: kube-apiserver reads it for the revision in
/// the header.
fn is_collection(key: &[u8]) -> bool {
    match split(key) {
        [Some(b""), Some(_), Some(resource), None] => !resource.is_empty(),
        [Some(b""), Some(_), Some(b"services"), Some(b"specs" | b"endpoints")] => true,
        [Some(b""), Some(_), Some(group), Some(rest)] => {
            group.contains(&b'.') && !rest.is_empty() && !rest.contains(&b'/')
        }
        _ => false,
    }
}

/// The first three segments and the rest; a leading slash makes the first one empty.
fn split(key: &[u8]) -> [Option<&[u8]>; 4] {
    let mut parts = key.splitn(4, |byte| *byte == b'/');
    [parts.next(), parts.next(), parts.next(), parts.next()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(key: &'static str) -> RangeRequest {
        RangeRequest { key: key.into(), limit: 1, ..Default::default() }
    }

    fn list(limit: i64, revision: i64) -> RangeRequest {
        RangeRequest {
            key: "/registry/pods/".into(),
            range_end: "/registry/pods0".into(),
            limit,
            revision,
            ..Default::default()
        }
    }

    #[test]
    fn single_keys_are_told_by_their_place() {
        for (key, class) in [
            ("/registry/health", Class::Critical),
            ("health", Class::Critical),
            ("compact_rev_key", Class::Critical),
            ("/registry/masterleases/10.0.0.1", Class::Critical),
            ("/registry/leases/kube-system/kube-scheduler", Class::Critical),
            ("/registry/leases/kube-node-lease/node-1", Class::PointRead),
            ("/registry/configmaps/default/health", Class::PointRead),
            ("/registry/pods/default/a", Class::PointRead),
            ("/registry/minions/node-1", Class::PointRead),
            ("/registry/cilium.io/ciliumnodes/a", Class::PointRead),
            ("/registry/pods", Class::Probe),
            ("/registry/services/specs", Class::Probe),
            ("/registry/cilium.io/ciliumnodes", Class::Probe),
            ("/calico/resources/v3", Class::PointRead),
        ] {
            assert_eq!(range(&get(key)).class, class, "{key}");
        }
    }

    #[test]
    fn lists_are_told_by_how_much_they_ask_for() {
        for (limit, revision, class) in [
            (0, 0, Class::HeavyList),
            (-1, 0, Class::HeavyList),
            (0, 7, Class::HeavyList),
            (1, 0, Class::PagedList),
            (1, 7, Class::PagedList),
            (500, 0, Class::PagedList),
            (1_000, 7, Class::PagedList),
            (1_001, 7, Class::HeavyList),
            (10_000, 0, Class::HeavyList),
            (10_000, 7, Class::Background),
        ] {
            assert_eq!(
                range(&list(limit, revision)).class,
                class,
                "limit {limit} revision {revision}"
            );
        }
    }

    /// Behind a storm of lists a kube-apiserver could not list those that serve, and was taken out of
    /// the endpoints of all clients.
    #[test]
    fn lists_of_what_the_control_plane_hangs_on_are_critical() {
        for (key, end, critical) in [
            ("/registry/masterleases/", "/registry/masterleases0", true),
            ("/registry/peerserverleases/", "/registry/peerserverleases0", true),
            ("/other/masterleases/a\0", "/other/masterleases0", true),
            ("/registry/masterleases/a", "/registry/masterleases/b", true),
            ("/registry/leases/kube-system/", "/registry/leases/kube-system0", true),
            ("/registry/leases/", "/registry/leases0", false),
            ("/registry/leases/kube-node-lease/", "/registry/leases/kube-node-lease0", false),
            ("/registry/masterleases", "/registry/masterleases0", false),
            ("/registry/masterleases/", "/registry/masterleases0a", false),
            ("/registry/masterleases/", "/registry/masterleases1", false),
            ("/registry/masterleases/", "/registry/pods0", false),
            ("/registry/masterleases/", "\0", false),
            ("/", "0", false),
        ] {
            for limit in [0, 500, 10_000] {
                let list =
                    RangeRequest { key: key.into(), range_end: end.into(), ..list(limit, 0) };
                let class = range(&list).class;
                assert_eq!(class == Class::Critical, critical, "{key} {end} {limit}");
            }
        }
    }

    #[test]
    fn counts_and_statistics_can_wait() {
        assert_eq!(
            range(&RangeRequest { count_only: true, ..list(0, 0) }).class,
            Class::Background
        );
        assert_eq!(range(&RangeRequest { keys_only: true, ..list(0, 0) }).class, Class::Background);
    }

    /// It was cut into pages, and each of them sorted by itself.
    #[test]
    fn an_order_that_its_target_implies_is_one() {
        for target in [SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value]
        {
            let sorted = |limit| RangeRequest { sort_target: target.into(), ..list(limit, 7) };
            assert_eq!(range(&sorted(0)).shape, Shape::SortedList, "{target:?}");
            // Of these etcd reads a page and one key more.
            assert_eq!(range(&sorted(500)).shape, Shape::Page, "{target:?}");
        }
        let by_key = RangeRequest { sort_order: SortOrder::Ascend.into(), ..list(0, 7) };
        assert_eq!(range(&by_key).shape, Shape::List);
    }

    #[test]
    fn a_limit_does_not_make_a_sorted_or_filtered_list_light() {
        let sorted = RangeRequest {
            sort_order: SortOrder::Descend.into(),
            sort_target: SortTarget::Create.into(),
            ..list(1, 0)
        };
        let filtered = RangeRequest { min_mod_revision: 5, ..list(1, 0) };
        assert_eq!(range(&sorted).class, Class::HeavyList);
        assert_eq!(range(&filtered).class, Class::HeavyList);
    }

    fn update(key: &'static str) -> TxnRequest {
        let op = |request| vec![RequestOp { request: Some(request) }];
        TxnRequest {
            compare: vec![Compare { key: key.into(), ..Default::default() }],
            success: op(Request::RequestPut(PutRequest { key: key.into(), ..Default::default() })),
            failure: op(Request::RequestRange(get(key))),
        }
    }

    #[test]
    fn updates_are_writes_unless_the_control_plane_hangs_on_them() {
        for (key, class) in [
            ("/registry/pods/default/a", Class::Write),
            ("/registry/leases/kube-node-lease/node-1", Class::Write),
            ("/registry/leases/kube-system/kube-scheduler", Class::Critical),
            ("compact_rev_key", Class::Critical),
        ] {
            assert_eq!(txn(&update(key)).class, class, "{key}");
        }
    }

    #[test]
    fn one_critical_key_does_not_carry_a_transaction_of_others() {
        let mut mixed = update("compact_rev_key");
        mixed.success.extend(update("/registry/pods/default/a").success);
        assert_eq!(txn(&mixed).class, Class::Write);
    }

    #[test]
    fn a_transaction_that_reads_has_the_class_of_its_heaviest_read() {
        let reads = |requests: Vec<RangeRequest>| TxnRequest {
            success: requests
                .into_iter()
                .map(|request| RequestOp { request: Some(Request::RequestRange(request)) })
                .collect(),
            ..Default::default()
        };
        assert_eq!(txn(&reads(vec![get("/a/b/c/d")])).class, Class::PointRead);
        assert_eq!(
            txn(&reads(vec![get("/a/b/c/d"), list(0, 0), list(500, 0)])).class,
            Class::HeavyList
        );
        assert_eq!(txn(&TxnRequest::default()).class, Class::PointRead);

        let mut comparing = reads(vec![get("/a/b/c/d")]);
        let wide = Compare { key: "/a".into(), range_end: "/b".into(), ..Default::default() };
        comparing.compare.push(wide);
        assert_eq!(txn(&comparing).class, Class::HeavyList);
    }

    #[test]
    fn other_methods_are_told_by_name() {
        for (path, class) in [
            ("/etcdserverpb.KV/Compact", Class::Critical),
            ("/etcdserverpb.Lease/LeaseKeepAlive", Class::Critical),
            ("/etcdserverpb.Lease/LeaseLeases", Class::Admin),
            ("/etcdserverpb.Maintenance/Snapshot", Class::Background),
            ("/etcdserverpb.Maintenance/Defragment", Class::Admin),
            ("/etcdserverpb.Cluster/MemberList", Class::Admin),
            ("/v3lockpb.Lock/Lock", Class::Critical),
            ("/v3electionpb.Election/Observe", Class::Watch),
            ("/grpc.health.v1.Health/Check", Class::Critical),
            ("/unknown.Service/Method", Class::Admin),
            ("", Class::Admin),
        ] {
            assert_eq!(method(path).class, class, "{path}");
        }
    }
}
