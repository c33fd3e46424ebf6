//! Whether reads are linearizable: one writer counts, and every read must show what was acknowledged
//! before it began.

use crate::{
    client::{
        Connection, Failure,
        etcd::{
            self, Compare, KeyValue, PutRequest, RangeRequest, RangeResponse, RequestOp,
            TxnRequest, TxnResponse,
        },
    },
    measure::Operation,
    workload::Objects,
};
use bytes::Bytes;
use std::{
    mem,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
};

/// The state of the store as one answer shows it, or as it must at least be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) revision: i64,
    pub(super) count: u64,
}

/// What every read that begins now must show. It only grows: by each write that was acknowledged,
/// and by each read, since those that follow must not go back behind it.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    revision: AtomicI64,
    count: AtomicU64,
}

impl Acknowledged {
    /// To be called before the read is sent.
    pub(super) fn floor(&self) -> Seen {
        Seen {
            revision: self.revision.load(Ordering::SeqCst),
            count: self.count.load(Ordering::SeqCst),
        }
    }

    pub(super) fn raise(&self, seen: Seen) {
        self.revision.fetch_max(seen.revision, Ordering::SeqCst);
        self.count.fetch_max(seen.count, Ordering::SeqCst);
    }
}

impl Seen {
    /// From the key-values of an answer that hold the count: one, or both.
    pub(super) fn in_answer(revision: i64, counters: &[KeyValue]) -> Result<Self, Failure> {
        let (first, others) = counters.split_first().ok_or(Failure::Wrong("no counter"))?;
        let same = |other: &KeyValue| {
            (&other.value, other.mod_revision) == (&first.value, first.mod_revision)
        };
        if !others.iter().all(same) {
            return Err(Failure::Stale("what one transaction wrote, half of it"));
        }
        if first.mod_revision > revision {
            return Err(Failure::Stale("a key of a later revision than the answer"));
        }
        let count = std::str::from_utf8(&first.value).ok().and_then(|text| text.parse().ok());
        Ok(Self { revision, count: count.ok_or(Failure::Wrong("a counter that is no number"))? })
    }

    pub(super) fn is_at_least(&self, floor: Self) -> Result<(), Failure> {
        if self.revision < floor.revision {
            return Err(Failure::Stale("a revision before one that was acknowledged"));
        }
        if self.count < floor.count {
            return Err(Failure::Stale("not the write that was acknowledged"));
        }
        Ok(())
    }
}

/// The first and the last key of the objects, which one transaction writes: an answer put together
/// from several states of the store shows two counts.
pub(super) fn keys(objects: Objects) -> [Bytes; 2] {
    ["aaa", "zzz"].map(|namespace| format!("{}{namespace}/counter", objects.prefix()).into())
}

/// Counts, and only ever acknowledges what etcd did.
#[derive(Debug)]
pub(super) struct Writer {
    keys: [Bytes; 2],
    count: u64,
    mod_revision: i64,
    /// Whether a write was lost, so that it may have happened.
    in_doubt: bool,
    acknowledged: std::sync::Arc<Acknowledged>,
}

impl Writer {
    /// Goes on from what is there.
    pub(super) async fn open(
        connection: &Connection,
        objects: Objects,
        acknowledged: std::sync::Arc<Acknowledged>,
    ) -> Result<Self, Failure> {
        let keys = keys(objects);
        let request = RangeRequest::of_key(keys[0].clone());
        let answer: RangeResponse = connection.unary(etcd::RANGE, &request).await?;
        let mut writer = Self { keys, count: 0, mod_revision: 0, in_doubt: false, acknowledged };
        if !answer.kvs.is_empty() {
            writer.learn(&answer)?;
        }
        Ok(writer)
    }

    /// Compares, so that a write that was lost cannot come later and set the count back.
    fn request(&self) -> TxnRequest {
        let value: Bytes = format!("{:020}", self.count).into();
        let put = |key: &Bytes| RequestOp {
            request_put: Some(PutRequest { key: key.clone(), value: value.clone() }),
            request_range: None,
        };
        let range = RangeRequest::of_key(self.keys[0].clone());
        TxnRequest {
            compare: vec![Compare::mod_revision_is(self.keys[0].clone(), self.mod_revision)],
            success: self.keys.iter().map(put).collect(),
            failure: vec![RequestOp { request_put: None, request_range: Some(range) }],
        }
    }

