//! One etcd cluster.

#[cfg(test)]
mod tests;

use super::{
    Answer, Config, Error, Exchange, Member, Metrics, Outbound, State,
    balance::{self, Tried},
    metrics::ClusterMetrics,
    probe,
    retry::Budget,
    timeline::Timeline,
};
use crate::{
    etcd::{
        method::Effect,
        proto::etcdserverpb::{ResponseHeader, StatusResponse},
    },
    sabotage::Sabotage,
    tls,
};
use parking_lot::{Mutex, RwLock};
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, futures::Notified},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

/// A call that no member can take waits this long for one at most, as a client of etcd's waits for
/// its connection.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// What etcd has said waits so long for another member to be connected to, which may say better.
const REPEAT_WAIT: Duration = Duration::from_millis(500);

/// Stores that were seen.
static STORES: AtomicU64 = AtomicU64::new(0);

/// One etcd cluster: its members and how they are.
#[derive(Debug)]
pub struct Cluster {
    pub name: Arc<str>,
    /// See [`Cluster::number`].
    number: AtomicU64,
    pub settings: Arc<Config>,
    pub members: Vec<Arc<Member>>,
    /// etcd's id of the leading member, 0 while nobody leads as far as we know.
    leader: AtomicU64,
    /// What probes found out, for calls that are answered without asking.
    identity: RwLock<Identity>,
    /// See [`Cluster::assume_quota`]; 0 stands for none.
    assumed_quota: AtomicU64,
    timeline: Timeline,
    budget: Budget,
    metrics: ClusterMetrics,
    /// Some member's state has changed.
    changed: Arc<Notify>,
    /// One prober a member; they end with the cluster.
    probers: Mutex<Vec<AbortOnDropHandle<()>>>,
}

/// What probes found out about a cluster.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// Header of the newest answer to a linearizable read; its ids are 0 until there was one.
    pub header: ResponseHeader,
    /// When that read was sent, and when its answer came.
    pub asked: Option<(Instant, Instant)>,
    /// The newest status of each member that gave one, in the order of the members.
    pub statuses: Vec<Option<StatusResponse>>,
}

impl Cluster {
    /// What it takes to connect to the cluster's members, loaded before anything is said of them.
    ///
    /// # Errors
    ///
    /// When the TLS files cannot be used.
    pub fn connector(settings: &Config) -> Result<tls::Connector, tls::Error> {
        tls::Connector::load(settings.tls.files())
    }

    /// Starts to watch the cluster's members; stops when the last handle is dropped. Calls may come
    /// from `workers` threads.
    pub fn start(
        settings: Config,
        connector: tls::Connector,
        metrics: &Metrics,
        workers: usize,
    ) -> Arc<Self> {
        let settings = Arc::new(settings);
        let tls = Arc::new(connector);
        let changed = Arc::new(Notify::new());
        let member = |endpoint: &super::Endpoint| {
            Arc::new(Member::new(
                endpoint.clone(),
                Arc::clone(&settings),
                Arc::clone(&tls),
                metrics.member(&settings.name, endpoint),
                workers,
                Arc::clone(&changed),
            ))
        };
        let members: Vec<_> = settings.endpoints.iter().map(member).collect();
        let statuses = vec![None; members.len()];
        let cluster = Arc::new(Self {
            name: settings.name.as_str().into(),
            number: AtomicU64::new(STORES.fetch_add(1, Relaxed)),
            members,
            leader: AtomicU64::new(0),
            identity: RwLock::new(Identity { statuses, ..Identity::default() }),
            assumed_quota: AtomicU64::new(0),
            timeline: Timeline::default(),
            budget: Budget::new(settings.retry.budget_percent),
            metrics: metrics.cluster(&settings.name),
            changed,
            probers: Mutex::default(),
            settings,
        });
        *cluster.probers.lock() = probe::start(&cluster);
        cluster
    }

    /// Makes a call and waits for the head of its answer. A call that was certainly not carried out
    /// is sent to another member; a read that failed as unavailable is, too, once and within a
    /// budget. What etcd said itself stands where no other member is well.
    ///
    /// # Errors
    ///
    /// See [`Error`]; statuses that etcd gave are answers.
    pub async fn call(&self, outbound: &Outbound, effect: Effect) -> Result<Answer, Error> {
        let effect = if Sabotage::RepeatWrite.is_on() { Effect::Read } else { effect };
        self.budget.deposit();
        let mut tried = Tried::default();
        let result = self.send(outbound, &mut tried).await;
        if effect != Effect::Read {
            return result;
        }
        match result {
            Err(Error::Lost { .. }) if self.has_untried(tried) && self.may_repeat() => {
                self.send(outbound, &mut tried).await
            }
            Ok(answer) if is_unavailable(&answer) => {
                let another = Box::pin(self.ask_another(outbound, tried)).await;
                Ok(another.unwrap_or(answer))
            }
            result => result,
        }
    }

