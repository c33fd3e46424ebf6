//! A client that makes one call after the other, and writes all of them down.

use crate::{
    client::{Client, Status},
    history::{Answer, Call, Change, Header, Kv, Owner, Recorder, Request, Via},
    map::Map,
};
use anyhow::{Context, Result};
use bytes::Bytes;
use prost::Message;
use seawall::etcd::{
    method::Method,
    proto::etcdserverpb::{
        CompactionRequest, CompactionResponse, Compare, DeleteRangeRequest, LeaseGrantRequest,
        LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
        LeaseRevokeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
        ResponseHeader, TxnRequest, TxnResponse, compare, request_op, response_op,
    },
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::timeout;
use tonic::Code;

/// A client gives a call up after this long.
const CALL_MAX: Duration = Duration::from_millis(700);

pub(crate) struct Caller {
    pub(crate) client: usize,
    pub(crate) via: Via,
    pub(crate) map: Arc<Map>,
    pub(crate) recorder: Arc<Recorder>,
    /// By the cluster that is meant. Given up when a call fails on it.
    connections: HashMap<Owner, Client>,
    /// Members are tried in turn.
    attempts: usize,
}

impl Caller {
    pub(crate) fn new(client: usize, via: Via, map: &Arc<Map>, recorder: &Arc<Recorder>) -> Self {
        let (map, recorder) = (Arc::clone(map), Arc::clone(recorder));
        Self { client, via, map, recorder, connections: HashMap::new(), attempts: client }
    }

    /// Asks, writes down what came of it, and tells the answer if there is one.
    pub(crate) async fn call(&mut self, request: Request) -> Option<Answer> {
        let owner = request.owner();
        let start = self.recorder.now();
        let asked = timeout(CALL_MAX, self.ask(owner, &request)).await;
        let end = self.recorder.now();
        let answer = match asked {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(status))) => Err(status),
            Ok(Err(error)) => Err(self.give_up(owner, &format!("{error:#}"))),
            Err(_) => Err(self.give_up(owner, "no answer in time")),
        };
        let answered = answer.as_ref().ok().cloned();
        let (client, via) = (self.client, self.via);
        self.recorder.call(Call { client, via, owner, start, end, request, answer });
        answered
    }

    /// The next call is made on another connection.
    fn give_up(&mut self, owner: Owner, why: &str) -> String {
        self.connections.remove(&owner);
        self.attempts += 1;
        why.to_owned()
    }

    async fn ask(&mut self, owner: Owner, request: &Request) -> Result<Result<Answer, String>> {
        if !self.connections.contains_key(&owner) {
            let connected = self.map.connect(self.via, owner, self.attempts).await?;
            self.connections.insert(owner, connected);
        }
        let client = self.connections.get(&owner).context("it was just made")?;
        let (method, message) = encode(request);
        if method == Method::LeaseKeepAlive {
            let mut call = client.call(method.path(), &[]).await?;
            call.send(&message)?;
            return match call.message().await? {
                Some(answer) => decode(request, answer).map(Ok),
                None => Ok(Err(call.status().await?.to_string())),
            };
        }
        let reply = client.unary(method.path(), &[], &message).await?;
        match reply.status {
            Status::Grpc { code: Code::Ok, .. } => {
                let message = reply.messages.into_iter().next().context("no message")?;
                decode(request, message).map(Ok)
            }
            status => Ok(Err(status.to_string())),
        }
    }
}

impl Request {
    /// The cluster that has to answer.
    fn owner(&self) -> Owner {
        match self {
            Self::Range { range, .. } => Owner::of(&range.key),
            Self::Write { key, .. } | Self::Swap { key, .. } => Owner::of(key),
            Self::WriteAll { changes } => {
                changes.first().map_or(Owner::Main, |(key, _)| Owner::of(key))
            }
            Self::Compact { .. }
            | Self::Grant { .. }
            | Self::KeepAlive { .. }
            | Self::Revoke { .. } => Owner::Main,
        }
    }
}

