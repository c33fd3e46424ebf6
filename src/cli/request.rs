//! Requests as people write them down.

use crate::{
    access::{self, Need, Verb},
    admission::{Client, Kind, Place, Shape, Subject, classify},
    config::{self, read_shape},
    etcd::{
        key_range::KeyRange,
        method,
        proto::etcdserverpb::{
            Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, compare,
            range_request, request_op,
        },
    },
    routing::txn,
};
use bytes::Bytes;
use serde::Deserialize;
use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
};

/// One request; which fields count depends on the method.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Request {
    pub(super) method: Method,
    key: String,
    range_end: String,
    /// Instead of `key` and `range_end`.
    prefix: Option<String>,
    limit: i64,
    revision: i64,
    count_only: bool,
    keys_only: bool,
    sort_order: SortOrder,
    /// Of a compare: the revision that the key must have been changed at, 0 for none.
    mod_revision: Option<i64>,
    /// Who calls; not in the parts of a txn.
    pub(super) client: Option<String>,
    pub(super) address: Option<IpAddr>,
    compare: Vec<Request>,
    success: Vec<Request>,
    failure: Vec<Request>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Method {
    #[default]
    Range,
    RangeStream,
    Put,
    DeleteRange,
    Txn,
    Watch,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SortOrder {
    #[default]
    None,
    Ascend,
    Descend,
}

/// A YAML list, or JSON, one object a line.
pub(super) fn read(path: &Path, text: &str) -> Result<Vec<Request>, config::Error> {
    if !text.trim_start().starts_with('{') {
        return read_shape(path, text, 1);
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(index, line)| read_shape(path, line, index + 1)).collect()
}

impl Request {
    pub(super) fn key(key: &str) -> Self {
        Self { key: key.into(), ..Self::default() }
    }

    pub(super) fn range(key: &str, range_end: &str) -> Self {
        Self { range_end: range_end.into(), ..Self::key(key) }
    }

    pub(super) fn prefix(prefix: &str) -> Self {
        Self { prefix: Some(prefix.into()), ..Self::default() }
    }

    pub(super) fn keys(&self) -> KeyRange {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        match (&self.prefix, self.method) {
            (Some(prefix), _) => KeyRange::prefix(bytes(prefix)),
            (None, Method::Watch) => KeyRange::for_watch(bytes(&self.key), bytes(&self.range_end)),
            (None, _) => KeyRange::of(bytes(&self.key), bytes(&self.range_end)),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self.method {
            Method::Range | Method::RangeStream => classify::range(&self.range_request()),
            Method::Put => classify::put(&self.put_request()),
            Method::DeleteRange => classify::delete_range(&self.delete_range_request()),
            Method::Txn => classify::txn(&self.txn_request()),
            Method::Watch => Kind::of(Shape::Watch),
        }
    }

    /// Who calls: a client without a certificate goes by its address.
    pub(super) fn caller(&self) -> Client {
        let address = self.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let name = self.client.clone().unwrap_or_else(|| address.to_string());
        Client { name: name.into(), address }
    }

    /// The call as protections see it.
    pub(super) fn subject(&self) -> Subject {
        let Kind { shape, class } = self.kind();
        let keys = match self.method {
            Method::Txn => txn::keys(&self.txn_request()).next(),
            _ => Some(self.keys()),
        };
        let subject = Subject {
            method: Some(self.method.of_etcd()),
            shape,
            class,
            place: keys.as_ref().map(Place::of).unwrap_or_default(),
            keys,
            others: Vec::new(),
            client: Arc::new(self.caller()),
            value_size: 0,
        };
        match self.method {
            Method::Txn => subject.with_others(txn::keys(&self.txn_request())),
            _ => subject,
        }
    }

    /// What its client has to be let do.
    pub(super) fn needs(&self) -> Vec<Need> {
        match self.method {
            Method::Range | Method::RangeStream => vec![access::of_range(&self.range_request())],
            Method::Put => access::of_put(&self.put_request()).collect(),
            Method::DeleteRange => access::of_delete(&self.delete_range_request()).collect(),
            Method::Txn => access::of_txn(&self.txn_request()),
            Method::Watch => vec![Need::with(Verb::Watch, self.keys())],
        }
    }

    /// Whether it deletes ranges rather than single keys.
    pub(super) fn deletes_ranges(&self) -> bool {
        match self.method {
            Method::DeleteRange => self.keys().as_single().is_none(),
            Method::Txn => txn::deleted_ranges(&self.txn_request()).next().is_some(),
            _ => false,
        }
    }

    /// What a client would be refused for, here and inside.
    pub(super) fn wrong(&self) -> Option<String> {
        let name = self.method.as_str();
        let has_key = self.prefix.is_some() || !self.key.is_empty();
        let parts = || self.compare.iter().chain(&self.success).chain(&self.failure);
        match self.method {
            _ if self.prefix.is_some() && !(self.key.is_empty() && self.range_end.is_empty()) => {
                Some(format!("a {name} has either a prefix or a key with its range_end"))
            }
            Method::Txn if has_key => {
                Some("a txn has its keys in compare, success and failure".into())
            }
            Method::Txn => parts().find_map(|part| match part.method {
                Method::Watch | Method::RangeStream => {
                    Some(format!("a txn cannot hold a {}", part.method.as_str()))
                }
                _ if part.client.is_some() || part.address.is_some() => {
                    Some("client and address are said of a whole txn".into())
                }
                _ => part.wrong(),
            }),
            _ if parts().next().is_some() => {
                Some(format!("a {name} has no compare, success or failure"))
            }
            Method::Put if self.prefix.is_some() || !self.range_end.is_empty() => {
                Some("a put has one key".into())
            }
            Method::Watch => None,
            _ => (!has_key).then(|| format!("a {name} has a key or a prefix")),
        }
    }

    pub(super) fn txn_request(&self) -> TxnRequest {
        let ops = |requests: &[Self]| requests.iter().map(Self::op).collect();
        TxnRequest {
            compare: self.compare.iter().map(Self::compare).collect(),
            success: ops(&self.success),
            failure: ops(&self.failure),
        }
    }

    fn op(&self) -> RequestOp {
        let request = match self.method {
            Method::Put => request_op::Request::RequestPut(self.put_request()),
            Method::DeleteRange => {
                request_op::Request::RequestDeleteRange(self.delete_range_request())
            }
            Method::Txn => request_op::Request::RequestTxn(self.txn_request()),
            _ => request_op::Request::RequestRange(self.range_request()),
        };
        RequestOp { request: Some(request) }
    }

    fn compare(&self) -> Compare {
        let keys = self.keys();
        let by_revision = Compare {
            target: compare::CompareTarget::Mod.into(),
            target_union: self.mod_revision.map(compare::TargetUnion::ModRevision),
            ..Compare::default()
        };
        let compare = if self.mod_revision.is_some() { by_revision } else { Compare::default() };
        Compare { range_end: keys.range_end(), key: keys.start, ..compare }
    }

    fn put_request(&self) -> PutRequest {
        PutRequest { key: self.keys().start, ..PutRequest::default() }
    }

    fn delete_range_request(&self) -> DeleteRangeRequest {
        let keys = self.keys();
        DeleteRangeRequest { range_end: keys.range_end(), key: keys.start, ..Default::default() }
    }

    fn range_request(&self) -> RangeRequest {
        let keys = self.keys();
        RangeRequest {
            range_end: keys.range_end(),
            key: keys.start,
            limit: self.limit,
            revision: self.revision,
            count_only: self.count_only,
            keys_only: self.keys_only,
            sort_order: match self.sort_order {
                SortOrder::None => range_request::SortOrder::None,
                SortOrder::Ascend => range_request::SortOrder::Ascend,
                SortOrder::Descend => range_request::SortOrder::Descend,
            }
            .into(),
            ..RangeRequest::default()
        }
    }
}

impl Method {
    fn of_etcd(self) -> method::Method {
        match self {
            Self::Range => method::Method::Range,
            Self::RangeStream => method::Method::RangeStream,
            Self::Put => method::Method::Put,
            Self::DeleteRange => method::Method::DeleteRange,
            Self::Txn => method::Method::Txn,
            Self::Watch => method::Method::Watch,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::RangeStream => "range_stream",
            Self::Put => "put",
            Self::DeleteRange => "delete_range",
            Self::Txn => "txn",
            Self::Watch => "watch",
        }
    }
}
