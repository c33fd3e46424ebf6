//! What is asked of the admin port.

use super::{Top, Window};
use crate::{
    admin::{SWITCH, Token},
    attribution::Ranking,
    tls::{Connector, ConnectorFiles, Protocols},
};
use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{
    Request, StatusCode, Uri,
    header::{AUTHORIZATION, HOST},
    request,
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// What takes longer counts as not reachable.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Far above what the longest lists take.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// As that of listeners.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// What an operator wants of a protection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Switch {
    pub(super) protection: String,
    pub(super) mode: &'static str,
}

/// All that is shown, as of one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    /// When it was asked for.
    pub(super) at: Option<Instant>,
    pub(super) calls: Vec<Calls>,
    pub(super) events: Vec<Happening>,
    pub(super) status: Status,
    pub(super) ranking: Ranking,
    pub(super) protection: Protection,
    pub(super) mirror: Mirror,
}

/// What is used of `/status`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) uptime_seconds: u64,
    pub(super) listeners: Vec<Listener>,
    pub(super) clusters: BTreeMap<String, Cluster>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Listener {
    pub(super) name: String,
    pub(super) address: String,
    /// The cluster of all keys that no route names.
    pub(super) default: String,
    pub(super) routes: Vec<Route>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Route {
    pub(super) prefix: String,
    pub(super) cluster: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Cluster {
    pub(super) members: Vec<Member>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Member {
    pub(super) endpoint: String,
    pub(super) state: String,
    pub(super) leader: bool,
    pub(super) latency_ms: f64,
    pub(super) version: String,
    pub(super) db_size_bytes: u64,
    /// 0 where etcd does not tell.
    pub(super) db_quota_bytes: u64,
    pub(super) alarms: Vec<String>,
}

/// What is used of `/protection`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Protection {
    pub(super) mode: String,
    pub(super) memory: Memory,
    pub(super) protections: Vec<Standing>,
    pub(super) clusters: Vec<Gate>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Memory {
    pub(super) used: u64,
    pub(super) limit: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Standing {
    pub(super) protection: String,
    pub(super) mode: String,
    pub(super) switched: bool,
    pub(super) delayed: u64,
    pub(super) refused: u64,
    pub(super) would_delay: u64,
    pub(super) would_refuse: u64,
}

/// The queues of one cluster.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Gate {
    pub(super) name: String,
    /// 0 while it is not known.
    pub(super) space_percent: u32,
    pub(super) queues: Vec<Queue>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Queue {
    pub(super) queue: String,
    pub(super) running: u64,
    pub(super) waiting: u64,
    pub(super) limit: u64,
}

/// What is used of `/calls`: those of one class at one cluster.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Calls {
    pub(super) cluster: String,
    pub(super) class: String,
    pub(super) calls: u64,
    pub(super) refused: u64,
    pub(super) would_refuse: u64,
    pub(super) failed: u64,
    pub(super) open: u64,
    pub(super) bytes: u64,
    /// That all of them took.
    pub(super) seconds: f64,
    /// Of the time since the snapshot before; not told by the port.
    #[serde(skip)]
    pub(super) late: Late,
}

/// What calls were of late.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Late {
    pub(super) per_second: f64,
    pub(super) mean_ms: f64,
}

/// What is used of `/events`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Happening {
    /// Milliseconds since 1970.
    pub(super) at: u64,
    pub(super) level: String,
    pub(super) message: String,
    pub(super) details: String,
    pub(super) times: u64,
}

impl Snapshot {
    /// Tells what calls and events of watches were since `before`, or since the start of Seawall.
    pub(super) fn compare(&mut self, before: Option<&Self>) {
        let earlier = before.and_then(|before| before.at).zip(self.at);
        let seconds = match earlier {
            Some((before, now)) => (now - before).as_secs_f64(),
            None => self.status.uptime_seconds as f64,
        };
        // Less than before is another process.
        let since = |now: u64, before: u64| now.saturating_sub(before) as f64;
        let a_second = |number: f64| if seconds > 0.0 { number / seconds } else { 0.0 };
        for calls in &mut self.calls {
            let same =
                |other: &&Calls| other.cluster == calls.cluster && other.class == calls.class;
            let known = before.and_then(|before| before.calls.iter().find(same));
            let (ended, took) = known.map_or((0, 0.0), |known| (known.calls, known.seconds));
            let ended = since(calls.calls, ended);
            let took = (calls.seconds - took).max(0.0);
            calls.late = Late {
                per_second: a_second(ended),
                mean_ms: if ended > 0.0 { took * 1e3 / ended } else { 0.0 },
            };
        }
        for (name, mirror) in &mut self.mirror.clusters {
            let known = before.and_then(|before| before.mirror.clusters.get(name));
            let sent = known.map_or(0, |known| known.watch_events);
            mirror.events_per_second = a_second(since(mirror.watch_events, sent));
        }
    }
}

/// What is used of `/mirror`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Mirror {
    pub(super) clusters: BTreeMap<String, ClusterMirror>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct ClusterMirror {
    /// How much further etcd is.
    pub(super) behind: u64,
    /// Watchers that are served from memory, what they were sent, and those that went on at etcd or
    /// came from there.
    pub(super) watchers: u64,
    pub(super) watch_events: u64,
    pub(super) watch_handovers: u64,
    pub(super) watch_returns: u64,
    /// Since the snapshot before; not told by the port.
    #[serde(skip)]
    pub(super) events_per_second: f64,
    pub(super) collections: Vec<Collection>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Collection {
    pub(super) collection: String,
    pub(super) state: String,
    pub(super) tier: Option<String>,
    pub(super) why: Option<String>,
    pub(super) keys: u64,
    pub(super) bytes: u64,
    pub(super) hits: u64,
    pub(super) misses: u64,
}

/// An admin port.
#[derive(Debug, Clone)]
pub(super) struct Source {
    host: String,
    port: u16,
    /// In front of every path, without a slash at its end.
    base: String,
    /// For https.
    tls: Option<Arc<Connector>>,
    token_file: Option<PathBuf>,
}

/// With TLS or without.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Source {
    /// # Errors
    ///
    /// What is wrong with the URL or the files.
    pub(super) fn new(args: &Top) -> Result<Self, String> {
        let url = &args.admin;
        let expected =
            || format!("--admin: expected a URL such as http://127.0.0.1:23791, met {url:?}");
        let uri: Uri = url.parse().map_err(|_| expected())?;
        let (tls, port) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => (Some(Arc::new(connector(args)?)), 443),
            _ => return Err(expected()),
        };
        let authority = uri.authority().ok_or_else(expected)?;
        if let Some(file) = &args.token_file {
            Token::read(file).map_err(|error| format!("--token-file: {error}"))?;
        }
        Ok(Self {
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(port),
            base: uri.path().trim_end_matches('/').to_owned(),
            tls,
            token_file: args.token_file.clone(),
        })
    }

    pub(super) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.base)
    }

    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub(super) async fn snapshot(&self, window: Window) -> anyhow::Result<Snapshot> {
        let path = format!("/top?window={}", window.as_str());
        let asked = async {
            Ok(Snapshot {
                at: Some(Instant::now()),
                calls: self.get("/calls").await?,
                events: self.get("/events").await?,
                status: self.get("/status").await?,
                ranking: self.get(&path).await?,
                protection: self.get("/protection").await?,
                mirror: self.get("/mirror").await?,
            })
        };
        let answer = timeout(TIMEOUT, asked).await;
        let answer = answer.unwrap_or_else(|_| anyhow::bail!("no answer within {TIMEOUT:?}"));
        answer.with_context(|| format!("the admin port at {} cannot be reached", self.url()))
    }

    /// Switches a protection to a mode.
    pub(super) async fn switch(&self, Switch { protection, mode }: &Switch) -> anyhow::Result<()> {
        let path = format!("/protection/{protection}?mode={mode}");
        let mut request = Request::post(format!("{}{path}", self.base)).header(SWITCH, "yes");
        if let Some(file) = &self.token_file {
            request = request.header(AUTHORIZATION, Token::read(file)?.bearer()?);
        }
        let asked = timeout(TIMEOUT, self.ask(request));
        let (status, body) =
            asked.await.with_context(|| format!("no answer within {TIMEOUT:?}"))??;
        let why = String::from_utf8_lossy(&body);
        ensure!(status.is_success(), "{protection} was not switched: {}", why.trim());
        Ok(())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let path = format!("{}{path}", self.base);
        let (status, body) = self.ask(Request::get(&path)).await?;
        ensure!(status.is_success(), "{path} answers {status}");
        serde_json::from_slice(&body)
            .with_context(|| format!("{path} is not from Seawall's admin port"))
    }

    async fn ask(&self, request: request::Builder) -> anyhow::Result<(StatusCode, Bytes)> {
        let (mut requests, connection) = handshake(TokioIo::new(self.connect().await?)).await?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = request.header(HOST, self.authority()).body(Empty::<Bytes>::new())?;
        let answer = requests.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
        Ok((status, body.map_err(anyhow::Error::from_boxed)?.to_bytes()))
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.authority()).await?;
        let name = self.host.trim_matches(['[', ']']);
        Ok(match &self.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(tls.connect(name, stream).await?),
        })
    }
}

fn connector(args: &Top) -> Result<Connector, String> {
    let files = ConnectorFiles {
        ca: args.ca.clone(),
        identity: args.cert.clone().zip(args.key.clone()),
        protocols: Protocols::Http1,
        reload_interval: RELOAD_INTERVAL,
    };
    Connector::load(files).map_err(|error| format!("--admin: {error}"))
}
