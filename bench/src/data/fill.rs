use super::{DataSet, Resource};
use crate::{
    client::{
        Channel, Connection, Dial, Failure, RangeScan,
        etcd::{
            self, LeaseGrantRequest, LeaseGrantResponse, PutRequest, PutResponse, RangeRequest,
        },
    },
    measure::{Loop, Operation, Until, run},
};
use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::time::Instant;

/// What is allowed to be where the data is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Emptiness {
    /// Nothing: an etcd of someone else.
    Required,
    /// Anything: an etcd that was started for this.
    Given,
}

const FILLERS: usize = 32;
/// As kube-apiserver shares leases between objects.
const OBJECTS_PER_LEASE: usize = 1000;

/// Writes all objects of the set, and nothing where something is already.
pub(crate) async fn fill(
    dial: &Dial,
    data: &Arc<DataSet>,
    emptiness: Emptiness,
    progress: &ProgressBar,
) -> Result<()> {
    let channel = Channel::open(dial, 0).await?;
    if emptiness == Emptiness::Required {
        let root = data.root();
        let count = keys_below(&channel.connection().await?, root).await?;
        ensure!(count == 0, "there are {count} keys below {root}/ already: choose another --root");
    }
    progress.set_length(data.amounts().values().map(|amount| amount.count as u64).sum());
    for (&resource, amount) in data.amounts() {
        progress.set_message(resource.path());
        let next = Arc::new(AtomicUsize::new(0));
        let filler = |_| Loop {
            channel: channel.clone(),
            operation: Fill {
                data: Arc::clone(data),
                resource,
                next: Arc::clone(&next),
                lease: None,
                progress: progress.clone(),
            },
        };
        let loops = (0..FILLERS).map(filler).collect();
        let share = amount.count.div_ceil(FILLERS) as u64;
        let (_, tally) = run(loops, Until::Operations(share), Instant::now()).await?;
        let errors = tally.figures().errors;
        ensure!(errors.is_empty(), "writing {}: {errors:?}", resource.path());
    }
    Ok(())
}

async fn keys_below(connection: &Connection, root: &str) -> Result<u64> {
    let request = RangeRequest {
        key: format!("{root}/").into(),
        range_end: format!("{root}0").into(),
        count_only: true,
        ..RangeRequest::default()
    };
    let listed = connection.call::<RangeScan>(etcd::RANGE, &request).await;
    Ok(listed.context("asking what is there already")?.count)
}

/// Puts one object after the other.
struct Fill {
    data: Arc<DataSet>,
    resource: Resource,
    /// Of those that were not written yet.
    next: Arc<AtomicUsize>,
    /// For so many more objects.
    lease: Option<(i64, usize)>,
    progress: ProgressBar,
}

impl Fill {
    async fn lease(&mut self, connection: &Connection) -> Result<i64, Failure> {
        let Some(ttl) = self.resource.ttl_seconds() else { return Ok(0) };
        let (id, left) = match self.lease {
            Some((id, left)) if left > 0 => (id, left),
            _ => {
                let request = LeaseGrantRequest { ttl };
                let granted: LeaseGrantResponse =
                    connection.unary(etcd::LEASE_GRANT, &request).await?;
                (granted.id, OBJECTS_PER_LEASE)
            }
        };
        self.lease = Some((id, left - 1));
        Ok(id)
    }
}

impl Operation for Fill {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        if index >= self.data.count(self.resource) {
            return Ok(0);
        }
        let key = self.data.key(self.resource, index);
        let value = self.data.value(self.resource, index, 0);
        let (size, lease) = (value.len() as u64, self.lease(connection).await?);
        connection.unary::<PutResponse>(etcd::PUT, &PutRequest { key, value, lease }).await?;
        self.progress.inc(1);
        Ok(size)
    }
}
