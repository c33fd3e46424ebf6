//! One member of a cluster and what is known of it.

use super::{Config, Endpoint, Lane, lane::Pool, metrics::MemberMetrics};
use crate::tls;
use http::uri::{Authority, Scheme};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// How a member is, best first: calls go to the members of the best state there is.
///
/// ```text
///            probe answered                       read refused, status answered
/// Unknown ------------------> Healthy <---------> NoQuorum
///    |                        |     ^             |
///    | no answer, dial failed |     | answered    | no answer
///    +--------> Suspect <-----+     |             |
///                  |    ^-----------|-------------+
///                  | no answer, `failures` times  |
///                  +--------------> Down ---------+ (its connections are closed on entry)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Answers linearizable reads.
    Healthy,
    /// Not asked yet.
    Unknown,
    /// Answers, but has no leader or is cut off from the others.
    NoQuorum,
    /// A connection failed or a probe went unanswered; out until it answers one.
    Suspect,
    /// A learner, which refuses nearly everything.
    Learner,
    /// Did not answer several times.
    Down,
}

impl State {
    const ALL: [Self; 6] =
        [Self::Healthy, Self::Unknown, Self::NoQuorum, Self::Suspect, Self::Learner, Self::Down];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unknown => "unknown",
            Self::NoQuorum => "no_quorum",
            Self::Suspect => "suspect",
            Self::Learner => "learner",
            Self::Down => "down",
        }
    }
}

/// One member, as one endpoint shows it.
#[derive(Debug)]
pub struct Member {
    pub endpoint: Endpoint,
    /// The endpoint as text, for errors.
    pub name: Arc<str>,
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    pub(super) settings: Arc<Config>,
    pub(super) tls: Arc<tls::Connector>,
    pub(super) metrics: MemberMetrics,
    /// `pools[worker][lane]`.
    pools: Vec<[Arc<Pool>; 3]>,
    state: AtomicU8,
    /// etcd's id of the member, 0 until it is known.
    id: AtomicU64,
    in_flight: AtomicUsize,
    latency: Latency,
    /// When bytes last came from it on any connection.
    heard: AtomicInstant,
    /// Asks for a probe before the next one is due.
    pub(super) probe_now: Notify,
    /// Changes whenever `state` does; shared by the members of the cluster.
    cluster_changed: Arc<Notify>,
    last_error: Mutex<Option<Arc<str>>>,
}

impl Member {
    pub(super) fn new(
        endpoint: Endpoint,
        settings: Arc<Config>,
        tls: Arc<tls::Connector>,
        metrics: MemberMetrics,
        workers: usize,
        cluster_changed: Arc<Notify>,
    ) -> Self {
        // A host that makes no authority makes no connection either, and that is reported.
        let authority = endpoint.authority().parse().unwrap_or(Authority::from_static("etcd"));
        let pool =
            |lane| Arc::new(Pool::new(lane, settings.lanes.of(lane).clone(), settings.backoff_min));
        metrics.state.set(State::Unknown as i64);
        let scheme = if endpoint.tls { Scheme::HTTPS } else { Scheme::HTTP };
        Self {
            scheme,
            authority,
            name: endpoint.to_string().into(),
            endpoint,
            pools: (0..workers).map(|_| Lane::ALL.map(pool)).collect(),
            settings,
            tls,
            metrics,
            state: AtomicU8::new(State::Unknown as u8),
            id: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            latency: Latency::default(),
            heard: AtomicInstant::now(),
            probe_now: Notify::new(),
            cluster_changed,
            last_error: Mutex::new(None),
        }
    }

    pub fn state(&self) -> State {
        State::ALL[usize::from(self.state.load(Relaxed))]
    }

    /// etcd's id of the member, 0 until it is known.
    pub fn id(&self) -> u64 {
        self.id.load(Relaxed)
    }

    /// What went wrong last, while something is.
    pub fn last_error(&self) -> Option<Arc<str>> {
        self.last_error.lock().clone()
    }

    /// Calls that wait for this member's answer.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// What an answer takes, slow ones weighing more.
    pub fn latency(&self) -> Duration {
        Duration::from_secs_f64(self.latency.now())
    }

    /// Connections that are up on this lane, of all data threads, and calls on them.
    pub fn lane(&self, lane: Lane) -> (usize, usize) {
        let loads = self.pools.iter().map(|pools| pools[lane as usize].load());
        loads.fold((0, 0), |sum, load| (sum.0 + load.0, sum.1 + load.1))
    }

    pub(super) fn pool(&self, worker: usize, lane: Lane) -> &Arc<Pool> {
        &self.pools[worker][lane as usize]
    }

    pub(super) fn set_id(&self, id: u64) {
        self.id.store(id, Relaxed);
    }

