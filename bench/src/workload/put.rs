use super::{Operation, data};
use crate::client::{
    Connection, Failure,
    etcd::{self, PutRequest, PutResponse},
};
use bytes::Bytes;

/// Overwrites a few keys of its own again and again.
#[derive(Debug)]
pub(crate) struct Put {
    index: usize,
    writes: usize,
    value: Bytes,
    revision: i64,
}

const KEYS_PER_LOOP: usize = 64;
const VALUE_BYTES: usize = 1 << 10;

impl Put {
    pub(crate) fn new(index: usize) -> Self {
        Self { index, writes: 0, value: data::value(VALUE_BYTES), revision: 0 }
    }
}

impl Operation for Put {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let name = self.writes % KEYS_PER_LOOP;
        let key = format!("/registry/configmaps/namespace-{:03}/put-{name:02}", self.index).into();
        self.writes += 1;
        let request = PutRequest { key, value: self.value.clone() };
        let answer: PutResponse = connection.unary(etcd::PUT, &request).await?;
        let revision = etcd::revision(answer.header.as_ref());
        if revision <= self.revision {
            return Err(Failure::Wrong("a revision that does not grow"));
        }
        self.revision = revision;
        Ok(self.value.len() as u64)
    }
}
