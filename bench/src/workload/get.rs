use super::{Objects, Operation};
use crate::client::{
    Connection, Failure,
    etcd::{self, RangeRequest, RangeResponse},
};
use bytes::Bytes;

pub(super) const OBJECTS: Objects = Objects::Of2KiB;
const KEYS: usize = Objects::KEYS;

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
            [kv] if kv.key == key
                && kv.value.len() == OBJECTS.value_bytes()
                && answer.count == 1 =>
            {
                Ok(kv.value.len() as u64)
            }
            _ => Err(Failure::Wrong("not the key that was asked for")),
        }
    }
}

impl Operation for Get {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let key = OBJECTS.key(self.next);
        self.next = (self.next + STRIDE) % KEYS;
        let request = RangeRequest::of_key(key.clone());
        let answer = connection.unary(etcd::RANGE, &request).await?;
        self.check(&key, &answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::etcd::{KeyValue, ResponseHeader};

    fn answer(revision: i64, key: &Bytes) -> RangeResponse {
        let value = vec![0; OBJECTS.value_bytes()].into();
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
        let (asked, other) = (OBJECTS.key(7), OBJECTS.key(8));
        let check = |answer| Get::new(0).check(&asked, &answer);
        assert_eq!(check(answer(9, &asked)), Ok(OBJECTS.value_bytes() as u64));
        let wrong = Err(Failure::Wrong("not the key that was asked for"));
        assert_eq!(check(answer(9, &other)), wrong);
        assert_eq!(check(RangeResponse { kvs: Vec::new(), ..answer(9, &asked) }), wrong);
        assert_eq!(check(RangeResponse { count: 2, ..answer(9, &asked) }), wrong);
    }

    #[test]
    fn a_revision_never_goes_back() {
        let (key, mut get) = (OBJECTS.key(7), Get::new(0));
        let mut check = |revision| get.check(&key, &answer(revision, &key));
        assert!(check(9).is_ok());
        assert!(check(9).is_ok());
        assert_eq!(check(8), Err(Failure::Wrong("a revision that goes back")));
        assert_eq!(Get::new(0).check(&key, &answer(0, &key)), check(0));
    }
}