    /// Bytes came from the member.
    pub(super) fn heard(&self) {
        self.heard.set_now();
    }

    /// How long nothing has come from the member.
    pub(super) fn silent_for(&self) -> Duration {
        self.heard.elapsed()
    }

    /// A connection failed: no further call until a probe, which is made now, says otherwise.
    pub(super) fn failed(&self, reason: &str) {
        if self.state() < State::Suspect {
            self.enter(State::Suspect, Some(reason));
        }
        self.probe_now.notify_one();
    }

    /// The one place where the state changes.
    pub(super) fn enter(&self, state: State, reason: Option<&str>) {
        let before = self.state();
        *self.last_error.lock() = reason.map(Arc::from);
        if before == state {
            return;
        }
        self.state.store(state as u8, Relaxed);
        self.metrics.state.set(state as i64);
        let (member, state_name) = (&*self.name, state.as_str());
        let cluster = &*self.settings.name;
        match state {
            State::Healthy => {
                tracing::info!(cluster, member, before = before.as_str(), "member is healthy")
            }
            State::Learner => {
                tracing::info!(cluster, member, "member is a learner and gets no calls")
            }
            _ => tracing::warn!(
                cluster,
                member,
                before = before.as_str(),
                state = state_name,
                reason,
                "member is not healthy"
            ),
        }
        match state {
            State::Down => self.close(),
            // What fails beside a connection that works is not to be tried without pause.
            _ if before == State::Down => {
                self.each_pool(|pool| pool.shorten_backoff(self.settings.backoff_min))
            }
            _ => {}
        }
        self.cluster_changed.notify_waiters();
    }

    /// Ends all connections to the member.
    pub(super) fn close(&self) {
        self.each_pool(Pool::close);
    }

    fn each_pool(&self, f: impl Fn(&Pool)) {
        self.pools.iter().flatten().for_each(|pool| f(pool));
    }

    /// The price of one more call here: what an answer takes, times those who wait for one.
    pub(super) fn cost(&self) -> f64 {
        self.latency.now() * (self.in_flight() + 1) as f64
    }

    /// A probe took this long.
    pub(super) fn observe_latency(&self, latency: Duration) {
        self.latency.observe(latency);
    }

    /// Counts a call that waits for its answer's head until the guard is dropped.
    pub(super) fn waiting(self: &Arc<Self>) -> Waiting {
        self.in_flight.fetch_add(1, Relaxed);
        Waiting { member: Arc::clone(self), since: Instant::now() }
    }
}

/// A call that waits for the head of its answer.
#[derive(Debug)]
pub(super) struct Waiting {
    member: Arc<Member>,
    since: Instant,
}

impl Waiting {
    /// The head came; `representative` if calls of this kind take about equally long.
    pub(super) fn answered(&self, representative: bool) {
        if representative {
            self.member.latency.observe(self.since.elapsed());
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.member.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Peak-sensitive moving average: a slow answer counts at once, a fast one slowly, so that a member
/// that stalls loses its calls within one answer.
#[derive(Debug, Default)]
struct Latency {
    /// Seconds as the bits of an `f64`, so that it is read without a lock. 0 until observed.
    average: AtomicU64,
}

/// Share of a faster answer in the average. Probes are answers too, so an unused member recovers.
const LATENCY_DECAY: f64 = 0.1;

impl Latency {
    fn now(&self) -> f64 {
        f64::from_bits(self.average.load(Relaxed))
    }

    fn observe(&self, latency: Duration) {
        let (before, seen) = (self.now(), latency.as_secs_f64());
        let average = if seen > before { seen } else { before + (seen - before) * LATENCY_DECAY };
        // Two data threads that write at once lose one of two observations, which is harmless.
        self.average.store(average.to_bits(), Relaxed);
    }
}

/// An [`Instant`] that may be set from any thread, in milliseconds after a fixed one.
#[derive(Debug)]
struct AtomicInstant {
    origin: Instant,
    millis: AtomicU64,
}

impl AtomicInstant {
    fn now() -> Self {
        Self { origin: Instant::now(), millis: AtomicU64::new(0) }
    }

    fn set_now(&self) {
        self.millis.store(self.origin.elapsed().as_millis() as u64, Relaxed);
    }

    fn elapsed(&self) -> Duration {
        self.origin.elapsed().saturating_sub(Duration::from_millis(self.millis.load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_answer_outweighs_many_fast_ones() {
        let latency = Latency::default();
        for _ in 0..100 {
            latency.observe(Duration::from_millis(1));
        }
        latency.observe(Duration::from_millis(500));
        assert!(latency.now() >= 0.5);
        latency.observe(Duration::from_millis(1));
        assert!(latency.now() > 0.4);
    }

    #[test]
    fn states_are_listed_in_the_order_of_their_numbers() {
        for (number, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, number);
        }
    }
}
