//! Whether reads are linearizable: one writer counts, and every read must show what was acknowledged
//! before it began.

use super::Ground;
use crate::{
    client::{
        Connection, Failure,
        etcd::{
            self, Compare, KeyValue, PutRequest, RangeRequest, RangeResponse, RequestOp,
            TxnRequest, TxnResponse,
        },
    },
    data::{DataSet, Resource},
    measure::Operation,
};
use anyhow::Context;
use bytes::Bytes;
use std::{mem, sync::Arc};

/// The state of the store as one answer shows it, or as it must at least be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) revision: i64,
    pub(super) count: u64,
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
pub(super) fn keys(data: &DataSet, resource: Resource) -> [Bytes; 2] {
    ["!", "~"].map(|end| format!("{}{end}counter", data.prefix(resource)).into())
}

impl Ground {
    /// Writes the two keys, so that every list holds them.
    pub(super) async fn prepare_counter(
        &self,
        connection: &Connection,
        resource: Resource,
    ) -> anyhow::Result<()> {
        let put = |key| RequestOp::put(PutRequest { key, value: count(0), lease: 0 });
        let success = keys(&self.data, resource).map(put).to_vec();
        let request = TxnRequest { success, ..TxnRequest::default() };
        let answer: Result<TxnResponse, _> = connection.unary(etcd::TXN, &request).await;
        answer.map(drop).context("preparing to count")
    }
}

fn count(count: u64) -> Bytes {
    format!("{count:020}").into()
}

/// Counts, and only ever acknowledges what etcd did.
pub(crate) struct Counter {
    ground: Arc<Ground>,
    resource: Resource,
    keys: [Bytes; 2],
    count: u64,
    /// None until it was asked for.
    mod_revision: Option<i64>,
    /// Whether a write was lost, so that it may have happened.
    in_doubt: bool,
}

impl Counter {
    pub(super) fn new(ground: Arc<Ground>, resource: Resource) -> Self {
        let keys = keys(&ground.data, resource);
        Self { ground, resource, keys, count: 0, mod_revision: None, in_doubt: false }
    }

    /// Goes on from what is there.
    async fn begin(&mut self, connection: &Connection) -> Result<i64, Failure> {
        let request = RangeRequest::of_key(self.keys[0].clone());
        let answer: RangeResponse = connection.unary(etcd::RANGE, &request).await?;
        self.learn(&answer)
    }

    /// Compares, so that a write that was lost cannot come later and set the count back.
    fn request(&self, mod_revision: i64) -> TxnRequest {
        let put = |key: &Bytes| {
            RequestOp::put(PutRequest { key: key.clone(), value: count(self.count), lease: 0 })
        };
        let first = self.keys[0].clone();
        TxnRequest {
            compare: vec![Compare::mod_revision_is(first.clone(), mod_revision)],
            success: self.keys.iter().map(put).collect(),
            failure: vec![RequestOp::range(RangeRequest::of_key(first))],
        }
    }

    fn check(&mut self, answer: &TxnResponse, mod_revision: i64) -> Result<(), Failure> {
        let in_doubt = mem::take(&mut self.in_doubt);
        let revision = etcd::revision(answer.header.as_ref());
        if answer.succeeded {
            if revision <= mod_revision {
                return Err(Failure::Wrong("a revision that does not grow"));
            }
            self.mod_revision = Some(revision);
            self.ground.raise(self.resource, Seen { revision, count: self.count });
            return Ok(());
        }
        let range = answer.responses.first().and_then(|each| each.response_range.as_ref());
        self.learn(range.ok_or(Failure::Wrong("no range response"))?)?;
        if in_doubt {
            return Ok(());
        }
        Err(Failure::Wrong("a failed compare although nobody else writes"))
    }

    fn learn(&mut self, answer: &RangeResponse) -> Result<i64, Failure> {
        let mod_revision = answer.kvs.first().map_or(0, |kv| kv.mod_revision);
        let seen = Seen::in_answer(mod_revision, &answer.kvs)?;
        self.count = self.count.max(seen.count);
        self.ground.raise(self.resource, seen);
        Ok(*self.mod_revision.insert(mod_revision))
    }
}

impl Operation for Counter {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let mod_revision = match self.mod_revision {
            Some(known) => known,
            None => self.begin(connection).await?,
        };
        self.count += 1;
        let request = self.request(mod_revision);
        // Until there is an answer, and also if nobody waits for it any more.
        let in_doubt = mem::replace(&mut self.in_doubt, true);
        let answer = self.ground.txn(connection, &request).await?;
        self.in_doubt = in_doubt;
        self.check(&answer, mod_revision)?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::etcd::{ResponseHeader, ResponseOp},
        data::Amount,
        operation::Whole,
    };

    const PODS: Resource = Resource::Pods;

    fn counter(mod_revision: i64, count: u64) -> KeyValue {
        let value = format!("{count:020}").into();
        KeyValue { key: "/registry/pods/!counter".into(), mod_revision, value }
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

    fn counting() -> Counter {
        let amount = Amount { count: 2, bytes: None };
        let data = DataSet::new("/registry", 1, [(PODS, amount)].into());
        let ground = Ground::new(Arc::new(data), 1).with_whole(PODS, Whole::default());
        Counter { count: 5, mod_revision: Some(80), ..Counter::new(Arc::new(ground), PODS) }
    }

    fn succeeded(revision: i64) -> TxnResponse {
        let header = Some(ResponseHeader { revision });
        TxnResponse { header, succeeded: true, responses: Vec::new() }
    }

    fn failed(mod_revision: i64, count: u64) -> TxnResponse {
        let range =
            RangeResponse { kvs: vec![counter(mod_revision, count)], ..RangeResponse::default() };
        let range = ResponseOp { response_range: Some(range), ..ResponseOp::default() };
        TxnResponse { succeeded: false, responses: vec![range], ..succeeded(mod_revision) }
    }

    #[test]
    fn only_what_etcd_acknowledged_is_the_floor() {
        let mut counter = counting();
        assert_eq!(counter.ground.floor(Some(PODS)), Seen::default());
        assert_eq!(counter.check(&succeeded(81), 80), Ok(()));
        assert_eq!(counter.ground.floor(Some(PODS)), Seen { revision: 81, count: 5 });
    }

    #[test]
    fn a_lost_write_may_have_happened_and_one_that_was_answered_may_not() {
        let mut counter = Counter { in_doubt: true, ..counting() };
        assert_eq!(counter.check(&failed(81, 4), 80), Ok(()));
        assert_eq!((counter.count, counter.mod_revision), (5, Some(81)));
        assert!(counter.check(&failed(82, 5), 81).is_err());
    }
}
