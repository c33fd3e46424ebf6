//! Who loads etcd: the prefixes, clients and shapes of requests that cost most, and the largest
//! objects, in memory that does not grow with how many there are.

mod config;
mod heap;
mod largest;
mod metrics;
mod names;
mod sketch;
mod slow;
mod top;
mod trace;
mod watches;
mod window;

pub use config::Config;
pub use top::{Caller, Demand, Load, Object, Prefix, Ranked, Ranking, Top};
pub use trace::{TraceConfig, TraceLine, read_trace};
pub use watches::StreamRecord;
pub use window::Window;

use crate::{
    admission::{Class, Client, Cost, Place, Shape, Subject},
    etcd::{key_range::KeyRange, method::Method},
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use names::{Hashed, KeyName, UseName};
use parking_lot::{Mutex, MutexGuard};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use sketch::Merged;
use slow::SlowLog;
use std::{
    hash::{Hash, RandomState},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;
use trace::Trace;
use window::{Names, PARTS, Ring, Summaries};

/// A call that has ended, as far as it is attributed to anyone.
#[derive(Debug)]
pub struct Observation<'a> {
    pub cluster: &'a Arc<str>,
    pub client: &'a Arc<Client>,
    pub place: &'a Place,
    /// The keys it reads or writes; a transaction's first.
    pub range: Option<&'a KeyRange>,
    /// Of the largest value that it writes.
    pub value_bytes: u64,
    /// How many keys it reads at most; 0 without a limit.
    pub limit: u64,
    pub shape: Shape,
    pub class: Class,
    pub method: &'static str,
    pub code: tonic::Code,
    /// Finite and not negative.
    pub cost: f64,
    pub keys: u64,
    /// Of request and answer.
    pub bytes: u64,
    pub took: Duration,
    /// Part of `took` that it stood in queues.
    pub waited: Duration,
    pub stream: bool,
}

impl<'a> Observation<'a> {
    /// One request of a stream, which takes no time of its own.
    pub fn of(cluster: &'a Arc<str>, subject: &'a Subject, cost: Cost) -> Self {
        Self {
            cluster,
            client: &subject.client,
            place: &subject.place,
            range: subject.keys.as_ref(),
            value_bytes: subject.value_size,
            limit: 0,
            shape: subject.shape,
            class: subject.class,
            method: subject.method.map_or("unknown", Method::name),
            code: tonic::Code::Ok,
            cost: cost.units(),
            keys: cost.keys,
            bytes: cost.bytes,
            took: Duration::ZERO,
            waited: Duration::ZERO,
            stream: true,
        }
    }
}

/// Counts all calls. Each worker counts by itself; what they have counted is put together when it is
/// looked at.
#[derive(Debug)]
pub struct Attribution {
    started: Instant,
    config: ArcSwap<Config>,
    hasher: RandomState,
    /// One for each worker and one for the control thread. Held for moments: by its worker while it
    /// counts a call, by readers while they copy one part of a window.
    rings: Vec<Mutex<Rings>>,
    slow: SlowLog,
    trace: Option<Trace>,
}

#[derive(Debug)]
struct Rings {
    minute: Ring,
    hour: Ring,
}

impl Attribution {
    pub fn new(config: Config, workers: usize, registry: &mut Registry) -> Arc<Self> {
        let rings = || Rings {
            minute: Ring::new(Window::Minute, config.entries),
            hour: Ring::new(Window::Hour, config.entries),
        };
        let attribution = Arc::new(Self {
            started: Instant::now(),
            hasher: RandomState::new(),
            rings: (0..=workers).map(|_| Mutex::new(rings())).collect(),
            slow: SlowLog::register(registry),
            trace: start_trace(config.trace.as_ref(), registry),
            config: ArcSwap::from_pointee(config),
        });
        registry.register_collector(Box::new(metrics::TopCollector(Arc::clone(&attribution))));
        attribution
    }

    /// Counts a call, and logs it if it was slow or heavy. `worker` counts from 0; what is beyond the
    /// last shares its counters.
    pub fn observe(&self, worker: usize, seen: &Observation<'_>) {
        let age = self.started.elapsed();
        let prefix = KeyName::new(seen.cluster, &seen.place.collection);
        let names = Names {
            prefix: Hashed::new(prefix, &self.hasher),
            client: Hashed::new(seen.client, &self.hasher),
            used: Hashed::new(
                UseName { prefix, client: seen.client, shape: seen.shape },
                &self.hasher,
            ),
        };
        let Observation { cost, keys, bytes, .. } = *seen;
        debug_assert!(cost.is_finite() && cost >= 0.0, "a cost of {cost} spoils all sums");
        let load = Load { cost, requests: 1, bytes, keys };
        let mut rings = self.rings(worker);
        rings.minute.at(age).add(&names, &load);
        rings.hour.at(age).add(&names, &load);
        drop(rings);
        self.slow.see(age, &self.config.load(), seen);
        if let Some(trace) = &self.trace {
            trace.record(age, seen);
        }
    }

    /// Takes note of an object's size.
    pub fn object(&self, worker: usize, cluster: &Arc<str>, key: &Bytes, size: u64) {
        let age = self.started.elapsed();
        let name = Hashed::new(KeyName::new(cluster, key), &self.hasher);
        let mut rings = self.rings(worker);
        rings.minute.at(age).object(&name, size);
        rings.hour.at(age).object(&name, size);
    }

    pub fn top(&self) -> Top {
        Top { minute: self.ranking(Window::Minute), hour: self.ranking(Window::Hour) }
    }

    pub fn ranking(&self, window: Window) -> Ranking {
        let (mut prefixes, mut clients) = (Merged::default(), Merged::default());
        let (mut uses, mut objects) = (Merged::default(), Vec::new());
        let mut total = Load::default();
        for part in self.parts(window) {
            total += part.total;
            prefixes.add(part.prefixes);
            clients.add(part.clients);
            uses.add(part.uses);
            objects.push(part.objects);
        }
        let entries = self.config.load().entries;
        Ranking {
            seconds: window.length().as_secs(),
            total,
            prefixes: ranked(prefixes, entries, &total),
            clients: ranked(clients, entries, &total),
            shapes: ranked(uses, entries, &total),
            objects: largest::merge(objects, entries).into_iter().map(Object::from).collect(),
        }
    }

    /// What is counted so far is kept, as far as there is still room for it.
    pub fn reconfigure(&self, config: Config) {
        for rings in &self.rings {
            let mut rings = rings.lock();
            rings.minute.resize(config.entries);
            rings.hour.resize(config.entries);
        }
        self.config.store(Arc::new(config));
    }

    /// Copies of all parts of a window. Each lock is held for one part only, so that no call waits
    /// for more.
    fn parts(&self, window: Window) -> impl Iterator<Item = Summaries> {
        let last = window.part(self.started.elapsed());
        let numbers = move || last.saturating_sub(PARTS - 1)..=last;
        let parts = self.rings.iter().flat_map(move |rings| {
            numbers().map(move |number| {
                let rings = rings.lock();
                match window {
                    Window::Minute => rings.minute.part(number),
                    Window::Hour => rings.hour.part(number),
                }
            })
        });
        parts.flatten()
    }

    fn rings(&self, worker: usize) -> MutexGuard<'_, Rings> {
        self.rings[worker.min(self.rings.len() - 1)].lock()
    }
}

/// What cannot be recorded is served all the same.
fn start_trace(config: Option<&TraceConfig>, registry: &mut Registry) -> Option<Trace> {
    let dropped = Counter::default();
    registry.register(
        "trace_dropped",
        "Calls that were not recorded, since the file did not keep up",
        dropped.clone(),
    );
    let config = config?;
    match Trace::start(config, dropped) {
        Ok(trace) => Some(trace),
        Err(error) => {
            tracing::error!(file = %config.file.display(), %error, "trace: cannot be recorded");
            None
        }
    }
}

fn ranked<K: Eq + Hash, N: for<'a> From<&'a K>>(
    merged: Merged<K>,
    entries: usize,
    total: &Load,
) -> Vec<Ranked<N>> {
    let heaviest = merged.heaviest(entries);
    heaviest.iter().map(|weighed| Ranked::new(weighed, total.cost)).collect()
}

#[cfg(test)]
mod tests;
