use super::Ground;
use crate::{
    client::{
        Connection, Failure,
        etcd::{self, RangeRequest, RangeResponse},
    },
    data::Resource,
    measure::Operation,
};
use std::sync::Arc;

/// Reads one object after the other.
pub(crate) struct Get {
    ground: Arc<Ground>,
    resource: Resource,
    next: usize,
}

/// Coprime to most counts, so that each loop comes to all objects and no two read in step.
const STRIDE: usize = 7919;

impl Get {
    pub(super) fn new(ground: Arc<Ground>, resource: Resource, index: usize) -> Self {
        Self { ground, resource, next: index * 101 }
    }
}

impl Operation for Get {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let data = &self.ground.data;
        let index = self.next % data.count(self.resource);
        self.next += STRIDE;
        let key = data.key(self.resource, index);
        let floor = self.ground.floor(None);
        let request = RangeRequest { limit: 1, ..RangeRequest::of_key(key.clone()) };
        let answer: RangeResponse = connection.unary(etcd::RANGE, &request).await?;
        self.ground.check_revision(etcd::revision(answer.header.as_ref()), floor)?;
        let [kv] = answer.kvs.as_slice() else { return Err(Failure::Wrong("not one key")) };
        if kv.key != key || kv.value.len() != data.value_bytes(self.resource, index) {
            return Err(Failure::Wrong("another object than was asked for"));
        }
        if kv.mod_revision > etcd::revision(answer.header.as_ref()) {
            return Err(Failure::Stale("a key of a later revision than the answer"));
        }
        Ok(kv.value.len() as u64)
    }
}

/// Asks for the current revision.
pub(crate) struct Revision {
    ground: Arc<Ground>,
    request: RangeRequest,
}

impl Revision {
    pub(super) fn new(ground: Arc<Ground>, resource: Resource) -> Self {
        let request = RangeRequest { limit: 1, ..RangeRequest::of_key(ground.data.bare(resource)) };
        Self { ground, request }
    }
}

impl Operation for Revision {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let listed = self.ground.range(connection, &self.request).await?;
        if listed.kvs > 0 {
            return Err(Failure::Wrong("a key that was never written"));
        }
        Ok(listed.message_bytes)
    }
}

/// Asks how many objects there are.
pub(crate) struct Count {
    ground: Arc<Ground>,
    resource: Resource,
    request: RangeRequest,
}

impl Count {
    pub(super) fn new(ground: Arc<Ground>, resource: Resource) -> Self {
        let request = RangeRequest { count_only: true, ..ground.all(resource) };
        Self { ground, resource, request }
    }
}

impl Operation for Count {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let listed = self.ground.range(connection, &self.request).await?;
        match self.ground.whole(self.resource) {
            Some(whole) if listed.count != whole.count() => Err(Failure::Wrong("not all keys")),
            _ => Ok(listed.message_bytes),
        }
    }
}