    /// Sends a call until a member has looked at it.
    async fn send(&self, outbound: &Outbound, tried: &mut Tried) -> Result<Answer, Error> {
        loop {
            let (index, exchange) = self.open(outbound, *tried).await?;
            let result = exchange.answer().await;
            tried.add(index);
            // At most once for each member: `open` reports when all were tried.
            if !matches!(result, Err(Error::Refused { .. })) || !self.has_untried(*tried) {
                return result;
            }
        }
    }

    /// The answer of a member that is well, if there is one that can be had soon.
    async fn ask_another(&self, outbound: &Outbound, tried: Tried) -> Option<Answer> {
        let index = self.pick(outbound, tried)?;
        if self.members[index].state() >= State::Suspect || !self.may_repeat() {
            return None;
        }
        let opened = timeout(REPEAT_WAIT, self.open_at(index, outbound)).await;
        opened.ok()?.ok()?.answer().await.ok()
    }

    /// Whether the budget lets a read be sent once more.
    fn may_repeat(&self) -> bool {
        let may = self.budget.withdraw();
        let counter = if may { &self.metrics.retries } else { &self.metrics.retries_denied };
        counter.inc();
        may
    }

    /// Sends a call whose streams the caller drives itself.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] or [`Error::Deadline`]; either way nothing was sent.
    pub async fn stream(&self, outbound: &Outbound) -> Result<Exchange, Error> {
        self.open(outbound, Tried::default()).await.map(|(_, exchange)| exchange)
    }

    /// Sends a call to the first suitable member that takes it, and tells which one did.
    async fn open(&self, outbound: &Outbound, tried: Tried) -> Result<(usize, Exchange), Error> {
        // Nearly always there is a connection with room.
        if let Some(index) = self.pick(outbound, tried) {
            let member = &self.members[index];
            if let Some(slot) = member.pool(outbound.worker, outbound.lane).take_now(member)
                && let Ok(exchange) = Exchange::start(member, slot, outbound).await
            {
                return Ok((index, exchange));
            }
        }
        // On the heap, since it is rarely needed and large.
        Box::pin(self.open_when_possible(outbound, tried)).await
    }

