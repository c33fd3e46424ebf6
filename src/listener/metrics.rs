//! What an operator sees of the connections.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    listener: String,
}

/// The families of all listeners.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    connections: Family<Labels, Gauge>,
    accepted: Family<Labels, Counter>,
    refused: Family<Labels, Counter>,
    handshake_failures: Family<Labels, Counter>,
    received: Family<Labels, Counter>,
    sent: Family<Labels, Counter>,
}

/// The handles of one listener.
#[derive(Debug, Clone)]
pub(super) struct ListenerMetrics {
    pub(super) connections: Gauge,
    pub(super) accepted: Counter,
    pub(super) refused: Counter,
    pub(super) handshake_failures: Counter,
    pub(super) received: Counter,
    pub(super) sent: Counter,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("listener");
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register(
            "connections_accepted",
            "Connections that were accepted",
            metrics.accepted.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections closed at once because there were too many",
            metrics.refused.clone(),
        );
        registry.register(
            "handshake_failures",
            "Connections that ended in a failed TLS or HTTP handshake",
            metrics.handshake_failures.clone(),
        );
        registry.register_with_unit(
            "received",
            "Bytes read from HTTP/2 clients",
            Unit::Bytes,
            metrics.received.clone(),
        );
        registry.register_with_unit(
            "sent",
            "Bytes written to HTTP/2 clients",
            Unit::Bytes,
            metrics.sent.clone(),
        );
        metrics
    }

    pub(super) fn listener(&self, name: &str) -> ListenerMetrics {
        let labels = Labels { listener: name.to_owned() };
        ListenerMetrics {
            connections: self.connections.get_or_create_owned(&labels),
            accepted: self.accepted.get_or_create_owned(&labels),
            refused: self.refused.get_or_create_owned(&labels),
            handshake_failures: self.handshake_failures.get_or_create_owned(&labels),
            received: self.received.get_or_create_owned(&labels),
            sent: self.sent.get_or_create_owned(&labels),
        }
    }
}
