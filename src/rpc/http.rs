//! What etcd's client port answers to plain HTTP: health, version and metrics.

use super::{Edge, maintenance::lowest_version};
use crate::{
    access::{self, Need},
    admission::Client,
    etcd::{
        errors,
        method::Method,
        proto::etcdserverpb::{RangeRequest, RangeResponse, StatusRequest, StatusResponse},
    },
    upstream,
};
use bytes::Bytes;
use h2::server::SendResponse;
use http::{
    HeaderMap, HeaderValue, Method as Verb, Response, StatusCode, header::CONTENT_TYPE,
    request::Parts,
};
use serde_json::json;
use std::{fmt, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

/// Makes the text of `/metrics`.
#[derive(Clone)]
pub struct Page(pub Arc<dyn Fn() -> String + Send + Sync>);

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

/// A check takes no longer than etcd's own.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What begins the paths of etcd's JSON gateway, today's and before, and of its API of old.
const GATEWAYS: [&str; 4] = ["/v3/", "/v3beta/", "/v3alpha/", "/v2/"];

const NO_GATEWAY: &str =
    "seawall serves etcd's gRPC API and not its JSON gateway: point this client at etcd itself\n";

/// Answers a request that is not gRPC, on HTTP/2.
pub(super) async fn answer_http2(
    edge: &Edge,
    client: &Client,
    head: &Parts,
    worker: usize,
    mut respond: SendResponse<Bytes>,
) {
    let (parts, body) = answer(edge, client, head, worker).await.into_parts();
    let Ok(stream) = respond.send_response(Response::from_parts(parts, ()), body.is_empty()) else {
        return;
    };
    if !body.is_empty() {
        let mut out = crate::grpc::Outgoing::new(stream);
        if out.send(body).await.is_ok() {
            // Fails when the client has left.
            let _ = out.close();
        }
    }
}

/// Answers a request that is not gRPC.
pub async fn answer(edge: &Edge, client: &Client, head: &Parts, worker: usize) -> Response<Bytes> {
    let asker = &Asker { edge, worker };
    let path = head.uri.path();
    let query = head.uri.query().unwrap_or_default();
    if !matches!(head.method, Verb::GET | Verb::HEAD) {
        let known = ["/health", "/livez", "/readyz", "/version", "/metrics"].contains(&path);
        if !known {
            return not_found(path);
        }
        let text = "Method Not Allowed\n";
        let mut response = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, text.into());
        response.headers_mut().insert("allow", HeaderValue::from_static("GET"));
        return response;
    }
    match path {
        "/health" => health(asker, query).await,
        "/livez" => checks(asker, &[Check::SerializableRead], query).await,
        "/livez/serializable_read" => checks(asker, &[Check::SerializableRead], query).await,
        "/readyz" => checks(asker, &Check::READY, query).await,
        "/version" => version(asker).await,
        // It names keys and clients.
        "/metrics" if !edge.access.allows(client, path, [Need::new(access::Verb::Status)]) => {
            page(StatusCode::FORBIDDEN, TEXT, format!("{}\n", errors::PERMISSION_DENIED.1))
        }
        "/metrics" => page(StatusCode::OK, OPENMETRICS, (edge.metrics_page.0)()),
        _ => match path.strip_prefix("/readyz/").and_then(Check::named) {
            Some(check) => checks(asker, &[check], query).await,
            None => not_found(path),
        },
    }
}

/// `{"health":"true","reason":""}`, false without a quorum, without a leader or with an alarm.
async fn health(asker: &Asker<'_>, query: &str) -> Response<Bytes> {
    let reason = unhealthy(asker, query).await;
    let status = match reason {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    // Put together by hand for etcd's order of keys.
    let healthy = reason.is_none();
    let reason = json!(reason.unwrap_or_default());
    page(status, TEXT, format!("{{\"health\":\"{healthy}\",\"reason\":{reason}}}"))
}

async fn unhealthy(asker: &Asker<'_>, query: &str) -> Option<String> {
    if asker.draining() {
        return Some("SEAWALL DRAINING".into());
    }
    match alarms(asker).await {
        Err(error) => return Some(format!("STATUS ERROR:{error}")),
        Ok(raised) => {
            if let Some(alarm) = raised.iter().find(|alarm| !has(query, "exclude", alarm)) {
                return Some(format!("ALARM {alarm}"));
            }
        }
    }
    let serializable = has(query, "serializable", "true");
    let kind = if serializable { "RANGE" } else { "QGET" };
    read(asker, serializable).await.err().map(|error| format!("{kind} ERROR:{error}"))
}

/// The version that holds for every key, and what etcd calls the cluster's: the release line. A
/// member is asked when none has told yet, as right after the start.
async fn version(asker: &Asker<'_>) -> Response<Bytes> {
    let topology = asker.edge.topology();
    let mut statuses: Vec<_> =
        topology.default().cluster.identity().statuses.into_iter().flatten().collect();
    let server = match lowest_version(&topology) {
        Some(server) => server,
        None => match status(asker).await {
            Ok(status) => {
                let version = status.version.clone();
                statuses.push(status);
                version
            }
            Err(reason) => {
                let text =
                    format!("no member of the default etcd cluster tells its version: {reason}\n");
                return page(StatusCode::SERVICE_UNAVAILABLE, TEXT, text);
            }
        },
    };
    let mut numbers = server.split('.');
    let line = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
    let cluster = format!("{}.{}.0", line.0, line.1);
    let storage = statuses.into_iter().map(|status| status.storage_version);
    let storage = storage.filter(|version| !version.is_empty()).min();
    let storage = storage.map(|version| format!(",\"storage\":{}", json!(version)));
    let storage = storage.unwrap_or_default();
    let (server, cluster) = (json!(server), json!(cluster));
    page(
        StatusCode::OK,
        JSON,
        format!("{{\"etcdserver\":{server},\"etcdcluster\":{cluster}{storage}}}"),
    )
}

/// What `/livez` and `/readyz` look at, under etcd's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    const READY: [Self; 4] =
        [Self::DataCorruption, Self::SerializableRead, Self::LinearizableRead, Self::NonLearner];

    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::READY.into_iter().find(|check| check.name() == name)
    }

    async fn run(self, asker: &Asker<'_>) -> Result<(), String> {
        match self {
            Self::DataCorruption => {
                let corrupt = alarms(asker).await?.iter().any(|alarm| alarm == "CORRUPT");
                if corrupt { Err("alarm activated: CORRUPT".into()) } else { Ok(()) }
            }
            Self::SerializableRead => read(asker, true).await,
            Self::LinearizableRead if asker.draining() => Err("draining".into()),
            Self::LinearizableRead => read(asker, false).await,
            // Learners get no calls; without another member the reads fail.
            Self::NonLearner => Ok(()),
        }
    }
}

