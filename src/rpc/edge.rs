use crate::{
    admission::Protection,
    pipeline::{Metrics, Reads, Topology},
};
use arc_swap::ArcSwap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use super::http::Page;

/// What all calls of one listener share.
#[derive(Debug)]
pub struct Edge {
    topology: ArcSwap<Topology>,
    pub request_bytes_max: usize,
    pub metrics: Arc<Metrics>,
    pub protection: Arc<Protection>,
    pub reads: Arc<Reads>,
    /// `/metrics` of the client port.
    pub metrics_page: Page,
    /// Cancelled when the process begins to stop.
    pub draining: CancellationToken,
}

impl Edge {
    pub fn new(
        topology: Topology,
        request_bytes_max: usize,
        metrics: Arc<Metrics>,
        (protection, reads): (Arc<Protection>, Arc<Reads>),
        metrics_page: Page,
        draining: CancellationToken,
    ) -> Self {
        let topology = ArcSwap::from_pointee(topology);
        Self { topology, request_bytes_max, metrics, protection, reads, metrics_page, draining }
    }

    /// The clusters behind the listener as they are now.
    pub fn topology(&self) -> Arc<Topology> {
        self.topology.load_full()
    }

    /// Puts `topology` in the place of the old one. Calls under way end with the old one; watches
    /// are ended, so that clients open them anew where their keys are now.
    pub fn replace(&self, topology: Topology) {
        self.topology.swap(Arc::new(topology)).replaced.cancel();
    }
}
