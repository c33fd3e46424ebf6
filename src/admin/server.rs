use super::{
    Config,
    access::{Peer, Token},
    calls::calls,
    checks::{self, Results},
    live::{self, Live},
    mirror, page, protection, refusals,
    status::status,
    top::top,
};
use crate::{
    admission::{Client, Protection},
    attribution::Attribution,
    drain::Signals,
    pipeline,
    rpc::Edge,
    telemetry,
    tls::{self, Acceptor, Protocols},
    upstream::Cluster,
    worker::Workers,
};
use anyhow::Context;
use axum::{
    Extension, Json, Router,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use std::{
    io,
    net::{self, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

/// What the operator's port looks at.
#[derive(Debug)]
pub struct View {
    pub started: Instant,
    pub listeners: Vec<(String, SocketAddr, Arc<Edge>)>,
    /// `/livez` fails without an answer of etcd for so long; a reload changes it.
    pub livez_after: watch::Receiver<Duration>,
    /// Holds what whoever switches anything has to show.
    pub token_file: Option<PathBuf>,
    pub signals: Signals,
    pub registry: Arc<Registry>,
    pub attribution: Arc<Attribution>,
    pub protection: Arc<Protection>,
    pub calls: Arc<pipeline::Metrics>,
    pub workers: Arc<Workers>,
}

/// The operator's port.
#[derive(Debug)]
pub struct Admin {
    pub address: SocketAddr,
    socket: TcpListener,
    tls: Option<Arc<Acceptor>>,
}

impl Admin {
    /// Takes the address, or the socket of it that a predecessor left. Nothing is answered before
    /// [`Admin::run`].
    ///
    /// # Errors
    ///
    /// When the address, a certificate or the token cannot be used.
    pub async fn bind(
        config: &Config,
        inherited: Option<net::TcpListener>,
    ) -> anyhow::Result<Self> {
        let Config { address, tls, token_file, .. } = config;
        if let Some(file) = token_file {
            Token::read(file).context("admin.token_file")?;
        }
        let load = |tls: &tls::AcceptorConfig| Acceptor::load(tls.clone(), Protocols::Http1);
        let tls = tls.as_ref().map(load).transpose().context("admin.tls")?;
        let socket = match inherited {
            Some(socket) => {
                socket.set_nonblocking(true).and_then(|()| TcpListener::from_std(socket))
            }
            None => TcpListener::bind(address).await,
        };
        let socket = socket.with_context(|| format!("admin cannot listen on {address}"))?;
        Ok(Self { address: socket.local_addr()?, socket, tls: tls.map(Arc::new) })
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
    pub async fn run(self, view: Arc<View>) {
        let live = Arc::new(Live::new());
        let router = router(Arc::clone(&view)).layer(Extension(Arc::clone(&live)));
        tokio::join!(self.accept(router), live.run(&view), refusals::watch(&view));
    }

    /// Connections end with this.
    async fn accept(self, router: Router) {
        let mut connections = JoinSet::new();
        loop {
            while connections.len() >= CONNECTIONS_MAX {
                connections.join_next().await;
            }
            while connections.try_join_next().is_some() {}
            match self.socket.accept().await {
                Ok((stream, peer)) => {
                    connections.spawn(serve(stream, peer, self.tls.clone(), router.clone()));
                }
                // Such as too many open files, which passes.
                Err(error) => {
                    tracing::warn!(%error, "the admin port cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Probes, scrapes, and those who look. More wait to be accepted.
const CONNECTIONS_MAX: usize = 512;

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A request's head must be there after this long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

fn router(view: Arc<View>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/stream", get(live::stream))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/status", get(|State(view): State<Arc<View>>| async move { Json(status(&view)) }))
        .route("/top", get(top))
        .route("/calls", get(|State(view): State<Arc<View>>| async move { Json(calls(&view)) }))
        .route("/events", get(|| async { Json(telemetry::recent()) }))
        .route(
            "/protection",
            get(|State(view): State<Arc<View>>| async move { Json(protection::overview(&view)) }),
        )
        .route("/protection/{name}", get(protection::show).post(protection::switch))
        .route(
            "/mirror",
            get(|State(view): State<Arc<View>>| async move { Json(mirror::overview(&view)) }),
        )
        .route("/mirror/{cluster}", get(mirror::show).post(mirror::switch))
        .with_state(view)
}

/// Serves one connection to its end.
async fn serve(stream: TcpStream, peer: SocketAddr, tls: Option<Arc<Acceptor>>, router: Router) {
    let service = |name: Option<&str>| {
        let client = Arc::new(Client::new(peer.ip(), name));
        TowerToHyperService::new(router.layer(Extension(Peer(client))))
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let served = match tls {
        None => http.serve_connection(TokioIo::new(stream), service(None)).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => {
                let service = service(tls::client_name(&stream).as_deref());
                http.serve_connection(TokioIo::new(stream), service).await
            }
            Err(error) => return tracing::debug!(%peer, %error, "admin connection failed"),
        },
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "admin connection failed");
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
    verdict("livez", &checks::live(&view), query)
}

async fn readyz(State(view): State<Arc<View>>, RawQuery(query): RawQuery) -> impl IntoResponse {
    verdict("readyz", &checks::ready(&view).await, query)
}

/// Kubernetes' way of telling: `ok`, or every check with `?verbose` and on failure.
fn verdict(name: &str, results: &Results, query: Option<String>) -> (StatusCode, String) {
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
