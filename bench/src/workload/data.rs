use super::{Objects, Operation, Workload, get, list::List};
use crate::{
    client::{
        Connection, Failure,
        etcd::{self, CompactionRequest, CompactionResponse, PutRequest, PutResponse},
    },
    measure::{Loop, Processes, Until, measure},
};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use std::net::SocketAddr;

/// What etcd holds before anything is measured.
#[derive(Debug)]
pub(crate) struct Data {
    /// Length of all key-values of the list, if it was loaded.
    listed_bytes: Option<u64>,
}

/// Which data the workloads read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    points: bool,
    lists: bool,
}

impl Needs {
    pub(crate) fn of(workloads: impl IntoIterator<Item = Workload>) -> Self {
        workloads.into_iter().fold(Self { points: false, lists: false }, |needs, workload| Self {
            points: needs.points || workload == Workload::Get,
            lists: needs.lists || matches!(workload, Workload::List100 | Workload::Mem100),
        })
    }
}

impl Data {
    /// Writes it, asking etcd directly.
    pub(crate) async fn load(etcd: SocketAddr, needs: Needs) -> Result<Self> {
        let connection = Connection::open(etcd).await?;
        if needs.points {
            fill(&connection, get::OBJECTS).await?;
        }
        if !needs.lists {
            return Ok(Self { listed_bytes: None });
        }
        fill(&connection, List::OBJECTS).await?;
        let listed = List::ask(&connection).await?;
        ensure!(listed.kvs == Objects::KEYS as u64, "etcd lists {} keys", listed.kvs);
        Ok(Self { listed_bytes: Some(listed.kvs_bytes) })
    }

    pub(super) fn list(&self) -> List {
        List::new(self.listed_bytes.unwrap_or_default())
    }
}

/// Drops the history that writes left, and waits until it is gone, so that neither it nor its
/// removal is in the way of the next measurement.
pub(crate) async fn compact(etcd: SocketAddr) -> Result<()> {
    let connection = Connection::open(etcd).await?;
    let put = PutRequest { key: "/registry/compact".into(), value: Bytes::new() };
    let answer: PutResponse = connection.unary(etcd::PUT, &put).await?;
    let revision = etcd::revision(answer.header.as_ref());
    let request = CompactionRequest { revision, physical: true };
    let answer = connection.unary::<CompactionResponse>(etcd::COMPACT, &request).await;
    answer.map(drop).with_context(|| format!("compacting etcd at revision {revision}"))
}

const FILLERS: usize = 32;

pub(crate) async fn fill(connection: &Connection, objects: Objects) -> Result<()> {
    let value = value(objects.value_bytes());
    let share = Objects::KEYS.div_ceil(FILLERS);
    let filler = |index| Loop {
        connection: connection.clone(),
        operation: Fill { next: index * share, objects, value: value.clone() },
    };
    let loops = (0..FILLERS).map(filler).collect();
    let until = Until::Operations(share as u64);
    let filled = measure(loops, None, until, &Processes::only_client()).await?;
    let errors = filled.figures.errors;
    ensure!(errors.is_empty(), "filling etcd: {errors:?}");
    Ok(())
}

/// Puts one key after the other.
struct Fill {
    next: usize,
    objects: Objects,
    value: Bytes,
}

impl Operation for Fill {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        if self.next < Objects::KEYS {
            let put = PutRequest { key: self.objects.key(self.next), value: self.value.clone() };
            connection.unary::<PutResponse>(etcd::PUT, &put).await?;
            self.next += 1;
        }
        Ok(self.value.len() as u64)
    }
}

/// Bytes that look like an encoded object as little as it matters: nothing here compresses.
pub(super) fn value(bytes: usize) -> Bytes {
    (0..bytes).map(|n| b'a' + (n % 26) as u8).collect()
}
