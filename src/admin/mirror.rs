//! What is answered from memory, as JSON, and the switch of one collection.

use super::{View, access::Operator, protection::refused};
use crate::{
    mirror::{Collection, Mirror, State as Held},
    telemetry::audit::audit,
};
use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};
use tokio::time::Instant;

/// What `/mirror` shows.
#[derive(Debug, Serialize)]
pub(super) struct Overview {
    /// How far it goes.
    mode: &'static str,
    clusters: BTreeMap<String, ClusterMirror>,
}

#[derive(Debug, Serialize)]
struct ClusterMirror {
    /// Whether the feed is followed.
    live: bool,
    /// How far it was followed.
    revision: i64,
    /// How much further etcd is, as far as its members have told.
    behind: i64,
    memory: Memory,
    answers: u64,
    /// Watchers that are served from memory, what they were sent, and those that went on at etcd or
    /// came from there.
    watchers: i64,
    watch_events: u64,
    watch_handovers: u64,
    watch_returns: u64,
    collections: Vec<CollectionMirror>,
}

/// Bytes of collections and of their past.
#[derive(Debug, Serialize)]
struct Memory {
    used: u64,
    limit: u64,
}

#[derive(Debug, Serialize)]
struct CollectionMirror {
    collection: String,
    state: &'static str,
    /// What is held of each object, where it is ready.
    tier: Option<&'static str>,
    /// Why it rests.
    why: Option<&'static str>,
    keys: usize,
    bytes: usize,
    /// Of its last change.
    revision: Option<i64>,
    hits: u64,
    misses: u64,
    idle_seconds: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Params {
    collection: Option<String>,
    mode: Option<String>,
}

const EXPECTED: &str = "expected ?collection=/registry/pods&mode=off or on";

pub(super) fn overview(view: &View) -> Overview {
    let clusters = view.mirrors().into_iter();
    let clusters =
        clusters.map(|(mirror, newest)| (mirror.cluster.to_string(), of(&mirror, newest)));
    Overview { mode: view.protection.mirror().as_str(), clusters: clusters.collect() }
}

pub(super) async fn show(State(view): State<Arc<View>>, Path(name): Path<String>) -> Response {
    match named(&view, &name) {
        Ok((mirror, newest)) => Json(of(&mirror, newest)).into_response(),
        Err(why) => refused(StatusCode::NOT_FOUND, &why),
    }
}

/// Takes effect for the next call; what is held of a collection that is switched off is dropped.
pub(super) async fn switch(
    State(view): State<Arc<View>>,
    Path(name): Path<String>,
    Operator(operator): Operator,
    Query(Params { collection, mode }): Query<Params>,
) -> Response {
    let mirror = match named(&view, &name) {
        Ok((mirror, _)) => mirror,
        Err(why) => return refused(StatusCode::NOT_FOUND, &why),
    };
    let (Some(collection), Some(mode @ ("on" | "off"))) = (&collection, mode.as_deref()) else {
        return refused(StatusCode::BAD_REQUEST, &EXPECTED);
    };
    let Some(switched) = mirror.switch(collection.as_bytes(), mode == "off").await else {
        let why = format!("no collection {collection:?} was asked for yet; GET /mirror shows all");
        return refused(StatusCode::NOT_FOUND, &why);
    };
    audit!(
        "mirror_switched",
        client = &*operator.name,
        address = %operator.address,
        cluster = &*mirror.cluster,
        collection,
        mode,
        "mirror switched"
    );
    Json(of_collection(&switched)).into_response()
}

impl Overview {
    /// The collections that something is held of, or that rest, at most `rows` of each cluster: those
    /// that were read most.
    pub(super) fn shortened(mut self, rows: usize) -> Self {
        for cluster in self.clusters.values_mut() {
            cluster.collections.retain(|held| held.state != "cold" || held.why.is_some());
            cluster.collections.sort_by_key(|held| Reverse(held.hits + held.misses));
            cluster.collections.truncate(rows);
        }
        self
    }
}

fn named(view: &View, name: &str) -> Result<(Arc<Mirror>, i64), String> {
    let mut mirrors = view.mirrors();
    match mirrors.iter().position(|(mirror, _)| *mirror.cluster == *name) {
        Some(index) => Ok(mirrors.swap_remove(index)),
        None => {
            let known: Vec<_> = mirrors.iter().map(|(mirror, _)| &*mirror.cluster).collect();
            let why = format!("there is no etcd cluster {name:?}; there is {}", known.join(", "));
            Err(why)
        }
    }
}

fn of(mirror: &Mirror, newest: i64) -> ClusterMirror {
    let position = mirror.position();
    ClusterMirror {
        live: position.live,
        revision: position.revision,
        behind: (newest - position.revision).max(0),
        memory: Memory { used: mirror.held_bytes(), limit: mirror.config().memory_bytes },
        answers: mirror.metrics.answers.get(),
        watchers: mirror.metrics.watchers.get(),
        watch_events: mirror.metrics.watch_events.get(),
        watch_handovers: mirror.metrics.watch_handovers.get(),
        watch_returns: mirror.metrics.watch_returns.get(),
        collections: mirror.collections().iter().map(|held| of_collection(held)).collect(),
    }
}

fn of_collection(collection: &Collection) -> CollectionMirror {
    let state = collection.state();
    let store = match &state {
        Held::Ready(store) => Some(store),
        _ => None,
    };
    let snapshot = store.map(|store| store.snapshot());
    let why = match &state {
        _ if collection.is_off() => Some("switched off by hand"),
        Held::Resting { until, why } if *until > Instant::now() => Some(*why),
        _ => None,
    };
    CollectionMirror {
        collection: collection.name.escape_ascii().to_string(),
        state: state.as_str(),
        tier: snapshot.as_ref().map(|snapshot| snapshot.tier.as_str()),
        why,
        keys: snapshot.as_ref().map_or(0, |snapshot| snapshot.objects.totals().count),
        bytes: store.map_or(0, |store| store.bytes()),
        revision: snapshot.map(|snapshot| snapshot.revision),
        hits: collection.hits.load(Relaxed),
        misses: collection.misses.load(Relaxed),
        idle_seconds: collection.idle().as_secs(),
    }
}

impl View {
    /// The mirror of each cluster, each once, and the newest revision that its members have told.
    fn mirrors(&self) -> Vec<(Arc<Mirror>, i64)> {
        let mut mirrors: Vec<(Arc<Mirror>, i64)> = Vec::new();
        for (_, _, edge) in &self.listeners {
            let topology = edge.topology();
            for (cluster, mirror) in topology.clusters.iter().zip(&topology.mirrors) {
                if !mirrors.iter().any(|(known, _)| Arc::ptr_eq(known, mirror)) {
                    mirrors.push((Arc::clone(mirror), cluster.identity().header.revision));
                }
            }
        }
        mirrors
    }
}
