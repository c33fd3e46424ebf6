use super::{Operation, data};
use crate::client::{
    Connection, Failure,
    etcd::{
        self, Compare, PutRequest, PutResponse, RangeRequest, RequestOp, TxnRequest, TxnResponse,
    },
};
use anyhow::{Context, Result};
use bytes::Bytes;

/// Updates a few keys of its own as kube-apiserver does: put if nobody changed it, else read it.
#[derive(Debug)]
pub(crate) struct Update {
    keys: Vec<Key>,
    next: usize,
    value: Bytes,
}

#[derive(Debug)]
struct Key {
    name: Bytes,
    mod_revision: i64,
    /// Whether an update was lost, so that it may have happened.
    in_doubt: bool,
}

const KEYS_PER_LOOP: usize = 8;
const VALUE_BYTES: usize = 1 << 10;

impl Update {
    pub(super) fn new(index: usize) -> Self {
        let name = |n| format!("/registry/leases/kube-node-lease/node-{index:05}-{n}");
        Self::of((0..KEYS_PER_LOOP).map(name))
    }

    pub(crate) fn of(names: impl IntoIterator<Item = String>) -> Self {
        let key = |name: String| Key { name: name.into(), mod_revision: 0, in_doubt: false };
        let keys = names.into_iter().map(key).collect();
        Self { keys, next: 0, value: data::value(VALUE_BYTES) }
    }

    /// Writes the keys, so that their revisions are known.
    pub(crate) async fn create(&mut self, connection: &Connection) -> Result<()> {
        for key in &mut self.keys {
            let put = PutRequest { key: key.name.clone(), value: self.value.clone() };
            let answer: PutResponse =
                connection.unary(etcd::PUT, &put).await.context("creating keys to update")?;
            key.mod_revision = etcd::revision(answer.header.as_ref());
        }
        Ok(())
    }
}

impl Operation for Update {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let index = self.next;
        self.next = (index + 1) % self.keys.len();
        let key = &mut self.keys[index];
        let request = key.update(self.value.clone());
        // Until there is an answer, and also if nobody waits for it any more.
        let in_doubt = std::mem::replace(&mut key.in_doubt, true);
        let answer: TxnResponse = connection.unary(etcd::TXN, &request).await?;
        key.in_doubt = in_doubt;
        key.check(&answer)?;
        Ok(self.value.len() as u64)
    }
}

impl Key {
    fn update(&self, value: Bytes) -> TxnRequest {
        let put = PutRequest { key: self.name.clone(), value };
        let range = RangeRequest::of_key(self.name.clone());
        TxnRequest {
            compare: vec![Compare::mod_revision_is(self.name.clone(), self.mod_revision)],
            success: vec![RequestOp { request_put: Some(put), request_range: None }],
            failure: vec![RequestOp { request_put: None, request_range: Some(range) }],
        }
    }

    fn check(&mut self, answer: &TxnResponse) -> Result<(), Failure> {
        let [response] = answer.responses.as_slice() else {
            return Err(Failure::Wrong("not one response for one request"));
        };
        if !answer.succeeded {
            // An update whose outcome was lost may have happened; this is where it stands now.
            let kv = response.response_range.as_ref().and_then(|range| range.kvs.first());
            self.mod_revision = kv.map_or(0, |kv| kv.mod_revision);
            if std::mem::take(&mut self.in_doubt) {
                return Ok(());
            }
            return Err(Failure::Wrong("a failed compare although nobody else writes"));
        }
        let revision = etcd::revision(answer.header.as_ref());
        if revision <= self.mod_revision {
            return Err(Failure::Wrong("a revision that does not grow"));
        }
        self.mod_revision = revision;
        self.in_doubt = false;
        response.response_put.as_ref().map(drop).ok_or(Failure::Wrong("no put response"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::etcd::{KeyValue, RangeResponse, ResponseHeader, ResponseOp};

    fn succeeded(revision: i64) -> TxnResponse {
        let put = ResponseOp { response_put: Some(PutResponse::default()), response_range: None };
        TxnResponse {
            header: Some(ResponseHeader { revision }),
            succeeded: true,
            responses: vec![put],
        }
    }

    fn failed(mod_revision: i64) -> TxnResponse {
        let kv = KeyValue { mod_revision, ..KeyValue::default() };
        let range = RangeResponse { kvs: vec![kv], ..RangeResponse::default() };
        let range = ResponseOp { response_range: Some(range), response_put: None };
        TxnResponse { succeeded: false, responses: vec![range], ..succeeded(mod_revision) }
    }

    fn key() -> Key {
        Key { name: "k".into(), mod_revision: 5, in_doubt: false }
    }

    #[test]
    fn an_update_that_was_lost_may_have_happened_once() {
        let mut key = Key { in_doubt: true, ..key() };
        assert_eq!(key.check(&failed(12)), Ok(()));
        assert!(key.check(&failed(13)).is_err());
    }

    #[test]
    fn the_next_update_compares_with_the_last() {
        let mut key = key();
        assert_eq!(key.check(&succeeded(9)), Ok(()));
        assert_eq!(key.update("v".into()).compare[0].mod_revision, Some(9));
        assert_eq!(key.check(&succeeded(9)), Err(Failure::Wrong("a revision that does not grow")));
    }

    #[test]
    fn a_failed_update_counts_as_wrong_and_learns_the_revision() {
        let mut key = key();
        assert!(key.check(&failed(12)).is_err());
        assert_eq!(key.check(&succeeded(13)), Ok(()));
    }

    #[test]
    fn an_answer_needs_one_put_response() {
        let mut key = key();
        let none = TxnResponse { responses: Vec::new(), ..succeeded(9) };
        assert_eq!(key.check(&none), Err(Failure::Wrong("not one response for one request")));
        let other = TxnResponse { succeeded: true, ..failed(9) };
        assert_eq!(key.check(&other), Err(Failure::Wrong("no put response")));
    }
}
