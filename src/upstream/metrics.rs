//! What an operator sees of the clusters.

use super::Endpoint;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MemberLabels {
    cluster: String,
    member: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabels {
    cluster: String,
}

/// The families of all clusters.
#[derive(Debug, Clone)]
pub struct Metrics {
    state: Family<MemberLabels, Gauge>,
    connections: Family<MemberLabels, Gauge>,
    connection_failures: Family<MemberLabels, Counter>,
    probe_seconds: Family<MemberLabels, Histogram, ProbeBuckets>,
    probe_failures: Family<MemberLabels, Counter>,
    leader: Family<MemberLabels, Gauge>,
    db_size: Family<MemberLabels, Gauge>,
    db_size_in_use: Family<MemberLabels, Gauge>,
    db_quota: Family<MemberLabels, Gauge>,
    alarms: Family<MemberLabels, Gauge>,
    leader_changes: Family<ClusterLabels, Counter>,
    retries: Family<ClusterLabels, Counter>,
    retries_denied: Family<ClusterLabels, Counter>,
}

/// The handles of one member.
#[derive(Debug, Clone)]
pub(super) struct MemberMetrics {
    pub(super) state: Gauge,
    pub(super) connections: Gauge,
    pub(super) connection_failures: Counter,
    pub(super) probe_seconds: Histogram,
    pub(super) probe_failures: Counter,
    pub(super) leader: Gauge,
    pub(super) db_size: Gauge,
    pub(super) db_size_in_use: Gauge,
    pub(super) db_quota: Gauge,
    pub(super) alarms: Gauge,
}

/// The handles of one cluster.
#[derive(Debug, Clone)]
pub(super) struct ClusterMetrics {
    pub(super) leader_changes: Counter,
    pub(super) retries: Counter,
    pub(super) retries_denied: Counter,
}

/// From a local etcd at rest to one that is about to be given up, doubling.
#[derive(Debug, Clone)]
struct ProbeBuckets;

impl MetricConstructor<Histogram> for ProbeBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new((0..14).map(|exponent| 0.000_5 * f64::from(1 << exponent)))
    }
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("upstream");
        let metrics = Self {
            state: Family::default(),
            connections: Family::default(),
            connection_failures: Family::default(),
            probe_seconds: Family::new_with_constructor(ProbeBuckets),
            probe_failures: Family::default(),
            leader: Family::default(),
            db_size: Family::default(),
            db_size_in_use: Family::default(),
            db_quota: Family::default(),
            alarms: Family::default(),
            leader_changes: Family::default(),
            retries: Family::default(),
            retries_denied: Family::default(),
        };
        registry.register(
            "member_state",
            "State of a member: 0 healthy, 1 unknown, 2 no quorum, 3 suspect, 4 learner, 5 down",
            metrics.state.clone(),
        );
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register(
            "connection_failures",
            "Connections that could not be made",
            metrics.connection_failures.clone(),
        );
        registry.register_with_unit(
            "probe_duration",
            "Time a linearizable point read takes",
            Unit::Seconds,
            metrics.probe_seconds.clone(),
        );
        registry.register(
            "probe_failures",
            "Probes that failed or went unanswered",
            metrics.probe_failures.clone(),
        );
        registry.register("leader", "1 for the member that leads", metrics.leader.clone());
        registry.register_with_unit(
            "db_size",
            "Size of the database file",
            Unit::Bytes,
            metrics.db_size.clone(),
        );
        registry.register_with_unit(
            "db_size_in_use",
            "Bytes of the database file that hold data",
            Unit::Bytes,
            metrics.db_size_in_use.clone(),
        );
        registry.register_with_unit(
            "db_quota",
            "Size at which etcd refuses writes; before 3.6 it is protection.space.quota, 0 without one",
            Unit::Bytes,
            metrics.db_quota.clone(),
        );
        registry.register("alarms", "Alarms the member reports", metrics.alarms.clone());
        registry.register(
            "leader_changes",
            "Changes of leader that were seen",
            metrics.leader_changes.clone(),
        );
        registry.register("retries", "Reads sent to a second member", metrics.retries.clone());
        registry.register(
            "retries_denied",
            "Reads not sent to a second member because the budget was spent",
            metrics.retries_denied.clone(),
        );
        metrics
    }

    pub(super) fn member(&self, cluster: &str, endpoint: &Endpoint) -> MemberMetrics {
        let labels = MemberLabels { cluster: cluster.into(), member: endpoint.to_string() };
        MemberMetrics {
            state: self.state.get_or_create_owned(&labels),
            connections: self.connections.get_or_create_owned(&labels),
            connection_failures: self.connection_failures.get_or_create_owned(&labels),
            probe_seconds: self.probe_seconds.get_or_create_owned(&labels),
            probe_failures: self.probe_failures.get_or_create_owned(&labels),
            leader: self.leader.get_or_create_owned(&labels),
            db_size: self.db_size.get_or_create_owned(&labels),
            db_size_in_use: self.db_size_in_use.get_or_create_owned(&labels),
            db_quota: self.db_quota.get_or_create_owned(&labels),
            alarms: self.alarms.get_or_create_owned(&labels),
        }
    }

    /// Shows nothing more of a member; its handles count for nobody from then on.
    pub fn forget_member(&self, cluster: &str, endpoint: &Endpoint) {
        let labels = MemberLabels { cluster: cluster.into(), member: endpoint.to_string() };
        self.probe_seconds.remove(&labels);
        for counter in [&self.connection_failures, &self.probe_failures] {
            counter.remove(&labels);
        }
        for gauge in [
            &self.state,
            &self.connections,
            &self.leader,
            &self.db_size,
            &self.db_size_in_use,
            &self.db_quota,
            &self.alarms,
        ] {
            gauge.remove(&labels);
        }
    }

    /// The same of what is counted of a cluster as a whole.
    pub fn forget_cluster(&self, cluster: &str) {
        let labels = ClusterLabels { cluster: cluster.into() };
        for counter in [&self.leader_changes, &self.retries, &self.retries_denied] {
            counter.remove(&labels);
        }
    }

    pub(super) fn cluster(&self, cluster: &str) -> ClusterMetrics {
        let labels = ClusterLabels { cluster: cluster.into() };
        ClusterMetrics {
            leader_changes: self.leader_changes.get_or_create_owned(&labels),
            retries: self.retries.get_or_create_owned(&labels),
            retries_denied: self.retries_denied.get_or_create_owned(&labels),
        }
    }
}
