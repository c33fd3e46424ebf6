use super::{
    Config,
    checks::{self, Results},
    mirror, protection,
    status::status,
    top::top,
};
use crate::{
    admission::Protection, attribution::Attribution, drain::Signals, rpc::Edge, upstream::Cluster,
};
use anyhow::Context;
use axum::{
    Json, Router,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{Html, IntoResponse},
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use std::{
    io,
    net::{self, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, time::Instant};

/// What the operator's port looks at.
#[derive(Debug)]
pub struct View {
    pub started: Instant,
    pub listeners: Vec<(String, SocketAddr, Arc<Edge>)>,
    pub livez_after: Duration,
    pub signals: Signals,
    pub registry: Arc<Registry>,
    pub attribution: Arc<Attribution>,
    pub protection: Arc<Protection>,
}

/// The operator's port.
#[derive(Debug)]
pub struct Admin {
    pub address: SocketAddr,
    socket: TcpListener,
}

impl Admin {
    /// Takes the address, or the socket of it that a predecessor left. Nothing is answered before
    /// [`Admin::run`].
    ///
    /// # Errors
    ///
    /// When the address cannot be used.
    pub async fn bind(
        config: &Config,
        inherited: Option<net::TcpListener>,
    ) -> anyhow::Result<Self> {
        let address = config.address;
        let socket = match inherited {
            Some(socket) => {
                socket.set_nonblocking(true).and_then(|()| TcpListener::from_std(socket))
            }
            None => TcpListener::bind(address).await,
        };
        let socket = socket.with_context(|| format!("admin cannot listen on {address}"))?;
        Ok(Self { address: socket.local_addr()?, socket })
    }

    /// Another handle of the socket, for a successor.
    ///
    /// # Errors
    ///
    /// When the system has none to give.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    /// Answers until dropped: up to its last moment the process can be looked at.
    ///
    /// # Errors
    ///
    /// When the socket fails.
    pub async fn run(self, view: Arc<View>) -> anyhow::Result<()> {
        let router = Router::new()
            .route("/", get(|| async { Html(include_str!("page.html")) }))
            .route("/metrics", get(metrics))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route(
                "/status",
                get(|State(view): State<Arc<View>>| async move { Json(status(&view)) }),
            )
            .route("/top", get(top))
            .route("/protection", get(protection::overview))
            .route("/protection/{name}", get(protection::show).post(protection::switch))
            .route("/mirror", get(mirror::overview))
            .route("/mirror/{cluster}", get(mirror::show).post(mirror::switch))
            .with_state(view);
        axum::serve(self.socket, router).await.context("admin port")
    }
}

impl View {
    /// The default cluster of each listener, each once.
    pub(super) fn default_clusters(&self) -> Vec<Arc<Cluster>> {
        let mut clusters: Vec<Arc<Cluster>> = Vec::new();
        for (_, _, edge) in &self.listeners {
            let default = Arc::clone(edge.topology().default().cluster);
            if !clusters.iter().any(|known| Arc::ptr_eq(known, &default)) {
                clusters.push(default);
            }
        }
        clusters
    }
}

/// The text of `/metrics`, here and on client ports.
pub fn metrics_text(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = encode(&mut text, registry);
    text
}

async fn metrics(State(view): State<Arc<View>>) -> impl IntoResponse {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPENMETRICS)], metrics_text(&view.registry))
}

async fn livez(State(view): State<Arc<View>>, RawQuery(query): RawQuery) -> impl IntoResponse {
    page("livez", &checks::live(&view), query)
}

async fn readyz(State(view): State<Arc<View>>, RawQuery(query): RawQuery) -> impl IntoResponse {
    page("readyz", &checks::ready(&view).await, query)
}

/// Kubernetes' way of telling: `ok`, or every check with `?verbose` and on failure.
fn page(name: &str, results: &Results, query: Option<String>) -> (StatusCode, String) {
    let failed = results.values().any(Result::is_err);
    let verbose =
        query.is_some_and(|query| query.split('&').any(|pair| pair.starts_with("verbose")));
    if !failed && !verbose {
        return (StatusCode::OK, "ok\n".into());
    }
    let line = |(check, result): (&String, &Result<(), String>)| match result {
        Ok(()) => format!("[+]{check} ok\n"),
        Err(reason) => format!("[-]{check} failed: {reason}\n"),
    };
    let lines: String = results.iter().map(line).collect();
    match failed {
        true => (StatusCode::SERVICE_UNAVAILABLE, format!("{lines}{name} check failed\n")),
        false => (StatusCode::OK, format!("{lines}{name} check passed\n")),
    }
}
