//! What an operator sees of the calls.

mod record;

pub use record::{Account, Record};

use crate::{admission::Class, etcd::method::Method};
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
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tonic::Code;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    method: &'static str,
    class: &'static str,
    cluster: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    method: &'static str,
    class: &'static str,
    cluster: String,
    code: &'static str,
}

#[derive(Debug, Clone, Copy)]
struct Seconds;

/// From the fastest point read to an answer that no client waits for, tripling.
impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new([0.000_5, 0.001_5, 0.004_5, 0.013_5, 0.04, 0.12, 0.36, 1.1, 3.3, 10.0, 30.0])
    }
}

/// The families of all calls.
#[derive(Debug)]
pub struct Metrics {
    requests: Family<CodeLabels, Counter>,
    seconds: Family<Labels, Histogram, Seconds>,
    bytes: Family<Labels, Counter>,
    open: Family<Labels, Gauge>,
    handles: parking_lot::RwLock<std::collections::HashMap<Arc<str>, Arc<Cells>>>,
}

/// The handles of one cluster's calls, resolved when first used.
#[derive(Debug)]
struct Cells {
    cluster: Arc<str>,
    cells: Vec<OnceLock<Arc<Cell>>>,
}

/// The handles of one method and class at one cluster.
#[derive(Debug)]
struct Cell {
    labels: Labels,
    seconds: Histogram,
    bytes: Counter,
    open: Gauge,
    /// Sum of what `seconds` observed, in microseconds: a histogram does not tell.
    micros: AtomicU64,
    codes: [OnceLock<Counter>; CODES.len()],
}

/// The calls of one class at one cluster, since the start.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Totals {
    pub cluster: String,
    pub class: &'static str,
    /// Those that have ended.
    pub calls: u64,
    /// Ended with what Seawall says when it lets a call not pass; etcd may say so, too.
    pub refused: u64,
    /// Ended without an answer.
    pub failed: u64,
    /// Those that have not ended.
    pub open: i64,
    /// Of answers.
    pub bytes: u64,
    /// That all of them took, streams excepted.
    pub seconds: f64,
}

const REFUSED: [Code; 2] = [Code::ResourceExhausted, Code::PermissionDenied];

const FAILED: [Code; 5] =
    [Code::Unknown, Code::DeadlineExceeded, Code::Internal, Code::Unavailable, Code::DataLoss];

/// Names of the gRPC codes, in the order of their numbers.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(Seconds),
            bytes: Family::default(),
            open: Family::default(),
            handles: parking_lot::RwLock::default(),
        };
        registry.register("requests", "Calls that have ended", metrics.requests.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from a call's arrival to the end of its answer, streams excepted",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register_with_unit(
            "response",
            "Bytes of answers sent to clients",
            Unit::Bytes,
            metrics.bytes.clone(),
        );
        registry.register("requests_open", "Calls that have not ended", metrics.open.clone());
        metrics
    }

    /// By cluster and class, all methods together.
    pub fn totals(&self) -> Vec<Totals> {
        let mut totals = BTreeMap::new();
        for cells in self.handles.read().values() {
            for cell in cells.cells.iter().filter_map(OnceLock::get) {
                let Labels { cluster, class, .. } = &cell.labels;
                let none = || Totals::none(cluster, class);
                totals.entry((cluster.clone(), *class)).or_insert_with(none).add(cell);
            }
        }
        totals.into_values().collect()
    }

    fn cell(&self, method: Option<Method>, class: Class, cluster: &Arc<str>) -> Arc<Cell> {
        let known = self.handles.read().get(cluster).cloned();
        let cells = known.unwrap_or_else(|| {
            let cells = || Arc::new(Cells::new(Arc::clone(cluster)));
            Arc::clone(self.handles.write().entry(Arc::clone(cluster)).or_insert_with(cells))
        });
        let row = method.map_or(Method::ALL.len(), |method| method as usize);
        let cell = &cells.cells[row * Class::ALL.len() + class as usize];
        Arc::clone(cell.get_or_init(|| Arc::new(self.new_cell(method, class, &cells.cluster))))
    }

    fn new_cell(&self, method: Option<Method>, class: Class, cluster: &str) -> Cell {
        let method = method.map_or("unknown", Method::name);
        let labels = Labels { method, class: class.as_str(), cluster: cluster.to_owned() };
        Cell {
            seconds: self.seconds.get_or_create_owned(&labels),
            bytes: self.bytes.get_or_create_owned(&labels),
            open: self.open.get_or_create_owned(&labels),
            micros: AtomicU64::new(0),
            codes: Default::default(),
            labels,
        }
    }

    /// Shows nothing more of a cluster that is gone: calls to it that have not ended are counted nowhere.
    pub fn forget(&self, cluster: &str) {
        let Some(gone) = self.handles.write().remove(cluster) else { return };
        for cell in gone.cells.iter().filter_map(OnceLock::get) {
            let Labels { method, class, cluster } = &cell.labels;
            self.seconds.remove(&cell.labels);
            self.bytes.remove(&cell.labels);
            self.open.remove(&cell.labels);
            for (counter, code) in cell.codes.iter().zip(CODES) {
                // Whoever ends with it later finds one that is not shown.
                counter.get_or_init(Counter::default);
                let (method, class, cluster) = (*method, *class, cluster.clone());
                self.requests.remove(&CodeLabels { method, class, cluster, code });
            }
        }
    }

    fn counter(&self, labels: &Labels, code: &'static str) -> Counter {
        let Labels { method, class, cluster } = labels.clone();
        self.requests.get_or_create_owned(&CodeLabels { method, class, cluster, code })
    }
}

impl Cells {
    fn new(cluster: Arc<str>) -> Self {
        let cells = (Method::ALL.len() + 1) * Class::ALL.len();
        Self { cluster, cells: (0..cells).map(|_| OnceLock::new()).collect() }
    }
}

impl Totals {
    fn none(cluster: &str, class: &'static str) -> Self {
        let cluster = cluster.to_owned();
        let (calls, refused, failed, open, bytes, seconds) = Default::default();
        Self { cluster, class, calls, refused, failed, open, bytes, seconds }
    }

    fn add(&mut self, cell: &Cell) {
        let ended = |code: Code| cell.codes[code as usize].get().map_or(0, Counter::get);
        self.calls += cell.codes.iter().filter_map(OnceLock::get).map(Counter::get).sum::<u64>();
        self.refused += REFUSED.map(ended).iter().sum::<u64>();
        self.failed += FAILED.map(ended).iter().sum::<u64>();
        self.open += cell.open.get();
        self.bytes += cell.bytes.get();
        self.seconds += cell.micros.load(Relaxed) as f64 / 1e6;
    }
}
