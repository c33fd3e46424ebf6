use super::{
    counter::{self, Acknowledged, Seen},
    experiment::Keys,
};
use crate::{
    client::{
        Connection, Failure, Listed, RangeScan,
        etcd::{self, RangeRequest},
    },
    measure::Operation,
    workload::Objects,
};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// What a whole list of some objects is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    pub(super) objects: Objects,
    /// Length of all objects, which nobody changes; the counters are not among them.
    pub(super) kvs_bytes: u64,
    pub(super) message_bytes: u64,
}

/// Lists all objects without a limit, again and again.
#[derive(Debug)]
pub(super) struct Lister {
    request: RangeRequest,
    whole: Whole,
    acknowledged: Arc<Acknowledged>,
}

/// Whoever was refused does not ask again at once.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

impl Lister {
    pub(super) fn new(
        whole: Whole,
        keys: Keys,
        index: usize,
        acknowledged: Arc<Acknowledged>,
    ) -> Self {
        Self { request: request(whole.objects, keys, index), whole, acknowledged }
    }

    /// Asks etcd itself what the objects are, once they are all there.
    pub(super) async fn learn(connection: &Connection, objects: Objects) -> Result<Whole, Failure> {
        let request = request(objects, Keys::Common, 0);
        let Listed { kvs_bytes, message_bytes, .. } =
            connection.call::<RangeScan>(etcd::RANGE, &request).await?;
        Ok(Whole { objects, kvs_bytes, message_bytes })
    }
}

/// A list that begins at a key of its own selects the same objects, as long as that key comes before
/// all of them: digits sort before the names of namespaces. So kube-apiserver asks to continue one.
fn request(objects: Objects, keys: Keys, index: usize) -> RangeRequest {
    let key = match keys {
        Keys::Common => objects.prefix().into(),
        Keys::Own => format!("{}{index:04}", objects.prefix()).into(),
    };
    RangeRequest { key, range_end: objects.range_end().into(), limit: 0 }
}

impl Whole {
    /// Whether the list is whole, and of a state that was not over when it was asked for.
    fn check(&self, listed: &Listed, floor: Seen) -> Result<Seen, Failure> {
        let counters = counter::keys(self.objects);
        if !listed.small.iter().map(|kv| &kv.key).eq(&counters) {
            return Err(Failure::Wrong("not the counters first and last"));
        }
        let seen = Seen::in_answer(listed.revision, &listed.small)?;
        seen.is_at_least(floor)?;
        let keys = (Objects::KEYS + counters.len()) as u64;
        if (listed.kvs, listed.count, listed.more) != (keys, keys, false) {
            return Err(Failure::Wrong("not all keys"));
        }
        if listed.kvs_bytes != self.kvs_bytes {
            return Err(Failure::Wrong("key-values of another length"));
        }
        Ok(seen)
    }
}

impl Operation for Lister {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let floor = self.acknowledged.floor();
        match connection.call::<RangeScan>(etcd::RANGE, &self.request).await {
            Ok(listed) => {
                self.acknowledged.raise(self.whole.check(&listed, floor)?);
                Ok(listed.message_bytes)
            }
            Err(failure) => {
                sleep(PAUSE_AFTER_FAILURE).await;
                Err(failure)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{
        etcd::{KeyValue, RangeResponse, ResponseHeader},
        scripted::{self, Outcome, Reply},
    };
    use prost::Message;

    const WHOLE: Whole =
        Whole { objects: Objects::Of2KiB, kvs_bytes: 20_000_000, message_bytes: 20_100_000 };

    fn listed(revision: i64, count: u64) -> Listed {
        let value: bytes::Bytes = format!("{count:020}").into();
        let counter = |key| KeyValue { key, mod_revision: 70, value: value.clone() };
        Listed {
            revision,
            message_bytes: 20_100_000,
            kvs: 10_002,
            kvs_bytes: 20_000_000,
            small: counter::keys(Objects::Of2KiB).map(counter).to_vec(),
            more: false,
            count: 10_002,
        }
    }

    #[test]
    fn only_the_whole_list_of_a_state_that_is_not_over_is_right() {
        let floor = Seen { revision: 80, count: 7 };
        let check = |listed: &Listed| WHOLE.check(listed, floor);
        assert_eq!(check(&listed(80, 7)), Ok(floor));
        let whole = || listed(90, 9);
        assert_eq!(check(&whole()), Ok(Seen { revision: 90, count: 9 }));
        for wrong in [
            listed(79, 9),
            listed(90, 6),
            Listed { kvs: 10_001, ..whole() },
            Listed { count: 10_003, ..whole() },
            Listed { more: true, ..whole() },
            Listed { kvs_bytes: 19_999_999, ..whole() },
            Listed { small: whole().small[..1].to_vec(), ..whole() },
            Listed { small: whole().small.into_iter().rev().collect(), ..whole() },
        ] {
            assert!(check(&wrong).is_err_and(|failure| failure.is_violation()), "{wrong:?}");
        }
    }

    #[test]
    fn own_requests_differ_and_begin_before_all_objects() {
        let own = |index| request(Objects::Of10KiB, Keys::Own, index);
        assert_ne!(own(0), own(1));
        let first = counter::keys(Objects::Of10KiB)[0].clone();
        assert!((0..1000).all(|index| own(index).key < first));
        assert!(first < Objects::Of10KiB.key(0));
        assert!(Objects::Of10KiB.key(Objects::KEYS - 1) < counter::keys(Objects::Of10KiB)[1]);
        assert_eq!(
            request(Objects::Of10KiB, Keys::Common, 3),
            request(Objects::Of10KiB, Keys::Common, 4)
        );
    }

    /// A list of two objects and the counters, at revision 90 and with 9 counted.
    fn body() -> (Whole, bytes::Bytes) {
        let objects = Objects::Of2KiB;
        let [first, last] = listed(90, 9).small.try_into().expect("there are two counters");
        let object = |index| KeyValue {
            key: objects.key(index),
            mod_revision: 3,
            value: vec![b'v'; objects.value_bytes()].into(),
        };
        let (one, other) = (object(0), object(1));
        let kvs_bytes = (one.encoded_len() + other.encoded_len()) as u64;
        let header = Some(ResponseHeader { revision: 90 });
        let kvs = vec![first, one, other, last];
        let answer = RangeResponse { header, kvs, more: false, count: 10_002 };
        let whole = Whole { objects, kvs_bytes, message_bytes: answer.encoded_len() as u64 };
        (whole, crate::client::frame(&answer))
    }

    #[tokio::test(start_paused = true)]
    async fn an_acknowledged_write_that_a_list_does_not_show_is_a_violation() {
        let (whole, body) = body();
        let connection = scripted::connect(move |_| Reply {
            latency: Duration::ZERO,
            outcome: Outcome::Body(body.clone()),
        })
        .await;
        let acknowledged = Arc::new(Acknowledged::default());
        acknowledged.raise(Seen { revision: 90, count: 9 });
        let mut lister = Lister::new(whole, Keys::Own, 3, acknowledged.clone());
        // The right state, but not all objects.
        assert_eq!(lister.perform(&connection).await, Err(Failure::Wrong("not all keys")));
        acknowledged.raise(Seen { revision: 90, count: 10 });
        let stale = Err(Failure::Stale("not the write that was acknowledged"));
        assert_eq!(lister.perform(&connection).await, stale);
        acknowledged.raise(Seen { revision: 91, count: 10 });
        let stale = Err(Failure::Stale("a revision before one that was acknowledged"));
        assert_eq!(lister.perform(&connection).await, stale);
    }
}
