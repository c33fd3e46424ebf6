//! What an operator sees of the protections.

use super::Mode;
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
struct ProtectionLabels {
    protection: String,
    mode: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    cluster: String,
    queue: &'static str,
}

#[derive(Debug, Clone, Copy)]
struct Seconds;

/// From what nobody notices to what nobody waits for, tripling.
impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0])
    }
}

/// The families of all protections.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    delayed: Family<ProtectionLabels, Counter>,
    refused: Family<ProtectionLabels, Counter>,
    waited: Family<QueueLabels, Histogram, Seconds>,
    running: Family<QueueLabels, Gauge>,
    waiting: Family<QueueLabels, Gauge>,
    limit: Family<QueueLabels, Gauge>,
    pub(super) held: Gauge,
}

/// The handles of one protection: what it did, and what it would have done.
#[derive(Debug, Clone)]
pub(super) struct Counters {
    enforced: Counted,
    observed: Counted,
}

/// Calls of one protection in one mode.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    pub(super) delayed: Counter,
    pub(super) refused: Counter,
}

/// The handles of one queue.
#[derive(Debug, Clone)]
pub(super) struct QueueMetrics {
    pub(super) waited: Histogram,
    pub(super) running: Gauge,
    pub(super) waiting: Gauge,
    pub(super) limit: Gauge,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            delayed: Family::default(),
            refused: Family::default(),
            waited: Family::new_with_constructor(Seconds),
            running: Family::default(),
            waiting: Family::default(),
            limit: Family::default(),
            held: Gauge::default(),
        };
        registry.register(
            "protection_delayed",
            "Calls that a protection made wait, or would have",
            metrics.delayed.clone(),
        );
        registry.register(
            "protection_refused",
            "Calls that a protection refused, or would have",
            metrics.refused.clone(),
        );
        registry.register_with_unit(
            "queue_wait",
            "Time that calls waited for their turn",
            Unit::Seconds,
            metrics.waited.clone(),
        );
        registry.register("queue_running", "Calls at etcd", metrics.running.clone());
        registry.register("queue_waiting", "Calls that wait for a turn", metrics.waiting.clone());
        registry.register("queue_limit", "Calls let to etcd at once", metrics.limit.clone());
        registry.register_with_unit(
            "held",
            "Bytes of answers that are held, of protection.memory",
            Unit::Bytes,
            metrics.held.clone(),
        );
        metrics
    }

    pub(super) fn protection(&self, name: &str) -> Counters {
        let counted = |mode| {
            let labels = ProtectionLabels { protection: name.to_owned(), mode };
            Counted {
                delayed: self.delayed.get_or_create_owned(&labels),
                refused: self.refused.get_or_create_owned(&labels),
            }
        };
        Counters { enforced: counted("enforce"), observed: counted("observe") }
    }

    pub(super) fn queue(&self, cluster: &str, queue: &'static str) -> QueueMetrics {
        let labels = QueueLabels { cluster: cluster.to_owned(), queue };
        QueueMetrics {
            waited: self.waited.get_or_create_owned(&labels),
            running: self.running.get_or_create_owned(&labels),
            waiting: self.waiting.get_or_create_owned(&labels),
            limit: self.limit.get_or_create_owned(&labels),
        }
    }
}

impl Metrics {
    /// Shows nothing more of a queue; its handles count for nobody from then on.
    pub(super) fn forget_queue(&self, cluster: &str, queue: &'static str) {
        let labels = QueueLabels { cluster: cluster.to_owned(), queue };
        self.waited.remove(&labels);
        for gauge in [&self.running, &self.waiting, &self.limit] {
            gauge.remove(&labels);
        }
    }
}

impl Counters {
    pub(super) fn of(&self, mode: Mode) -> &Counted {
        if mode == Mode::Enforce { &self.enforced } else { &self.observed }
    }

    /// Delayed and refused, each as enforced and as observed.
    pub(super) fn figures(&self) -> [u64; 4] {
        let Self { enforced, observed } = self;
        [&enforced.delayed, &enforced.refused, &observed.delayed, &observed.refused]
            .map(Counter::get)
    }
}
