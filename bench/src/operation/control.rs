use super::Ground;
use crate::{
    client::{
        Connection, Failure,
        etcd::{self, LeaseGrantRequest, LeaseGrantResponse, RangeRequest},
    },
    measure::Operation,
};
use std::sync::Arc;

/// kube-apiserver asks whether etcd works.
pub(crate) struct Health {
    ground: Arc<Ground>,
    request: RangeRequest,
}

impl Health {
    pub(super) fn new(ground: Arc<Ground>) -> Self {
        let key = format!("{}/health", ground.data.root());
        let request = RangeRequest { limit: 1, ..RangeRequest::of_key(key) };
        Self { ground, request }
    }
}

impl Operation for Health {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        Ok(self.ground.range(connection, &self.request).await?.message_bytes)
    }
}

/// A lease that nothing is attached to.
pub(crate) struct Grant {
    pub(super) ttl: i64,
}

impl Operation for Grant {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let request = LeaseGrantRequest { ttl: self.ttl };
        let granted: LeaseGrantResponse = connection.unary(etcd::LEASE_GRANT, &request).await?;
        if granted.id == 0 { Err(Failure::Wrong("a lease without an id")) } else { Ok(0) }
    }
}
