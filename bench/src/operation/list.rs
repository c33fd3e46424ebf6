use super::{
    Ground, Whole,
    counter::{self, Seen},
};
use crate::{
    client::{
        Connection, Failure, Listed, RangeScan,
        etcd::{self, RangeRequest},
    },
    data::Resource,
    measure::Operation,
};
use bytes::{BufMut, Bytes, BytesMut};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// Lists all objects without a limit, again and again.
pub(crate) struct List {
    ground: Arc<Ground>,
    resource: Resource,
    request: RangeRequest,
}

/// Whoever was refused does not ask again at once.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

impl List {
    /// One with an `own` number begins at another key than all others, before all objects: so
    /// kube-apiserver asks to continue a list.
    pub(super) fn new(ground: Arc<Ground>, resource: Resource, own: Option<usize>) -> Self {
        let mut request = ground.all(resource);
        if let Some(index) = own {
            request.key = format!("{}!{index:05}", ground.data.prefix(resource)).into();
        }
        Self { ground, resource, request }
    }

    fn check(&self, listed: &Listed, floor: Seen) -> Result<(), Failure> {
        self.ground.check_revision(listed.revision, floor)?;
        if listed.more || listed.kvs != listed.count {
            return Err(Failure::Wrong("not all keys that it counts"));
        }
        let Some(whole) = self.ground.whole(self.resource) else { return Ok(()) };
        if listed.count != whole.count() {
            return Err(Failure::Wrong("not all keys"));
        }
        if whole.has_counter {
            let keys = counter::keys(&self.ground.data, self.resource);
            if !listed.small.iter().map(|kv| &kv.key).eq(&keys) {
                return Err(Failure::Wrong("not the counters first and last"));
            }
            let seen = Seen::in_answer(listed.revision, &listed.small)?;
            seen.is_at_least(floor)?;
            self.ground.raise(self.resource, seen);
        }
        Ok(())
    }
}

impl Whole {
    /// As etcd counts them.
    pub(super) fn count(self) -> u64 {
        self.keys + if self.has_counter { 2 } else { 0 }
    }
}

impl Operation for List {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let floor = self.ground.floor(Some(self.resource));
        match connection.call::<RangeScan>(etcd::RANGE, &self.request).await {
            Ok(listed) => self.check(&listed, floor).map(|()| listed.message_bytes),
            Err(failure) => {
                sleep(PAUSE_AFTER_FAILURE).await;
                Err(failure)
            }
        }
    }
}

/// Lists all objects in pages, which are one operation together.
pub(crate) struct Pages {
    ground: Arc<Ground>,
    resource: Resource,
    limit: u64,
    pinned: bool,
}

impl Pages {
    pub(crate) fn new(ground: Arc<Ground>, resource: Resource, limit: u64, pinned: bool) -> Self {
        Self { ground, resource, limit, pinned }
    }

    /// Returns the length of all pages, and the revision they were read at.
    pub(crate) async fn walk(&self, connection: &Connection) -> Result<(u64, i64), Failure> {
        let mut request =
            RangeRequest { limit: self.limit as i64, ..self.ground.all(self.resource) };
        if self.pinned {
            let bare = RangeRequest::of_key(self.ground.data.bare(self.resource));
            request.revision = self.ground.range(connection, &bare).await?.revision;
        }
        let (mut bytes, mut seen, mut total) = (0, 0, None);
        loop {
            let page = self.ground.range(connection, &request).await?;
            (bytes, seen) = (bytes + page.message_bytes, seen + page.kvs);
            let total = *total.get_or_insert(page.count);
            // At one revision each page counts what is left of the same whole.
            if seen - page.kvs + page.count != total {
                return Err(Failure::Wrong("a page of another state than the first"));
            }
            if !page.more {
                let revision = if request.revision == 0 { page.revision } else { request.revision };
                return self.check(seen, total).map(|()| (bytes, revision));
            }
            if request.revision == 0 {
                request.revision = page.revision;
            }
            request.key = after(&page)?;
        }
    }

    fn check(&self, seen: u64, total: u64) -> Result<(), Failure> {
        if seen != total {
            return Err(Failure::Wrong("not all keys that it counts"));
        }
        match self.ground.whole(self.resource) {
            Some(whole) if seen != whole.count() => Err(Failure::Wrong("not all keys")),
            _ => Ok(()),
        }
    }
}

/// Where the next page begins.
fn after(page: &Listed) -> Result<Bytes, Failure> {
    if page.last_key.is_empty() {
        return Err(Failure::Wrong("no keys, and yet more"));
    }
    let mut key = BytesMut::from(&page.last_key[..]);
    key.put_u8(0);
    Ok(key.freeze())
}

