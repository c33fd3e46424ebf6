use super::counter::Seen;
use crate::{
    client::{
        Connection, Failure, Listed, RangeScan,
        etcd::{
            self, LeaseGrantRequest, LeaseGrantResponse, PutRequest, PutResponse, RangeRequest,
            RangeResponse, TxnRequest, TxnResponse,
        },
    },
    data::{DataSet, Resource},
    scenario::{Ask, Scenario},
};
use anyhow::{Context, Result};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Mutex, time::Instant};

/// What all operations of a sample share: the data, and what is known to be true of it.
pub(crate) struct Ground {
    pub(crate) data: Arc<DataSet>,
    /// When the clock of the sample began, which stamps in values count from.
    pub(crate) epoch: Instant,
    /// What every read that begins now must show. It only grows: by each write that was acknowledged,
    /// and by each read, since those that follow must not go back behind it.
    revision: AtomicI64,
    counts: BTreeMap<Resource, AtomicU64>,
    /// Of resources whose objects are all there from the beginning to the end.
    wholes: BTreeMap<Resource, Whole>,
    /// When each object that is going to be updated was last changed.
    mod_revisions: HashMap<Bytes, i64>,
    acknowledged: AtomicU64,
    in_doubt: AtomicU64,
    /// Names of new objects contain it, so that those of another run are others.
    run: u64,
    created: AtomicU64,
    /// For new objects with a time to live. Held while one of them has a lease granted.
    lease: Mutex<Option<Lease>>,
}

/// What a whole list of a resource is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whole {
    /// Without the two of a counter.
    pub(crate) keys: u64,
    pub(crate) has_counter: bool,
}

/// As kube-apiserver shares leases between events.
struct Lease {
    id: i64,
    left: usize,
    until: Instant,
}

const OBJECTS_PER_LEASE: usize = 1000;
const LEASE_SHARED: Duration = Duration::from_secs(60);

impl Ground {
    /// Asks etcd, rather than what stands in front of it, how things are.
    pub(crate) async fn learn(
        connection: &Connection,
        data: &Arc<DataSet>,
        scenario: &Scenario,
        run: u64,
    ) -> Result<Self> {
        let mut ground = Self::new(Arc::clone(data), run);
        for &resource in data.amounts().keys() {
            ground.counts.insert(resource, AtomicU64::new(0));
            if scenario.keeps_count(resource) {
                let keys = data.count(resource) as u64;
                let has_counter = scenario.counts(resource);
                ground.wholes.insert(resource, Whole { keys, has_counter });
            }
            if scenario.counts(resource) {
                ground.prepare_counter(connection, resource).await?;
            }
            let updated = |ask| ask == Ask::Update { of: resource };
            if scenario.workloads.iter().any(|workload| updated(workload.ask)) {
                ground.learn_mod_revisions(connection, resource).await?;
            }
        }
        Ok(ground)
    }

    pub(super) fn new(data: Arc<DataSet>, run: u64) -> Self {
        Self {
            data,
            epoch: Instant::now(),
            revision: AtomicI64::new(0),
            counts: BTreeMap::new(),
            wholes: BTreeMap::new(),
            mod_revisions: HashMap::new(),
            acknowledged: AtomicU64::new(0),
            in_doubt: AtomicU64::new(0),
            run,
            created: AtomicU64::new(0),
            lease: Mutex::new(None),
        }
    }

    #[cfg(test)]
    pub(super) fn with_whole(mut self, resource: Resource, whole: Whole) -> Self {
        self.counts.insert(resource, AtomicU64::new(0));
        self.wholes.insert(resource, whole);
        self
    }

    async fn learn_mod_revisions(
        &mut self,
        connection: &Connection,
        resource: Resource,
    ) -> Result<()> {
        let request = RangeRequest { keys_only: true, ..self.all(resource) };
        let answer: RangeResponse = connection
            .unary(etcd::RANGE, &request)
            .await
            .with_context(|| format!("asking for the revisions of {}", resource.path()))?;
        self.mod_revisions.extend(answer.kvs.into_iter().map(|kv| (kv.key, kv.mod_revision)));
        Ok(())
    }

    /// All objects of a resource.
    pub(crate) fn all(&self, resource: Resource) -> RangeRequest {
        RangeRequest {
            key: self.data.prefix(resource).into(),
            range_end: self.data.range_end(resource),
            ..RangeRequest::default()
        }
    }

    /// To be called before a read is sent.
    pub(super) fn floor(&self, resource: Option<Resource>) -> Seen {
        let count = resource.and_then(|resource| self.counts.get(&resource));
        Seen {
            revision: self.revision.load(Ordering::SeqCst),
            count: count.map_or(0, |count| count.load(Ordering::SeqCst)),
        }
    }

