use super::Operation;
use crate::client::{
    Connection, Failure,
    etcd::{self, RangeRequest, RangeResponse},
};
use bytes::Bytes;

pub(super) const KEYS: usize = 10_000;
pub(super) const VALUE_BYTES: usize = 2 << 10;

pub(super) fn key(index: usize) -> Bytes {
    format!("/registry/pods/namespace-{:03}/pod-{index:05}", index % 100).into()
}

/// Reads one key after the other, in an order that no cache line or page likes.
#[derive(Debug)]
pub(super) struct Get {
    next: usize,
    revision: i64,
}

/// Shares no factor with the number of keys, so that all are visited.
const STRIDE: usize = 7919;

impl Get {
    pub(super) fn new(index: usize) -> Self {
        Self { next: index * 313 % KEYS, revision: 0 }
    }

    fn check(&mut self, key: &Bytes, answer: &RangeResponse) -> Result<u64, Failure> {
        let revision = etcd::revision(answer.header.as_ref());
        if revision < self.revision.max(1) {
            return Err(Failure::Wrong("a revision that goes back"));
        }
        self.revision = revision;
        match answer.kvs.as_slice() {
            [kv] if kv.key == key && kv.value.len() == VALUE_BYTES && answer.count == 1 => {
                Ok(kv.value.len() as u64)
            }
            _ => Err(Failure::Wrong("not the key that was asked for")),
        }
    }
}

impl Operation for Get {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let key = key(self.next);
        self.next = (self.next + STRIDE) % KEYS;
        let request = RangeRequest { key: key.clone(), range_end: Bytes::new() };
        let answer = connection.unary(etcd::RANGE, &request).await?;
        self.check(&key, &answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::etcd::{KeyValue, ResponseHeader};

    fn answer(revision: i64, key: &Bytes) -> RangeResponse {
        let value = vec![0; VALUE_BYTES].into();
        RangeResponse {
            header: Some(ResponseHeader { revision }),
            kvs: vec![KeyValue { key: key.clone(), mod_revision: 2, value }],
            more: false,
            count: 1,
        }
    }

    #[test]
    fn every_key_is_asked_for() {
        let mut seen = vec![false; KEYS];
        (0..KEYS).for_each(|n| seen[n * STRIDE % KEYS] = true);
        assert!(seen.into_iter().all(|seen| seen));
    }

    #[test]
    fn only_the_key_asked_for_is_right() {
        let (asked, other) = (key(7), key(8));
        let check = |answer| Get::new(0).check(&asked, &answer);
        assert_eq!(check(answer(9, &asked)), Ok(VALUE_BYTES as u64));
        let wrong = Err(Failure::Wrong("not the key that was asked for"));
        assert_eq!(check(answer(9, &other)), wrong);
        assert_eq!(check(RangeResponse { kvs: Vec::new(), ..answer(9, &asked) }), wrong);
        assert_eq!(check(RangeResponse { count: 2, ..answer(9, &asked) }), wrong);
    }

    #[test]
    fn a_revision_never_goes_back() {
        let (key, mut get) = (key(7), Get::new(0));
        let mut check = |revision| get.check(&key, &answer(revision, &key));
        assert!(check(9).is_ok());
        assert!(check(9).is_ok());
        assert_eq!(check(8), Err(Failure::Wrong("a revision that goes back")));
        assert_eq!(Get::new(0).check(&key, &answer(0, &key)), check(0));
    }
}
