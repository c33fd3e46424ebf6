use super::{
    counter::{self, Acknowledged, Seen},
    experiment::HotKey,
};
use crate::{
    client::{
        Connection, Failure,
        etcd::{self, RangeRequest, RangeResponse},
    },
    measure::{Loop, Operation},
    workload::Objects,
};
use anyhow::Result;
use std::{net::SocketAddr, sync::Arc};

pub(super) const IN_FLIGHT: usize = 1000;
/// Fewer than 100 reads for each, which is what HAProxy allows on a connection.
const CONNECTIONS: usize = 16;
pub(super) const OBJECTS: Objects = Objects::Of2KiB;

/// Reads the same thing again and again, and expects to see what was acknowledged.
#[derive(Debug)]
pub(super) struct HotRead {
    what: HotKey,
    request: RangeRequest,
    acknowledged: Arc<Acknowledged>,
}

impl HotRead {
    pub(super) async fn loops(
        target: SocketAddr,
        what: HotKey,
        acknowledged: &Arc<Acknowledged>,
    ) -> Result<Vec<Loop<Self>>> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(Connection::open(target).await?);
        }
        let operation =
            || Self { what, request: request(what), acknowledged: acknowledged.clone() };
        let connections = connections.into_iter().cycle().take(IN_FLIGHT);
        Ok(connections.map(|connection| Loop { connection, operation: operation() }).collect())
    }
}

fn request(what: HotKey) -> RangeRequest {
    match what {
        HotKey::Point => RangeRequest::of_key(counter::keys(OBJECTS)[0].clone()),
        HotKey::Revision => {
            let name = OBJECTS.prefix().trim_end_matches('/');
            RangeRequest { limit: 1, ..RangeRequest::of_key(name) }
        }
    }
}

fn check(what: HotKey, answer: &RangeResponse, floor: Seen) -> Result<Seen, Failure> {
    let revision = etcd::revision(answer.header.as_ref());
    let found = u64::from(what == HotKey::Point);
    if answer.kvs.len() as u64 != found || answer.count as u64 != found || answer.more {
        return Err(Failure::Wrong("not the key that was asked for"));
    }
    let seen = match what {
        HotKey::Point => Seen::in_answer(revision, &answer.kvs)?,
        // No key shows the count.
        HotKey::Revision => Seen { revision, count: floor.count },
    };
    seen.is_at_least(floor)?;
    Ok(seen)
}

impl Operation for HotRead {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let floor = self.acknowledged.floor();
        let answer = connection.unary(etcd::RANGE, &self.request).await?;
        self.acknowledged.raise(check(self.what, &answer, floor)?);
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::etcd::{KeyValue, ResponseHeader};

    #[test]
    fn stale_reads_are_reported() {
        let floor = Seen { revision: 80, count: 7 };
        let none = |revision| RangeResponse {
            header: Some(ResponseHeader { revision }),
            ..RangeResponse::default()
        };
        let point = |revision, count: u64| {
            let value = format!("{count:020}").into();
            let kv = KeyValue { key: "k".into(), mod_revision: 70, value };
            RangeResponse { kvs: vec![kv], count: 1, ..none(revision) }
        };
        let check = |what, answer| check(what, &answer, floor);
        assert_eq!(check(HotKey::Revision, none(80)), Ok(floor));
        assert!(matches!(check(HotKey::Revision, none(79)), Err(Failure::Stale(_))));
        assert_eq!(check(HotKey::Point, point(80, 7)), Ok(floor));
        assert!(matches!(check(HotKey::Point, point(80, 6)), Err(Failure::Stale(_))));
        assert!(matches!(check(HotKey::Point, point(79, 7)), Err(Failure::Stale(_))));
        assert!(matches!(check(HotKey::Point, none(80)), Err(Failure::Wrong(_))));
    }
}
