//! One watcher on a stream of its own.

use crate::{
    caller::header,
    client::{Call, Client},
    history::{Event, Header, Owner, Range, Via},
    map::Map,
};
use anyhow::{Context, Result, ensure};
use prost::Message;
use seawall::etcd::{
    method::Method,
    proto::etcdserverpb::{
        WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
        watch_create_request::FilterType, watch_request::RequestUnion,
    },
};

/// What is watched, and how.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) range: Range,
    pub(crate) start_revision: i64,
    pub(crate) prev_kv: bool,
    pub(crate) deletes: bool,
}

pub(crate) struct Watching {
    call: Call,
    /// Its connection.
    _client: Client,
}

/// What a response says.
#[derive(Debug)]
pub(crate) enum News {
    /// Events, or none where it tells of progress.
    Told(Header, Vec<Event>),
    /// What would follow is not there any more.
    Compacted,
}

impl Watching {
    pub(crate) async fn open(
        map: &Map,
        via: Via,
        owner: Owner,
        turn: usize,
        wanted: &Wanted,
    ) -> Result<Self> {
        let client = map.connect(via, owner, turn).await?;
        // As kube-apiserver does: a member that lost its leader ends the watch.
        let mut call = client.call(Method::Watch.path(), &[("hasleader", "true")]).await?;
        let create = WatchCreateRequest {
            key: wanted.range.key.clone().into(),
            range_end: wanted.range.end.clone().into(),
            start_revision: wanted.start_revision,
            prev_kv: wanted.prev_kv,
            filters: (!wanted.deletes).then_some(FilterType::Nodelete.into()).into_iter().collect(),
            progress_notify: true,
            ..WatchCreateRequest::default()
        };
        call.send(&request(RequestUnion::CreateRequest(create)))?;
        let mut this = Self { call, _client: client };
        let created = this.response().await?;
        ensure!(created.created && !created.canceled, "{created:?}");
        Ok(this)
    }

    pub(crate) fn ask_progress(&mut self) -> Result<()> {
        self.call.send(&request(RequestUnion::ProgressRequest(WatchProgressRequest {})))
    }

    /// Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<News> {
        let response = self.response().await?;
        if response.compact_revision != 0 {
            return Ok(News::Compacted);
        }
        ensure!(!response.canceled, "{response:?}");
        let events = response.events.iter().map(Event::of).collect();
        Ok(News::Told(header(response.header), events))
    }

    async fn response(&mut self) -> Result<WatchResponse> {
        let message = self.call.message().await?.context("the stream has ended")?;
        Ok(WatchResponse::decode(message)?)
    }
}

fn request(union: RequestUnion) -> Vec<u8> {
    WatchRequest { request_union: Some(union) }.encode_to_vec()
}
