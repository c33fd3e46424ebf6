//! What protects etcd, as JSON, and the switches by which an operator overrules it.

use super::{View, access::Operator};
use crate::{
    admission::{Gate, Mode, Protection, QueueStanding, Standing},
    telemetry::audit::audit,
};
use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// What `/protection` shows.
#[derive(Debug, Serialize)]
pub(super) struct Overview {
    /// How far any protection goes.
    mode: &'static str,
    memory: Memory,
    protections: Vec<Standing>,
    clusters: Vec<Cluster>,
}

/// Bytes of answers that are held.
#[derive(Debug, Serialize)]
struct Memory {
    used: u64,
    limit: u64,
}

#[derive(Debug, Serialize)]
struct Cluster {
    name: String,
    /// Of etcd's quota; 0 while it is not known.
    space_percent: u32,
    queues: [QueueStanding; 3],
}

#[derive(Debug, Deserialize)]
pub(super) struct Params {
    mode: Option<String>,
}

const MODES: &str = "expected ?mode=off, observe, enforce (or on), or configured";

pub(super) fn overview(view: &View) -> Overview {
    let protection = &view.protection;
    let (used, limit) = (protection.memory.used(), protection.memory.limit());
    Overview {
        mode: standing(protection, "all").map_or(Mode::Off.as_str(), |all| all.mode),
        memory: Memory { used, limit },
        protections: protection.standings(),
        clusters: protection.gates().iter().map(|gate| cluster(gate)).collect(),
    }
}

fn cluster(gate: &Gate) -> Cluster {
    Cluster {
        name: gate.cluster.to_string(),
        space_percent: gate.space_percent(),
        queues: gate.queues(),
    }
}

pub(super) async fn show(State(view): State<Arc<View>>, Path(name): Path<String>) -> Response {
    match standing(&view.protection, &name) {
        Some(standing) => Json(standing).into_response(),
        None => refused(StatusCode::NOT_FOUND, &view.protection.unknown(&name)),
    }
}

/// Takes effect for the next call, and for those that have not begun to wait.
pub(super) async fn switch(
    State(view): State<Arc<View>>,
    Path(name): Path<String>,
    Operator(operator): Operator,
    Query(Params { mode }): Query<Params>,
) -> Response {
    let mode = match mode.as_deref() {
        Some("off") => Some(Mode::Off),
        Some("observe") => Some(Mode::Observe),
        Some("enforce" | "on") => Some(Mode::Enforce),
        Some("configured") => None,
        Some(other) => {
            return refused(StatusCode::BAD_REQUEST, &format!("{MODES}; met {other:?}"));
        }
        None => return refused(StatusCode::BAD_REQUEST, &format!("{MODES}; met none")),
    };
    if let Err(unknown) = view.protection.switch(&name, mode) {
        return refused(StatusCode::NOT_FOUND, &unknown);
    }
    audit!(
        "protection_switched",
        client = &*operator.name,
        address = %operator.address,
        protection = name,
        mode = mode.map_or("as configured", Mode::as_str),
        "protection switched"
    );
    Json(standing(&view.protection, &name)).into_response()
}

fn standing(protection: &Protection, name: &str) -> Option<Standing> {
    protection.standings().into_iter().find(|standing| standing.protection == name)
}

pub(super) fn refused(code: StatusCode, why: &dyn fmt::Display) -> Response {
    (code, format!("{why}\n")).into_response()
}