impl Operation for Pages {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let walked = self.walk(connection).await;
        if walked.is_err() {
            sleep(PAUSE_AFTER_FAILURE).await;
        }
        walked.map(|(bytes, _)| bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::{
            etcd::{KeyValue, RangeResponse, ResponseHeader},
            frame,
            scripted::{self, Outcome, Reply},
        },
        data::DataSet,
    };

    const PODS: Resource = Resource::Pods;

    fn ground(keys: usize, has_counter: bool) -> Ground {
        let amount = crate::data::Amount { count: keys, bytes: Some(400) };
        let data = Arc::new(DataSet::new("/registry", 1, [(PODS, amount)].into()));
        let whole = Whole { keys: keys as u64, has_counter };
        Ground::new(data, 1).with_whole(PODS, whole)
    }

    fn kv(key: &str, mod_revision: i64, value: impl Into<Bytes>) -> KeyValue {
        KeyValue { key: key.to_owned().into(), mod_revision, value: value.into() }
    }

    /// What a server answers whose counters and objects are these.
    fn answer(revision: i64, counts: [u64; 2], objects: usize) -> RangeResponse {
        let counter = |n: usize| Bytes::from(format!("{:020}", counts[n]));
        let mut kvs = vec![kv("/registry/pods/!counter", 70, counter(0))];
        kvs.extend((0..objects).map(|n| kv(&format!("/registry/pods/n/{n}"), 3, vec![b'v'; 400])));
        kvs.push(kv("/registry/pods/~counter", 70, counter(1)));
        let (count, header) = (kvs.len() as i64, Some(ResponseHeader { revision }));
        RangeResponse { header, kvs, more: false, count }
    }

    async fn listed(ground: &Arc<Ground>, answer: RangeResponse) -> Result<u64, Failure> {
        let body = frame(&answer);
        let outcome = Outcome::Body(body);
        let reply = Reply { latency: Duration::ZERO, outcome };
        let connection = scripted::connect(move |_| reply.clone()).await;
        List::new(Arc::clone(ground), PODS, Some(3)).perform(&connection).await
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_whole_list_of_a_state_that_is_not_over_is_right() {
        let ground = Arc::new(ground(2, true));
        ground.raise(PODS, Seen { revision: 90, count: 9 });
        assert!(listed(&ground, answer(90, [9, 9], 2)).await.is_ok());
        for wrong in [
            answer(89, [9, 9], 2),
            answer(90, [8, 8], 2),
            answer(91, [9, 10], 2),
            answer(91, [9, 9], 1),
            answer(91, [9, 9], 3),
            RangeResponse { count: 5, ..answer(91, [9, 9], 2) },
            RangeResponse { more: true, ..answer(91, [9, 9], 2) },
        ] {
            let failure = listed(&ground, wrong.clone()).await.expect_err("it is wrong");
            assert!(failure.is_violation(), "{failure} for {wrong:?}");
        }
        // What one answer has shown, the next must show too.
        assert!(listed(&ground, answer(95, [12, 12], 2)).await.is_ok());
        assert!(listed(&ground, answer(94, [12, 12], 2)).await.is_err());
    }

    fn page(keys: &[&str], more: bool, count: i64) -> Reply {
        let kvs = keys.iter().map(|key| kv(key, 3, vec![b'v'; 400])).collect();
        let header = Some(ResponseHeader { revision: 90 });
        let body = frame(&RangeResponse { header, kvs, more, count });
        Reply { latency: Duration::ZERO, outcome: Outcome::Body(body) }
    }

    async fn walked(script: [Reply; 2]) -> Result<u64, Failure> {
        let connection = scripted::connect(move |n| script[n as usize].clone()).await;
        Pages::new(Arc::new(ground(3, false)), PODS, 2, false).perform(&connection).await
    }

    #[tokio::test(start_paused = true)]
    async fn pages_make_one_whole() {
        let first = page(&["/registry/pods/a", "/registry/pods/b"], true, 3);
        assert!(walked([first.clone(), page(&["/registry/pods/c"], false, 1)]).await.is_ok());
        // A key that vanished between the pages, or the end that never came.
        let torn = walked([first.clone(), page(&["/registry/pods/d"], true, 2)]).await;
        assert_eq!(torn, Err(Failure::Wrong("a page of another state than the first")));
        let short = walked([page(&["/registry/pods/a"], false, 1), first]).await;
        assert_eq!(short, Err(Failure::Wrong("not all keys")));
    }
}