fn encode(request: &Request) -> (Method, Vec<u8>) {
    match request {
        Request::Range { range, revision, serializable, limit, count_only } => {
            let range = RangeRequest {
                range_end: range.end.clone().into(),
                revision: *revision,
                serializable: *serializable,
                limit: *limit,
                count_only: *count_only,
                ..point(&range.key)
            };
            (Method::Range, range.encode_to_vec())
        }
        Request::Write { key, change: Change::Put { value, lease } } => {
            (Method::Put, put(key, value, *lease).encode_to_vec())
        }
        Request::Write { key, change: Change::Delete } => {
            (Method::DeleteRange, delete(key).encode_to_vec())
        }
        Request::WriteAll { changes } => {
            let success = changes.iter().map(|(key, change)| op(key, change)).collect();
            (Method::Txn, TxnRequest { success, ..TxnRequest::default() }.encode_to_vec())
        }
        Request::Swap { key, expected, change } => (Method::Txn, swap(key, *expected, change)),
        Request::Compact { revision } => {
            let request = CompactionRequest { revision: *revision, ..CompactionRequest::default() };
            (Method::Compact, request.encode_to_vec())
        }
        Request::Grant { ttl } => {
            (Method::LeaseGrant, LeaseGrantRequest { ttl: *ttl, id: 0 }.encode_to_vec())
        }
        Request::KeepAlive { lease } => {
            (Method::LeaseKeepAlive, LeaseKeepAliveRequest { id: *lease }.encode_to_vec())
        }
        Request::Revoke { lease } => {
            (Method::LeaseRevoke, LeaseRevokeRequest { id: *lease }.encode_to_vec())
        }
    }
}

fn decode(request: &Request, message: Bytes) -> Result<Answer> {
    let written = |of: Option<ResponseHeader>| Answer::Written { header: header(of) };
    Ok(match request {
        Request::Range { .. } => {
            let RangeResponse { header: of, kvs, more, count } = RangeResponse::decode(message)?;
            Answer::Range { header: header(of), kvs: kvs.iter().map(Kv::of).collect(), count, more }
        }
        // Of both, the header is the first field, and nothing else is looked at.
        Request::Write { .. } => written(PutResponse::decode(message)?.header),
        Request::WriteAll { .. } => written(TxnResponse::decode(message)?.header),
        Request::Compact { .. } => written(CompactionResponse::decode(message)?.header),
        Request::Swap { .. } => {
            let TxnResponse { header: of, succeeded, responses } = TxnResponse::decode(message)?;
            let current = responses.into_iter().find_map(|op| match op.response? {
                response_op::Response::ResponseRange(range) => range.kvs.first().map(Kv::of),
                _ => None,
            });
            Answer::Swapped { header: header(of), succeeded, current }
        }
        Request::Grant { .. } => {
            let granted = LeaseGrantResponse::decode(message)?;
            Answer::Lease { header: header(granted.header), lease: granted.id, ttl: granted.ttl }
        }
        Request::KeepAlive { .. } => {
            let kept = LeaseKeepAliveResponse::decode(message)?;
            Answer::Lease { header: header(kept.header), lease: kept.id, ttl: kept.ttl }
        }
        Request::Revoke { .. } => written(LeaseRevokeResponse::decode(message)?.header),
    })
}

pub(crate) fn header(header: Option<ResponseHeader>) -> Header {
    let ResponseHeader { cluster_id, revision, .. } = header.unwrap_or_default();
    Header { cluster_id, revision }
}

fn point(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() }
}

fn put(key: &str, value: &str, lease: i64) -> PutRequest {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    PutRequest { key, value, lease, ..PutRequest::default() }
}

fn delete(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.to_owned().into(), ..DeleteRangeRequest::default() }
}

fn op(key: &str, change: &Change) -> RequestOp {
    let request = match change {
        Change::Put { value, lease } => request_op::Request::RequestPut(put(key, value, *lease)),
        Change::Delete => request_op::Request::RequestDeleteRange(delete(key)),
    };
    RequestOp { request: Some(request) }
}

/// As kube-apiserver writes.
fn swap(key: &str, expected: i64, change: &Change) -> Vec<u8> {
    let unchanged = Compare {
        key: key.to_owned().into(),
        target: compare::CompareTarget::Mod.into(),
        result: compare::CompareResult::Equal.into(),
        target_union: Some(compare::TargetUnion::ModRevision(expected)),
        ..Compare::default()
    };
    let read = RequestOp { request: Some(request_op::Request::RequestRange(point(key))) };
    let txn = TxnRequest {
        compare: vec![unchanged],
        success: vec![op(key, change)],
        failure: vec![read],
    };
    txn.encode_to_vec()
}
