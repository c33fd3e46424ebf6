//! What is asked of the admin port.

use super::Window;
use crate::attribution::Ranking;
use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Request, Uri, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use std::{collections::BTreeMap, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::task::AbortOnDropHandle;

/// What takes longer counts as not reachable.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Far above what the longest lists take.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// All that is shown, as of one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub(super) status: Status,
    pub(super) ranking: Ranking,
    pub(super) protection: Protection,
}

/// What is used of `/status`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) uptime_seconds: u64,
    pub(super) clusters: BTreeMap<String, Cluster>,
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

/// An admin port.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Host and port.
    authority: String,
    /// In front of every path, without a slash at its end.
    base: String,
}

impl Source {
    /// # Errors
    ///
    /// What is wrong with the URL.
    pub(super) fn new(url: &str) -> Result<Self, String> {
        let expected =
            || format!("--admin: expected a URL such as http://127.0.0.1:23791, met {url:?}");
        let uri: Uri = url.parse().map_err(|_| expected())?;
        let http = uri.scheme_str() == Some("http");
        let authority = uri.authority().filter(|_| http).ok_or_else(expected)?;
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self {
            authority: format!("{}:{port}", authority.host()),
            base: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}{}", self.authority, self.base)
    }

    pub(super) async fn snapshot(&self, window: Window) -> anyhow::Result<Snapshot> {
        let path = format!("/top?window={}", window.as_str());
        let asked = async {
            Ok(Snapshot {
                status: self.get("/status").await?,
                ranking: self.get(&path).await?,
                protection: self.get("/protection").await?,
            })
        };
        let answer = timeout(TIMEOUT, asked).await;
        let answer = answer.unwrap_or_else(|_| anyhow::bail!("no answer within {TIMEOUT:?}"));
        answer.with_context(|| format!("the admin port at {} cannot be reached", self.url()))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let path = format!("{}{path}", self.base);
        let stream = TcpStream::connect(&self.authority).await?;
        let (mut requests, connection) = handshake(TokioIo::new(stream)).await?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = Request::get(&path).header(HOST, &self.authority);
        let answer = requests.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
        ensure!(status.is_success(), "{path} answers {status}");
        serde_json::from_slice(&body)
            .with_context(|| format!("{path} is not from Seawall's admin port"))
    }
}
