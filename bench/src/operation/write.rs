use super::Ground;
use crate::{
    client::{
        Connection, Failure,
        etcd::{self, Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse},
    },
    data::Resource,
    measure::Operation,
};
use bytes::Bytes;
use std::sync::Arc;

/// The objects that one of several loops writes and no other does.
struct Own {
    resource: Resource,
    /// Of the first, the number of loops, and how many there are.
    first: usize,
    stride: usize,
    count: usize,
    turn: usize,
}

/// More would only make the client remember more.
const OBJECTS_PER_LOOP: usize = 64;

impl Own {
    fn new(ground: &Ground, resource: Resource, index: usize, of: usize) -> Self {
        let all = ground.data.count(resource);
        // With more loops than objects some share, and their updates fail.
        debug_assert!(of <= all, "{of} loops cannot own {all} objects");
        let count = (all - index).div_ceil(of).min(OBJECTS_PER_LOOP);
        Self { resource, first: index, stride: of, count, turn: 0 }
    }

    /// The place among its own, and the index of the next object.
    fn next(&mut self) -> (usize, usize) {
        let turn = self.turn;
        self.turn = (turn + 1) % self.count;
        (turn, self.first + turn * self.stride)
    }
}

/// Overwrites objects of its own again and again.
pub(crate) struct Put {
    ground: Arc<Ground>,
    own: Own,
    revision: i64,
}

impl Put {
    pub(super) fn new(ground: Arc<Ground>, resource: Resource, index: usize, of: usize) -> Self {
        let own = Own::new(&ground, resource, index, of);
        Self { ground, own, revision: 0 }
    }

    /// One of sixteen loops that write config maps.
    #[cfg(test)]
    pub(crate) fn scripted(index: usize) -> Self {
        let amount = crate::data::Amount { count: 64, bytes: Some(1024) };
        let amounts = [(Resource::ConfigMaps, amount)].into();
        let data = crate::data::DataSet::new("/registry", 1, amounts);
        Self::new(Arc::new(Ground::new(Arc::new(data), 1)), Resource::ConfigMaps, index, 16)
    }
}

impl Operation for Put {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let (_, index) = self.own.next();
        let data = &self.ground.data;
        let key = data.key(self.own.resource, index);
        let value = data.value(self.own.resource, index, self.ground.stamp());
        let size = value.len() as u64;
        let revision = self.ground.put(connection, &PutRequest { key, value, lease: 0 }).await?;
        if revision <= self.revision {
            return Err(Failure::Wrong("a revision that does not grow"));
        }
        self.revision = revision;
        Ok(size)
    }
}

/// Updates objects of its own as kube-apiserver does: put if nobody changed it, else read it.
pub(crate) struct Update {
    ground: Arc<Ground>,
    own: Own,
    objects: Vec<Object>,
}

#[derive(Debug)]
struct Object {
    key: Bytes,
    mod_revision: i64,
    /// Whether an update was lost, so that it may have happened.
    in_doubt: bool,
}

impl Update {
    pub(super) fn new(ground: Arc<Ground>, resource: Resource, index: usize, of: usize) -> Self {
        let mut own = Own::new(&ground, resource, index, of);
        let mut objects = Vec::new();
        for _ in 0..own.count {
            let key = ground.data.key(resource, own.next().1);
            objects.push(Object { mod_revision: ground.mod_revision(&key), key, in_doubt: false });
        }
        Self { ground, own, objects }
    }
}

impl Operation for Update {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let (place, index) = self.own.next();
        let value = self.ground.data.value(self.own.resource, index, self.ground.stamp());
        let size = value.len() as u64;
        let object = &mut self.objects[place];
        let request = object.update(value);
        // Until there is an answer, and also if nobody waits for it any more.
        let in_doubt = std::mem::replace(&mut object.in_doubt, true);
        let answer = match self.ground.txn(connection, &request).await {
            Err(failure) if !failure.leaves_in_doubt() => {
                object.in_doubt = in_doubt;
                return Err(failure);
            }
            answer => answer?,
        };
        object.in_doubt = in_doubt;
        object.check(&answer)?;
        Ok(size)
    }
}

impl Object {
    fn update(&self, value: Bytes) -> TxnRequest {
        let key = self.key.clone();
        TxnRequest {
            compare: vec![Compare::mod_revision_is(key.clone(), self.mod_revision)],
            success: vec![RequestOp::put(PutRequest { key: key.clone(), value, lease: 0 })],
            failure: vec![RequestOp::range(RangeRequest::of_key(key))],
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

/// Makes one object after the other.
pub(crate) struct Create {
    ground: Arc<Ground>,
    resource: Resource,
    index: usize,
}

impl Create {
    pub(super) fn new(ground: Arc<Ground>, resource: Resource, index: usize) -> Self {
        Self { ground, resource, index }
    }

    /// The key of the new object, when it was made, and its size.
    async fn create(&self, connection: &Connection) -> Result<(Bytes, i64, u64), Failure> {
        let key = self.ground.new_key(self.resource, self.index);
        let index = self.index % self.ground.data.count(self.resource).max(1);
        let value = self.ground.data.value(self.resource, index, self.ground.stamp());
        let (size, lease) = (value.len(), self.ground.lease(connection, self.resource).await?);
        let put = PutRequest { key: key.clone(), value, lease };
        let request = TxnRequest {
            compare: vec![Compare::mod_revision_is(key.clone(), 0)],
            success: vec![RequestOp::put(put)],
            failure: Vec::new(),
        };
        let answer = self.ground.txn(connection, &request).await?;
        if !answer.succeeded {
            return Err(Failure::Wrong("a key that exists although it was never written"));
        }
        Ok((key, etcd::revision(answer.header.as_ref()), size as u64))
    }
}

impl Operation for Create {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        Ok(self.create(connection).await?.2)
    }
}

/// Makes an object, and then deletes it.
pub(crate) struct Churn {
    create: Create,
    made: Option<(Bytes, i64)>,
}

impl Churn {
    pub(super) fn new(ground: Arc<Ground>, resource: Resource, index: usize) -> Self {
        Self { create: Create::new(ground, resource, index), made: None }
    }

    async fn delete(&self, connection: &Connection, key: Bytes, at: i64) -> Result<u64, Failure> {
        let request = TxnRequest {
            compare: vec![Compare::mod_revision_is(key.clone(), at)],
            success: vec![RequestOp::delete(key.clone())],
            failure: vec![RequestOp::range(RangeRequest::of_key(key))],
        };
        let answer = self.create.ground.txn(connection, &request).await?;
        let response = answer.responses.first();
        let deleted = response.and_then(|response| response.response_delete_range.as_ref());
        match deleted {
            Some(deleted) if answer.succeeded && deleted.deleted == 1 => Ok(0),
            _ => Err(Failure::Wrong("a key that was written and is not there")),
        }
    }
}

impl Operation for Churn {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        match self.made.take() {
            Some((key, at)) => self.delete(connection, key, at).await,
            None => {
                let (key, at, size) = self.create.create(connection).await?;
                self.made = Some((key, at));
                Ok(size)
            }
        }
    }
}

#[cfg(test)]
mod tests;
