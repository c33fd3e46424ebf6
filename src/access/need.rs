//! What each call needs to be let do.

use super::Verb;
use crate::etcd::{
    key_range::KeyRange,
    method::Method,
    proto::etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request,
    },
};
use bytes::Bytes;

/// Leave to do one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub verb: Verb,
    /// `None` for what is not about keys.
    pub keys: Option<KeyRange>,
}

impl Need {
    pub fn new(verb: Verb) -> Self {
        Self { verb, keys: None }
    }

    pub fn with(verb: Verb, keys: KeyRange) -> Self {
        Self { verb, keys: Some(keys) }
    }

    /// With every key there is.
    fn with_all(verb: Verb) -> Self {
        Self::with(verb, KeyRange::prefix(Bytes::new()))
    }
}

/// What a method needs whatever its request says; those that name keys are judged by their request.
pub fn for_method(method: Method) -> Vec<Need> {
    use Method::*;
    match method {
        Range | RangeStream | Put | DeleteRange | Txn | Watch => Vec::new(),
        Lock | Unlock | Campaign | Proclaim | Leader | Observe | Resign => Vec::new(),
        // Whoever knows a password may say so, and whether we serve is no secret.
        Authenticate | HealthCheck | HealthWatch => Vec::new(),
        Compact => vec![Need::new(Verb::Compact)],
        LeaseGrant | LeaseRevoke | LeaseKeepAlive | LeaseTimeToLive => vec![Need::new(Verb::Lease)],
        // Of all clients.
        LeaseLeases => vec![Need::new(Verb::Lease), Need::with_all(Verb::Read)],
        MemberList | Status | AuthStatus => vec![Need::new(Verb::Status)],
        MemberAdd | MemberRemove | MemberUpdate | MemberPromote => vec![Need::new(Verb::Cluster)],
        Alarm | Defragment | Hash | HashKv | MoveLeader | Downgrade => {
            vec![Need::new(Verb::Maintenance)]
        }
        Snapshot => vec![Need::new(Verb::Maintenance), Need::with_all(Verb::Read)],
        AuthEnable | AuthDisable | UserAdd | UserGet | UserList | UserDelete
        | UserChangePassword | UserGrantRole | UserRevokeRole | RoleAdd | RoleGet | RoleList
        | RoleDelete | RoleGrantPermission | RoleRevokePermission => vec![Need::new(Verb::Auth)],
    }
}

impl Need {
    /// What a method that is not known needs: nobody knows what it does.
    pub fn everything() -> impl Iterator<Item = Self> {
        Verb::ALL.into_iter().map(Self::with_all)
    }
}

pub fn of_range(request: &RangeRequest) -> Need {
    Need::with(Verb::Read, KeyRange::of(request.key.clone(), request.range_end.clone()))
}

pub fn of_put(request: &PutRequest) -> impl Iterator<Item = Need> {
    write(KeyRange::single(request.key.clone()), request.prev_kv)
}

pub fn of_delete(request: &DeleteRangeRequest) -> impl Iterator<Item = Need> {
    write(KeyRange::of(request.key.clone(), request.range_end.clone()), request.prev_kv)
}

/// A write that answers with what was there is a read, too.
fn write(keys: KeyRange, prev_kv: bool) -> impl Iterator<Item = Need> {
    let read = prev_kv.then(|| Need::with(Verb::Read, keys.clone()));
    read.into_iter().chain([Need::with(Verb::Write, keys)])
}

/// Of every compare and every operation, on both sides and at any depth: whether a side is taken
/// tells about the keys of its compares, and nobody knows before which one will be.
pub fn of_txn(request: &TxnRequest) -> Vec<Need> {
    let mut needs = Vec::new();
    let mut nested = vec![request];
    // With a stack of its own, so that no depth of nesting can exhaust the thread's.
    while let Some(txn) = nested.pop() {
        needs.extend(txn.compare.iter().map(|compare| {
            let keys = KeyRange::of(compare.key.clone(), compare.range_end.clone());
            Need::with(Verb::Read, keys)
        }));
        for RequestOp { request } in txn.success.iter().chain(&txn.failure) {
            match request {
                Some(Request::RequestRange(range)) => needs.push(of_range(range)),
                Some(Request::RequestPut(put)) => needs.extend(of_put(put)),
                Some(Request::RequestDeleteRange(delete)) => needs.extend(of_delete(delete)),
                Some(Request::RequestTxn(txn)) => nested.push(txn),
                // etcd refuses it.
                None => {}
            }
        }
    }
    needs
}

/// Of what puts a key among others and waits for those before it.
pub fn of_lock(keys: &KeyRange) -> impl Iterator<Item = Need> {
    [Verb::Read, Verb::Write].into_iter().map(|verb| Need::with(verb, keys.clone()))
}

/// Of what reads keys and follows them.
pub fn of_observe(keys: &KeyRange) -> impl Iterator<Item = Need> {
    [Verb::Read, Verb::Watch].into_iter().map(|verb| Need::with(verb, keys.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::proto::etcdserverpb::Compare;

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    #[test]
    fn nothing_in_a_transaction_is_overlooked() {
        let compare = |key: &'static str| Compare { key: key.into(), ..Compare::default() };
        let delete = DeleteRangeRequest { key: "/d".into(), range_end: "\0".into(), prev_kv: true };
        let deep = TxnRequest {
            compare: vec![Compare { range_end: "/c0".into(), ..compare("/c/") }],
            failure: vec![op(Request::RequestDeleteRange(delete))],
            ..TxnRequest::default()
        };
        let put = PutRequest { key: "/p".into(), prev_kv: true, ..PutRequest::default() };
        let range = RangeRequest { key: "/r".into(), ..RangeRequest::default() };
        let txn = TxnRequest {
            compare: vec![compare("/a")],
            success: vec![op(Request::RequestPut(put)), op(Request::RequestTxn(deep))],
            failure: vec![op(Request::RequestRange(range))],
        };
        let needs = of_txn(&txn);
        let texts: Vec<_> = needs
            .iter()
            .map(|need| format!("{} {}", need.verb.as_str(), need.keys.as_ref().expect("keys")))
            .collect();
        assert_eq!(
            texts,
            [
                r#"read "/a""#,
                r#"read "/p""#,
                r#"write "/p""#,
                r#"read "/r""#,
                r#"read ["/c/", "/c0")"#,
                r#"read ["/d", ...)"#,
                r#"write ["/d", ...)"#,
            ]
        );
    }

    #[test]
    fn deep_nesting_does_not_exhaust_the_stack() {
        let mut deep = TxnRequest::default();
        for _ in 0..1_000 {
            deep =
                TxnRequest { success: vec![op(Request::RequestTxn(deep))], ..Default::default() };
        }
        assert_eq!(of_txn(&deep), []);
    }
}
