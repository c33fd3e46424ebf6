use crate::{
    admission::Census,
    etcd::{
        key_range::KeyRange,
        method::Method,
        proto::etcdserverpb::{RangeRequest, RangeResponse},
    },
    mirror::Mirror,
    upstream::Cluster,
};
use futures_util::{FutureExt, future::BoxFuture};
use http::HeaderMap;
use tonic::Status;

/// Counts keys at a cluster, on behalf of a call.
#[derive(Debug)]
pub struct Counting<'c> {
    pub cluster: &'c Cluster,
    pub mirror: &'c Mirror,
    pub headers: HeaderMap,
    pub worker: usize,
}

impl Census for Counting<'_> {
    fn count<'c>(&'c self, range: &'c KeyRange) -> BoxFuture<'c, Option<u64>> {
        let request = RangeRequest {
            key: range.start.clone(),
            range_end: range.range_end(),
            count_only: true,
            ..RangeRequest::default()
        };
        async move {
            let method = Method::Range;
            let headers = self.headers.clone();
            let asking =
                self.cluster.ask::<RangeResponse>(method, &request, headers, self.worker, None);
            let counted: Result<Result<RangeResponse, Status>, _> = asking.await;
            counted.ok()?.ok().map(|response| response.count.max(0) as u64)
        }
        .boxed()
    }

    /// As of what is in memory.
    fn mean_size(&self, range: &KeyRange) -> Option<f64> {
        let snapshot = self.mirror.collection(range, false).ok()?.snapshot()?;
        let totals = snapshot.totals(range);
        (totals.count > 0).then(|| totals.bytes as f64 / totals.count as f64)
    }
}