    /// The same, waiting for connections.
    async fn open_when_possible(
        &self,
        outbound: &Outbound,
        refused_by: Tried,
    ) -> Result<(usize, Exchange), Error> {
        let limit = Instant::now() + WAIT_MAX;
        let deadline = outbound.deadline.map_or(limit, |deadline| deadline.min(limit));
        let mut tried = refused_by;
        let mut reason: Arc<str> = Arc::from("no member is left to try");
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before looking, so that no change between the look and the wait is missed.
            changed.as_mut().enable();
            let Some(index) = self.pick(outbound, tried) else {
                let until = deadline.min(self.next_dial(outbound, refused_by));
                if timeout_at(until, changed).await.is_err() && Instant::now() >= deadline {
                    return Err(self.gave_up(outbound, reason));
                }
                tried = refused_by;
                continue;
            };
            match timeout_at(deadline, self.open_at(index, outbound)).await {
                Ok(Ok(exchange)) => return Ok((index, exchange)),
                Ok(Err(failed)) => reason = failed,
                Err(_) => return Err(self.gave_up(outbound, reason)),
            }
            tried.add(index);
        }
    }

    /// Sends a call to this member, once there is a connection with room.
    async fn open_at(&self, index: usize, outbound: &Outbound) -> Result<Exchange, Arc<str>> {
        let member = &self.members[index];
        let slot = member.pool(outbound.worker, outbound.lane).acquire(member).await?;
        let exchange = Exchange::start(member, slot, outbound).await;
        exchange.map_err(|error| error.to_string().into())
    }

    /// When one of the members that have not refused the call may be connected to again; whatever has
    /// failed is not tried again at once.
    fn next_dial(&self, outbound: &Outbound, refused_by: Tried) -> Instant {
        let members = self.members.iter().enumerate();
        let left = members.filter(|(index, _)| !refused_by.has(*index));
        let dial_after =
            left.map(|(_, member)| member.pool(outbound.worker, outbound.lane).dial_after());
        let soonest = Instant::now() + self.settings.backoff_min;
        dial_after.min().map_or(soonest, |dial_after| dial_after.max(soonest))
    }

    fn pick(&self, outbound: &Outbound, tried: Tried) -> Option<usize> {
        balance::pick(&self.members, tried, outbound.affinity, self.leader())
    }

    fn gave_up(&self, outbound: &Outbound, reason: Arc<str>) -> Error {
        if outbound.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Error::Deadline;
        }
        Error::Unreachable { cluster: Arc::clone(&self.name), reason }
    }

    fn has_untried(&self, tried: Tried) -> bool {
        (0..self.members.len()).any(|index| !tried.has(index))
    }

    /// Whether some member answers linearizable reads.
    pub fn is_healthy(&self) -> bool {
        self.members.iter().any(|member| member.state() == State::Healthy)
    }

    /// Resolves once it is.
    pub async fn healthy(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_healthy() {
                return;
            }
            changed.await;
        }
    }

    /// Stands for the store: differs for every cluster that was started, and changes when another
    /// store has taken the place of the one that was there.
    pub fn number(&self) -> u64 {
        self.number.load(Relaxed)
    }

    /// Whether every member has `RangeStream`: one that has not said its version yet may be old.
    pub fn streams_ranges(&self) -> bool {
        self.identity.read().statuses.iter().all(|status| status.as_ref().is_some_and(streams))
    }

    /// Whether some member has `RangeStream`, or may have it as far as is known.
    pub fn may_stream_ranges(&self) -> bool {
        self.identity.read().statuses.iter().any(|status| status.as_ref().is_none_or(streams))
    }

    /// Whether every member says how far the watchers of a stream are only when they are: older ones
    /// do so before the events, and one that has not said its version yet may be old.
    pub fn orders_progress(&self) -> bool {
        let statuses = &self.identity.read().statuses;
        statuses.iter().all(|status| status.as_ref().is_some_and(orders_progress))
    }

    /// Takes this for the quota of members that do not tell theirs, as before etcd 3.6.
    pub fn assume_quota(&self, bytes: Option<u64>) {
        self.assumed_quota.store(bytes.unwrap_or(0), Relaxed);
    }

    /// The size of its database at which the member of this status refuses writes, as far as is
    /// known.
    pub fn quota(&self, status: &StatusResponse) -> Option<u64> {
        let told = u64::try_from(status.db_size_quota).unwrap_or(0);
        [told, self.assumed_quota.load(Relaxed)].into_iter().find(|quota| *quota > 0)
    }

    /// The fullest member's database in percent of its quota; `None` where that is not known.
    pub fn space_percent(&self) -> Option<u32> {
        let percent = |status: &StatusResponse| {
            let size = u64::try_from(status.db_size).unwrap_or(0);
            Some((size.saturating_mul(100) / self.quota(status)?) as u32)
        };
        self.identity.read().statuses.iter().flatten().filter_map(percent).max()
    }

    /// How long no member has sent anything.
    pub fn silent_for(&self) -> Duration {
        self.members.iter().map(|member| member.silent_for()).min().unwrap_or_default()
    }

    /// Resolves at the next change of some member's state.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Which revision the cluster had when.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// What etcd has said of itself last.
    pub fn header(&self) -> ResponseHeader {
        self.identity.read().header
    }

    pub fn identity(&self) -> Identity {
        self.identity.read().clone()
    }

    /// etcd's id of the leading member, 0 while nobody leads as far as we know.
    pub fn leader(&self) -> u64 {
        self.leader.load(Relaxed)
    }

    /// A probe of the member at `index` got this status.
    pub(super) fn learn_status(&self, index: usize, status: StatusResponse) {
        let leader = status.leader;
        self.identity.write().statuses[index] = Some(status);
        if leader == 0 {
            return;
        }
        let before = self.leader.swap(leader, Relaxed);
        if before != leader && before != 0 {
            self.metrics.leader_changes.inc();
            tracing::info!(
                cluster = &*self.name,
                leader = format!("{leader:x}"),
                before = format!("{before:x}"),
                "leader changed"
            );
        }
    }

    /// A linearizable read sent and answered at the instants of `asked` got this header.
    pub(super) fn learn_header(&self, header: ResponseHeader, asked: (Instant, Instant)) {
        let mut identity = self.identity.write();
        let before = identity.header;
        let another = before.cluster_id != 0 && before.cluster_id != header.cluster_id;
        if another
            || header.revision < before.revision
                && identity.asked.is_some_and(|(_, answered)| answered < asked.0)
        {
            tracing::error!(
                cluster = &*self.name,
                before = ?before,
                now = ?header,
                "this is another store than before: was it restored from a backup?"
            );
            self.number.store(STORES.fetch_add(1, Relaxed), Relaxed);
        } else if header.revision < before.revision {
            return;
        }
        identity.header = header;
        identity.asked = Some(asked);
        self.timeline.record(asked.0, asked.1, header.revision);
    }
}

/// Whether a member is an etcd 3.7 or later.
fn streams(status: &StatusResponse) -> bool {
    version(status) >= [3, 7, 0]
}

/// Whether a member has the repairs of progress that Kubernetes asks for, too.
fn orders_progress(status: &StatusResponse) -> bool {
    match version(status) {
        [3, 4, patch] => patch >= 31,
        [3, 5, patch] => patch >= 13,
        version => version >= [3, 6, 0],
    }
}

fn version(status: &StatusResponse) -> [u32; 3] {
    let mut numbers = status.version.split('.').map(|part| part.parse().unwrap_or(0));
    [(); 3].map(|()| numbers.next().unwrap_or(0))
}

/// A status that etcd gave at once instead of an answer, and that another member may not give.
fn is_unavailable(answer: &Answer) -> bool {
    answer.refusal().is_some_and(|status| status.code() == Code::Unavailable)
}
