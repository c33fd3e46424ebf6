//! Requests as people write them down.

use crate::{
    admission::classify::{self, Class},
    config::{self, read_shape},
    etcd::{
        key_range::KeyRange,
        proto::etcdserverpb::{
            Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
            range_request, request_op,
        },
    },
};
use bytes::Bytes;
use serde::Deserialize;
use std::path::Path;

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

    pub(super) fn class(&self) -> Class {
        match self.method {
            Method::Range | Method::RangeStream => classify::range(&self.range_request()).class,
            Method::Put => classify::put(&self.put_request()).class,
            Method::DeleteRange => classify::delete_range(&self.delete_range_request()).class,
            Method::Txn => classify::txn(&self.txn_request()).class,
            Method::Watch => Class::Watch,
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
        Compare { range_end: keys.range_end(), key: keys.start, ..Compare::default() }
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
