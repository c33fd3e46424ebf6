use super::*;
use crate::client::etcd::{KeyValue, PutResponse, RangeResponse, ResponseHeader, ResponseOp};

fn succeeded(revision: i64) -> TxnResponse {
    let put = ResponseOp { response_put: Some(PutResponse::default()), ..ResponseOp::default() };
    TxnResponse { header: Some(ResponseHeader { revision }), succeeded: true, responses: vec![put] }
}

fn failed(mod_revision: i64) -> TxnResponse {
    let kv = KeyValue { mod_revision, ..KeyValue::default() };
    let range = RangeResponse { kvs: vec![kv], ..RangeResponse::default() };
    let range = ResponseOp { response_range: Some(range), ..ResponseOp::default() };
    TxnResponse { succeeded: false, responses: vec![range], ..succeeded(mod_revision) }
}

fn key() -> Object {
    Object { key: "k".into(), mod_revision: 5, in_doubt: false }
}

#[test]
fn an_update_that_was_lost_may_have_happened_once() {
    let mut key = Object { in_doubt: true, ..key() };
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