/// etcd's lines, `[+]` for what holds and `[-]` for what does not.
async fn checks(asker: &Asker<'_>, checks: &[Check], query: &str) -> Response<Bytes> {
    let mut text = String::new();
    let mut failed = false;
    for check in checks {
        if has(query, "exclude", check.name()) {
            continue;
        }
        match check.run(asker).await {
            Ok(()) => text.push_str(&format!("[+]{} ok\n", check.name())),
            Err(reason) => {
                failed = true;
                text.push_str(&format!("[-]{} failed: {reason}\n", check.name()));
            }
        }
    }
    if failed {
        return page(StatusCode::SERVICE_UNAVAILABLE, TEXT, text);
    }
    let verbose = query.split('&').any(|pair| pair == "verbose" || pair.starts_with("verbose="));
    page(StatusCode::OK, TEXT, if verbose { format!("{text}ok\n") } else { "ok\n".into() })
}

/// A real read of the default cluster. A refusal for want of permission comes from a member that
/// has asked the quorum.
async fn read(asker: &Asker<'_>, serializable: bool) -> Result<(), String> {
    let key = Bytes::from_static(b"/registry/health");
    let request = RangeRequest { key, serializable, limit: 1, ..RangeRequest::default() };
    match asker.ask::<RangeResponse>(Method::Range, &request).await? {
        Ok(_) => Ok(()),
        Err(status) if upstream::is_about_permission(&status) => Ok(()),
        Err(status) => Err(status.message().to_owned()),
    }
}

/// Names of the alarms that are raised. `Status` tells them without a round of consensus, unlike
/// `Alarm`.
async fn alarms(asker: &Asker<'_>) -> Result<Vec<String>, String> {
    let name = |error: &String| Some(error.split_once("alarm:")?.1.trim().to_owned());
    Ok(status(asker).await?.errors.iter().filter_map(name).collect())
}

async fn status(asker: &Asker<'_>) -> Result<StatusResponse, String> {
    let asked = asker.ask::<StatusResponse>(Method::Status, &StatusRequest {}).await?;
    asked.map_err(|status| status.message().to_owned())
}

/// Asks the default cluster from one data thread.
struct Asker<'e> {
    edge: &'e Edge,
    worker: usize,
}

impl Asker<'_> {
    async fn ask<T: prost::Message + Default>(
        &self,
        method: Method,
        request: &impl prost::Message,
    ) -> Result<Result<T, Status>, String> {
        let topology = self.edge.topology();
        let deadline = Instant::now() + CHECK_TIMEOUT;
        let cluster = topology.default().cluster;
        let asking = cluster.ask(method, request, HeaderMap::new(), self.worker, Some(deadline));
        let asked = timeout_at(deadline, asking).await.map_err(|_| "context deadline exceeded")?;
        asked.map_err(|error| error.to_string())
    }

    fn draining(&self) -> bool {
        self.edge.draining.is_cancelled()
    }
}

/// etcd's words, unless it is something that etcd serves and we do not: whoever asks for that, such as
/// Patroni, wants to be told where it is.
fn not_found(path: &str) -> Response<Bytes> {
    let is_gateways = GATEWAYS.iter().any(|prefix| path.starts_with(prefix));
    let text = if is_gateways { NO_GATEWAY } else { "404 page not found\n" };
    page(StatusCode::NOT_FOUND, TEXT, text.into())
}

fn has(query: &str, key: &str, value: &str) -> bool {
    query.split('&').any(|pair| pair.split_once('=') == Some((key, value)))
}

fn page(status: StatusCode, kind: &'static str, text: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