    pub(super) fn raise(&self, resource: Resource, seen: Seen) {
        self.raise_revision(seen.revision);
        if let Some(count) = self.counts.get(&resource) {
            count.fetch_max(seen.count, Ordering::SeqCst);
        }
    }

    fn raise_revision(&self, revision: i64) {
        self.revision.fetch_max(revision, Ordering::SeqCst);
    }

    /// What came back must be of a state that was not over when it was asked for.
    pub(super) fn check_revision(&self, revision: i64, floor: Seen) -> Result<(), Failure> {
        if revision < floor.revision.max(1) {
            return Err(Failure::Stale("a revision before one that was acknowledged"));
        }
        self.raise_revision(revision);
        Ok(())
    }

    pub(super) fn whole(&self, resource: Resource) -> Option<Whole> {
        self.wholes.get(&resource).copied()
    }

    pub(super) fn mod_revision(&self, key: &Bytes) -> i64 {
        self.mod_revisions.get(key).copied().unwrap_or_default()
    }

    /// A list whose answer is not kept, but for what it says of counters.
    pub(super) async fn range(
        &self,
        connection: &Connection,
        request: &RangeRequest,
    ) -> Result<Listed, Failure> {
        let floor = self.floor(None);
        let listed = connection.call::<RangeScan>(etcd::RANGE, request).await?;
        self.check_revision(listed.revision, floor)?;
        Ok(listed)
    }

    /// A transaction that writes if its compare holds.
    pub(super) async fn txn(
        &self,
        connection: &Connection,
        request: &TxnRequest,
    ) -> Result<TxnResponse, Failure> {
        let answer: TxnResponse = self.write(connection, etcd::TXN, request).await?;
        let revision = etcd::revision(answer.header.as_ref());
        self.raise_revision(revision);
        if answer.succeeded {
            self.acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        Ok(answer)
    }

    pub(super) async fn put(
        &self,
        connection: &Connection,
        request: &PutRequest,
    ) -> Result<i64, Failure> {
        let answer: PutResponse = self.write(connection, etcd::PUT, request).await?;
        let revision = etcd::revision(answer.header.as_ref());
        self.raise_revision(revision);
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
        Ok(revision)
    }

    async fn write<M: prost::Message + Default>(
        &self,
        connection: &Connection,
        method: etcd::Method,
        request: &impl prost::Message,
    ) -> Result<M, Failure> {
        // Until there is an answer, and also if nobody waits for it any more.
        self.in_doubt.fetch_add(1, Ordering::SeqCst);
        let answer = connection.unary(method, request).await;
        if !answer.as_ref().is_err_and(Failure::leaves_in_doubt) {
            self.in_doubt.fetch_sub(1, Ordering::SeqCst);
        }
        answer
    }

    /// The newest that anybody was shown.
    pub(crate) fn newest_revision(&self) -> i64 {
        self.revision.load(Ordering::SeqCst)
    }

    /// How many writes were acknowledged, and how many more may have happened.
    pub(crate) fn writes(&self) -> (u64, u64) {
        (self.acknowledged.load(Ordering::SeqCst), self.in_doubt.load(Ordering::SeqCst))
    }

    /// Nanoseconds since the clock began, for the values that are written now.
    pub(super) fn stamp(&self) -> u128 {
        self.epoch.elapsed().as_nanos()
    }

    /// The key of an object that was never there.
    pub(super) fn new_key(&self, resource: Resource, index: usize) -> Bytes {
        let number = self.created.fetch_add(1, Ordering::Relaxed);
        let (prefix, namespace) = (self.data.prefix(resource), index % 100);
        format!("{prefix}namespace-{namespace:03}/new-{:x}-{number:08}", self.run).into()
    }

    /// The lease for a new object, 0 if it lives until it is deleted.
    pub(super) async fn lease(
        &self,
        connection: &Connection,
        resource: Resource,
    ) -> Result<i64, Failure> {
        let Some(ttl) = resource.ttl_seconds() else { return Ok(0) };
        let mut shared = self.lease.lock().await;
        if let Some(lease) = &mut *shared
            && lease.left > 0
            && Instant::now() < lease.until
        {
            lease.left -= 1;
            return Ok(lease.id);
        }
        let request = LeaseGrantRequest { ttl };
        let granted: LeaseGrantResponse = connection.unary(etcd::LEASE_GRANT, &request).await?;
        let (left, until) = (OBJECTS_PER_LEASE - 1, Instant::now() + LEASE_SHARED);
        Ok(shared.insert(Lease { id: granted.id, left, until }).id)
    }
}
