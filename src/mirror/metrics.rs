use super::Pass;
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
struct ClusterLabels {
    cluster: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PassLabels {
    cluster: String,
    reason: &'static str,
}

/// How far behind the feed of each cluster is.
#[derive(Debug, Clone)]
struct Lag(Family<ClusterLabels, Histogram, LagBuckets>);

impl Default for Lag {
    fn default() -> Self {
        Self(Family::new_with_constructor(LagBuckets))
    }
}

/// Buckets from 0.1 ms to 0.8 s: how far behind it may be before reads are passed on.
#[derive(Debug, Clone)]
struct LagBuckets;

impl MetricConstructor<Histogram> for LagBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new((0..14).map(|exponent| 0.000_1 * f64::from(1 << exponent)))
    }
}

/// The families of all clusters.
#[derive(Debug, Clone, Default)]
pub struct Families {
    live: Family<ClusterLabels, Gauge>,
    revision: Family<ClusterLabels, Gauge>,
    bytes: Family<ClusterLabels, Gauge>,
    collections: Family<ClusterLabels, Gauge>,
    answers: Family<ClusterLabels, Counter>,
    would_answer: Family<ClusterLabels, Counter>,
    passes: Family<PassLabels, Counter>,
    events: Family<ClusterLabels, Counter>,
    loads: Family<ClusterLabels, Counter>,
    loads_failed: Family<ClusterLabels, Counter>,
    evictions: Family<ClusterLabels, Counter>,
    resets: Family<ClusterLabels, Counter>,
    verifications: Family<ClusterLabels, Counter>,
    mismatches: Family<ClusterLabels, Counter>,
    lag: Lag,
    watchers: Family<ClusterLabels, Gauge>,
    watch_events: Family<ClusterLabels, Counter>,
    watch_handovers: Family<ClusterLabels, Counter>,
    watch_returns: Family<ClusterLabels, Counter>,
}

/// The handles of one cluster.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(super) live: Gauge,
    pub(super) revision: Gauge,
    pub(super) bytes: Gauge,
    pub(super) collections: Gauge,
    pub answers: Counter,
    pub would_answer: Counter,
    passes: [Counter; Pass::ALL.len()],
    pub(super) events: Counter,
    pub(super) loads: Counter,
    pub(super) loads_failed: Counter,
    pub(super) evictions: Counter,
    pub(super) resets: Counter,
    pub(super) verifications: Counter,
    pub(super) mismatches: Counter,
    pub lag: Histogram,
    pub watchers: Gauge,
    pub watch_events: Counter,
    pub watch_handovers: Counter,
    pub watch_returns: Counter,
}

impl Families {
    pub fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        let registry = registry.sub_registry_with_prefix("mirror");
        for (name, help, gauge) in [
            ("live", "Whether the feed of a cluster is followed", &this.live),
            ("revision", "Revision up to which events were applied", &this.revision),
            ("collections", "Collections that are ready", &this.collections),
            ("watchers", "Watchers that are served from memory", &this.watchers),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register_with_unit(
            "held",
            "Memory of collections",
            Unit::Bytes,
            this.bytes.clone(),
        );
        for (name, help, counter) in [
            ("answers", "Reads that were answered from memory", &this.answers),
            (
                "would_answer",
                "Reads it would have answered, had it not only observed",
                &this.would_answer,
            ),
            ("events", "Events that the feed brought", &this.events),
            ("loads", "Collections that were loaded", &this.loads),
            ("loads_failed", "Collections that could not be loaded", &this.loads_failed),
            ("evictions", "Collections or their values given up for memory", &this.evictions),
            ("resets", "Times that all was dropped because the feed could not go on", &this.resets),
            ("verifications", "Comparisons of a collection with etcd", &this.verifications),
            (
                "mismatches",
                "Collections that differed from etcd and were dropped",
                &this.mismatches,
            ),
            ("watch_events", "Events sent to watchers from memory", &this.watch_events),
            ("watch_handovers", "Watchers that went on at etcd", &this.watch_handovers),
            ("watch_returns", "Watchers that came back from etcd", &this.watch_returns),
        ] {
            registry.register(name, help, counter.clone());
        }
        let help = "Time from an answer of etcd until watches had come as far";
        registry.register_with_unit("lag", help, Unit::Seconds, this.lag.0.clone());
        registry.register("passes", "Reads that went to etcd, by reason", this.passes.clone());
        this
    }

    /// Shows nothing more of a cluster; its handles count for nobody from then on.
    pub fn forget(&self, cluster: &str) {
        let labels = ClusterLabels { cluster: cluster.to_owned() };
        for gauge in [&self.live, &self.revision, &self.bytes, &self.collections, &self.watchers] {
            gauge.remove(&labels);
        }
        for counter in [
            &self.answers,
            &self.would_answer,
            &self.events,
            &self.loads,
            &self.loads_failed,
            &self.evictions,
            &self.resets,
            &self.verifications,
            &self.mismatches,
            &self.watch_events,
            &self.watch_handovers,
            &self.watch_returns,
        ] {
            counter.remove(&labels);
        }
        self.lag.0.remove(&labels);
        for reason in Pass::ALL.map(|pass| pass.as_str()) {
            self.passes.remove(&PassLabels { cluster: cluster.to_owned(), reason });
        }
    }

    pub(super) fn cluster(&self, cluster: &str) -> Metrics {
        let labels = ClusterLabels { cluster: cluster.to_owned() };
        let pass = |pass: Pass| {
            let labels = PassLabels { cluster: cluster.to_owned(), reason: pass.as_str() };
            self.passes.get_or_create(&labels).clone()
        };
        Metrics {
            live: self.live.get_or_create(&labels).clone(),
            revision: self.revision.get_or_create(&labels).clone(),
            bytes: self.bytes.get_or_create(&labels).clone(),
            collections: self.collections.get_or_create(&labels).clone(),
            answers: self.answers.get_or_create(&labels).clone(),
            would_answer: self.would_answer.get_or_create(&labels).clone(),
            passes: Pass::ALL.map(pass),
            events: self.events.get_or_create(&labels).clone(),
            loads: self.loads.get_or_create(&labels).clone(),
            loads_failed: self.loads_failed.get_or_create(&labels).clone(),
            evictions: self.evictions.get_or_create(&labels).clone(),
            resets: self.resets.get_or_create(&labels).clone(),
            verifications: self.verifications.get_or_create(&labels).clone(),
            mismatches: self.mismatches.get_or_create(&labels).clone(),
            lag: self.lag.0.get_or_create(&labels).clone(),
            watchers: self.watchers.get_or_create(&labels).clone(),
            watch_events: self.watch_events.get_or_create(&labels).clone(),
            watch_handovers: self.watch_handovers.get_or_create(&labels).clone(),
            watch_returns: self.watch_returns.get_or_create(&labels).clone(),
        }
    }
}

impl Metrics {
    /// Counts a read that goes to etcd.
    pub fn pass(&self, pass: Pass) {
        self.passes[pass as usize].inc();
    }
}
