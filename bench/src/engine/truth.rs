//! What really happened, as etcd itself tells it.

use crate::{
    client::{
        Dial, Failure,
        etcd::{
            self, Event, PutRequest, PutResponse, RangeRequest, RangeResponse, WatchCreateRequest,
            WatchRequest, WatchResponse,
        },
    },
    data::DataSet,
};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};
use tokio::{task::JoinHandle, time::timeout};

/// Follows all keys of a sample at etcd from its beginning.
pub(super) struct Truth {
    dial: Dial,
    /// Written last, so that its event is the end of all.
    end_key: Bytes,
    /// The revision of the store when the sample began.
    pub(super) revision: i64,
    history: JoinHandle<Result<Vec<Fact>, Failure>>,
}

/// An event that every watcher of its key must have seen once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) revision: i64,
    pub(super) key: Bytes,
    pub(super) hash: u64,
}

impl Fact {
    pub(super) fn of(event: &Event) -> Option<Self> {
        let kv = event.kv.as_ref()?;
        let mut hasher = DefaultHasher::new();
        (event.kind, &kv.key, kv.mod_revision, kv.value.len()).hash(&mut hasher);
        Some(Self { revision: kv.mod_revision, key: kv.key.clone(), hash: hasher.finish() })
    }
}

const END_MAX: Duration = Duration::from_secs(30);

impl Truth {
    pub(super) async fn begin(dial: &Dial, data: &DataSet) -> Result<Self> {
        let revision = current_revision(dial, data).await?;
        let end_key: Bytes = format!("{}/end-of-sample", data.root()).into();
        let request = WatchCreateRequest {
            key: format!("{}/", data.root()).into(),
            range_end: format!("{}0", data.root()).into(),
            start_revision: revision + 1,
            prev_kv: false,
        };
        let connection = dial.open(0).await?;
        let mut stream = connection.stream(etcd::WATCH).await?;
        stream.send(&WatchRequest { create_request: Some(request), cancel_request: None })?;
        let created: WatchResponse = stream.next().await.context("watching etcd itself")?;
        if !created.created || created.canceled {
            bail!("etcd does not let its keys be watched");
        }
        let end = end_key.clone();
        let history = tokio::spawn(async move {
            // Held so that it lasts as long as the stream.
            let _connection = connection;
            let mut facts = Vec::new();
            loop {
                let response: WatchResponse = stream.next().await?;
                for fact in response.events.iter().filter_map(Fact::of) {
                    if fact.key == end {
                        return Ok(facts);
                    }
                    facts.push(fact);
                }
            }
        });
        Ok(Self { dial: dial.clone(), end_key, revision, history })
    }

    /// Everything that happened, and the revision of the store at the end.
    pub(super) async fn end(self, data: &DataSet) -> Result<(Vec<Fact>, i64)> {
        let revision = current_revision(&self.dial, data).await?;
        let connection = self.dial.open(0).await?;
        let put = PutRequest { key: self.end_key, ..PutRequest::default() };
        connection.unary::<PutResponse>(etcd::PUT, &put).await.context("marking the end")?;
        let history = timeout(END_MAX, self.history).await.context("etcd does not show the end")?;
        Ok((history?.context("watching etcd itself")?, revision))
    }
}

async fn current_revision(dial: &Dial, data: &DataSet) -> Result<i64> {
    let request = RangeRequest::of_key(format!("{}/health", data.root()));
    // Members that are down are among the addresses.
    let mut failed = None;
    for n in 0..3 {
        match dial.open(n).await {
            Ok(connection) => {
                let answer: RangeResponse = connection.unary(etcd::RANGE, &request).await?;
                return Ok(etcd::revision(answer.header.as_ref()));
            }
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.context("no address")?).context("asking etcd for its revision")
}
