use crate::{
    access::Access,
    admission::Protection,
    attribution::Attribution,
    pipeline::{Metrics, Reads, Topology},
    telemetry::Traces,
};
use arc_swap::ArcSwap;
use std::{ops::Deref, sync::Arc};
use tokio_util::sync::CancellationToken;

use super::http::Page;

/// What all calls of one listener share.
#[derive(Debug)]
pub struct Edge {
    topology: ArcSwap<Topology>,
    pub request_bytes_max: usize,
    common: Common,
}

/// What all calls of all listeners share.
#[derive(Debug, Clone)]
pub struct Common {
    pub metrics: Arc<Metrics>,
    pub protection: Arc<Protection>,
    pub access: Arc<Access>,
    pub reads: Arc<Reads>,
    pub attribution: Arc<Attribution>,
    /// Where calls are traced.
    pub traces: Option<Arc<Traces>>,
    /// `/metrics` of the client port.
    pub metrics_page: Page,
    /// Cancelled when the process begins to stop.
    pub draining: CancellationToken,
}

impl Deref for Edge {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

impl Edge {
    pub fn new(topology: Topology, request_bytes_max: usize, common: Common) -> Self {
        Self { topology: ArcSwap::from_pointee(topology), request_bytes_max, common }
    }

    /// The clusters behind the listener as they are now.
    pub fn topology(&self) -> Arc<Topology> {
        self.topology.load_full()
    }

    /// Puts `topology` in the place of the old one. Calls under way end with the old one; those that
    /// would not end are ended, so that clients open them anew where their keys are now.
    pub fn replace(&self, topology: Topology) {
        self.topology.swap(Arc::new(topology)).ended.cancel();
    }
}