    fn check(&mut self, answer: &TxnResponse) -> Result<(), Failure> {
        let in_doubt = mem::take(&mut self.in_doubt);
        let revision = etcd::revision(answer.header.as_ref());
        if answer.succeeded {
            if revision <= self.mod_revision {
                return Err(Failure::Wrong("a revision that does not grow"));
            }
            self.mod_revision = revision;
            self.acknowledged.raise(Seen { revision, count: self.count });
            return Ok(());
        }
        let range = answer.responses.first().and_then(|each| each.response_range.as_ref());
        self.learn(range.ok_or(Failure::Wrong("no range response"))?)?;
        if in_doubt {
            return Ok(());
        }
        Err(Failure::Wrong("a failed compare although nobody else writes"))
    }

    fn learn(&mut self, answer: &RangeResponse) -> Result<(), Failure> {
        let mod_revision = answer.kvs.first().map_or(0, |kv| kv.mod_revision);
        let seen = Seen::in_answer(mod_revision, &answer.kvs)?;
        (self.mod_revision, self.count) = (mod_revision, self.count.max(seen.count));
        self.acknowledged.raise(seen);
        Ok(())
    }
}

impl Operation for Writer {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        self.count += 1;
        let request = self.request();
        // Until there is an answer, and also if nobody waits for it any more.
        let in_doubt = mem::replace(&mut self.in_doubt, true);
        let answer = connection.unary(etcd::TXN, &request).await?;
        self.in_doubt = in_doubt;
        self.check(&answer)?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::etcd::{ResponseHeader, ResponseOp};
    use std::sync::Arc;

    fn counter(mod_revision: i64, count: u64) -> KeyValue {
        let value = format!("{count:020}").into();
        KeyValue { key: "/registry/pods/aaa/counter".into(), mod_revision, value }
    }

    #[test]
    fn what_only_grows_is_the_floor() {
        let acknowledged = Acknowledged::default();
        acknowledged.raise(Seen { revision: 9, count: 3 });
        acknowledged.raise(Seen { revision: 7, count: 4 });
        assert_eq!(acknowledged.floor(), Seen { revision: 9, count: 4 });
    }

    #[test]
    fn a_stale_answer_is_reported() -> Result<(), Failure> {
        let floor = Seen { revision: 90, count: 12 };
        let check = |revision, count| {
            Seen::in_answer(revision, &[counter(80, count), counter(80, count)])?.is_at_least(floor)
        };
        check(90, 12)?;
        check(95, 13)?;
        let stale = |result: Result<(), Failure>| {
            result.is_err_and(|failure| {
                failure.is_violation() && matches!(failure, Failure::Stale(_))
            })
        };
        assert!(stale(check(89, 12)));
        assert!(stale(check(90, 11)));
        Ok(())
    }

    #[test]
    fn an_answer_of_two_states_is_reported() {
        let torn = Err(Failure::Stale("what one transaction wrote, half of it"));
        assert_eq!(Seen::in_answer(90, &[counter(80, 12), counter(81, 13)]), torn);
        assert_eq!(Seen::in_answer(90, &[counter(80, 12), counter(80, 13)]), torn);
        let late = Err(Failure::Stale("a key of a later revision than the answer"));
        assert_eq!(Seen::in_answer(79, &[counter(80, 12)]), late);
        assert_eq!(Seen::in_answer(90, &[]), Err(Failure::Wrong("no counter")));
    }

    fn writer() -> Writer {
        let acknowledged = Arc::new(Acknowledged::default());
        let keys = keys(Objects::Of2KiB);
        Writer { keys, count: 5, mod_revision: 80, in_doubt: false, acknowledged }
    }

    fn succeeded(revision: i64) -> TxnResponse {
        let header = Some(ResponseHeader { revision });
        TxnResponse { header, succeeded: true, responses: Vec::new() }
    }

    fn failed(mod_revision: i64, count: u64) -> TxnResponse {
        let range =
            RangeResponse { kvs: vec![counter(mod_revision, count)], ..RangeResponse::default() };
        let range = ResponseOp { response_range: Some(range), response_put: None };
        TxnResponse { succeeded: false, responses: vec![range], ..succeeded(mod_revision) }
    }

    #[test]
    fn only_what_etcd_acknowledged_is_the_floor() {
        let mut writer = writer();
        assert_eq!(writer.acknowledged.floor(), Seen::default());
        assert_eq!(writer.check(&succeeded(81)), Ok(()));
        assert_eq!(writer.acknowledged.floor(), Seen { revision: 81, count: 5 });
    }

    #[test]
    fn a_lost_write_may_have_happened_and_one_that_was_answered_may_not() {
        let mut writer = Writer { in_doubt: true, ..writer() };
        assert_eq!(writer.check(&failed(81, 4)), Ok(()));
        assert_eq!((writer.count, writer.mod_revision), (5, 81));
        assert!(writer.check(&failed(82, 5)).is_err());
    }
}
