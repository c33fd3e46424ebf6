//! What the page shows, once a second, as long as somebody looks.
//!
//! One snapshot is made for all viewers. A viewer that reads slowly skips some: it holds no queue,
//! only its place in line for the newest.

use super::{
    View,
    calls::{Calls, calls},
    mirror, protection, status,
};
use crate::{
    attribution::{Ranking, Window},
    telemetry::{self, Happening},
};
use axum::{
    Extension,
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::stream;
use serde::Serialize;
use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

const INTERVAL: Duration = Duration::from_secs(1);

/// More than an incident has people; each holds a connection.
const VIEWERS_MAX: usize = 64;

/// Rows of each list: what fits a screen, and the rest is at `/top`.
const ROWS: usize = 12;

/// Collections, the most read first; a cluster has a few hundred.
const COLLECTIONS: usize = 100;

#[derive(Debug, Serialize)]
struct Snapshot {
    /// Milliseconds since 1970.
    at: u64,
    status: status::Status,
    protection: protection::Overview,
    mirror: mirror::Overview,
    /// Of the last minute.
    top: Ranking,
    /// Since the start.
    calls: Vec<Calls>,
    process: Option<telemetry::Usage>,
    events: Vec<Happening>,
    /// Whether switches ask for a token.
    token: bool,
}

/// Tells viewers what the process looks like.
#[derive(Debug)]
pub(super) struct Live {
    newest: watch::Sender<Arc<str>>,
    /// Somebody has begun to look.
    looked: Notify,
}

impl Live {
    pub(super) fn new() -> Self {
        Self { newest: watch::Sender::new(Arc::from("")), looked: Notify::new() }
    }

    /// Makes snapshots until dropped, and none that nobody looks at.
    pub(super) async fn run(&self, view: &View) {
        loop {
            if self.newest.receiver_count() == 0 {
                self.looked.notified().await;
            }
            match serde_json::to_string(&snapshot(view)) {
                Ok(text) => drop(self.newest.send_replace(text.into())),
                Err(error) => tracing::error!(%error, "the page cannot be told anything"),
            }
            sleep(INTERVAL).await;
        }
    }

    fn look(&self) -> watch::Receiver<Arc<str>> {
        let viewer = self.newest.subscribe();
        self.looked.notify_one();
        viewer
    }
}

/// Server-sent events, each a snapshot.
pub(super) async fn stream(Extension(live): Extension<Arc<Live>>) -> Response {
    if live.newest.receiver_count() >= VIEWERS_MAX {
        let why = format!("{VIEWERS_MAX} look already\n");
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    }
    let snapshots = stream::unfold(live.look(), |mut viewer| async {
        viewer.changed().await.ok()?;
        let text = Arc::clone(&viewer.borrow_and_update());
        Some((Ok::<_, Infallible>(Event::default().data(text)), viewer))
    });
    Sse::new(snapshots).into_response()
}

fn snapshot(view: &View) -> Snapshot {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut top = view.attribution.ranking(Window::Minute);
    top.prefixes.truncate(ROWS);
    top.clients.truncate(ROWS);
    top.shapes.truncate(ROWS);
    top.objects.truncate(ROWS);
    Snapshot {
        at: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
        status: status::status(view),
        protection: protection::overview(view),
        mirror: mirror::overview(view).shortened(COLLECTIONS),
        top,
        calls: calls(view),
        process: telemetry::usage(),
        events: telemetry::recent(),
        token: view.token_file.is_some(),
    }
}
