use crate::{
    admission::{Census, Uncounted},
    etcd::{
        key_range::KeyRange,
        method::Method,
        proto::etcdserverpb::{RangeRequest, RangeResponse},
    },
    mirror::{Mirror, Tier},
    pipeline::token::has_token,
    upstream::Cluster,
};
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::HeaderMap;
use tonic::{Code, Status};

/// Counts keys at a cluster, on behalf of a call.
#[derive(Debug)]
pub struct Counting<'c> {
    pub cluster: &'c Cluster,
    pub mirror: &'c Mirror,
    /// Whether what is in memory answers.
    pub recalls: bool,
    pub headers: HeaderMap,
    pub worker: usize,
}

impl Census for Counting<'_> {
    fn count<'c>(&'c self, range: &'c KeyRange) -> BoxFuture<'c, Result<u64, Uncounted>> {
        async {
            match self.recall(range).await {
                Some(counted) => Ok(counted),
                None => Ok(self.ask(range).await?.count.max(0) as u64),
            }
        }
        .boxed()
    }

    /// As of what is in memory, with its values: an index does not know how long they are.
    fn mean_size(&self, range: &KeyRange) -> Option<f64> {
        let snapshot = self.mirror.collection(range, false).ok()?.snapshot()?;
        let snapshot = Some(snapshot).filter(|held| held.tier == Tier::Value)?;
        let totals = snapshot.totals(range);
        (totals.count > 0).then(|| totals.bytes as f64 / totals.count as f64)
    }

    fn is_named(&self) -> bool {
        has_token(&self.headers)
    }
}

impl Counting<'_> {
    /// By what is in memory once that is as far as etcd is now, for which etcd walks no keys.
    async fn recall(&self, range: &KeyRange) -> Option<u64> {
        let mirror = self.mirror;
        // One key is as quickly asked for, and what a client may see only etcd knows.
        if !self.recalls || range.as_single().is_some() || self.is_named() {
            return None;
        }
        let collection = mirror.collection(range, false).ok().filter(|known| !known.is_off())?;
        collection.snapshot()?;
        let before = mirror.position();
        let least = KeyRange::single(Bytes::from_static(b"\0"));
        let header = self.ask(&least).await.ok()?.header.filter(|now| mirror.is_of(now, before))?;
        mirror.reached(header.revision, header.cluster_id).await.ok()?;
        Some(collection.snapshot()?.totals(range).count as u64)
    }

    async fn ask(&self, range: &KeyRange) -> Result<RangeResponse, Uncounted> {
        let request = RangeRequest {
            key: range.start.clone(),
            range_end: range.range_end(),
            count_only: true,
            ..RangeRequest::default()
        };
        let headers = self.headers.clone();
        let asked = self.cluster.ask(Method::Range, &request, headers, self.worker, None).await;
        let answer: Result<_, Status> =
            asked.map_err(|error| Uncounted::Failed(error.to_string()))?;
        answer.map_err(|status| match status.code() {
            Code::InvalidArgument | Code::Unauthenticated => Uncounted::Refused,
            _ => Uncounted::Failed(status.message().to_owned()),
        })
    }
}
