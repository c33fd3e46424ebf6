//! How one watch of the feed goes, and why it ends.

use super::batch::Last;
use crate::{
    etcd::{
        method::Method,
        proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader},
    },
    upstream::{Answer, CONTROL, Cluster, is_about_permission},
};
use bytes::Bytes;
use http::HeaderMap;
use std::{mem, sync::Weak, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// Why the feed does not go on.
#[derive(Debug, Clone)]
pub(super) enum Ended {
    Off,
    Gone,
    /// It goes on where it was.
    Lost(String),
    /// What follows cannot be had: all is dropped.
    Gap(&'static str),
    /// etcd does not let Seawall watch everything.
    Denied(String),
}

/// One watch, from its opening to its end.
#[derive(Debug)]
pub(super) struct Following {
    /// What has to come again before the watch is known to go on where the one before has ended.
    pub(super) resumes: Option<Last>,
    /// When it last was further than before, or nothing was missing.
    well: Instant,
    revision: i64,
}

/// Between questions whether all may still be read.
const LOOK: Duration = Duration::from_secs(2);

/// etcd is known to be further for so long, and nothing comes.
const STALLED: Duration = Duration::from_secs(5);

/// A watch that catches up with the past may take etcd so long. Nothing is answered meanwhile, and
/// loading everything anew would cost etcd more.
const RESUMED: Duration = Duration::from_secs(30);

impl Following {
    pub(super) fn new(resumes: Option<Last>, revision: i64) -> Self {
        Self { resumes, well: Instant::now(), revision }
    }

    /// Whether it goes on, where `revision` was applied and etcd is known to be at `newest`.
    pub(super) fn check(&mut self, revision: i64, newest: i64) -> Option<Ended> {
        let moves = revision > mem::replace(&mut self.revision, revision);
        if self.resumes.is_none() && (moves || newest <= revision) {
            self.well = Instant::now();
        }
        let patience = if self.resumes.is_some() { RESUMED } else { STALLED };
        if self.well.elapsed() < patience {
            return None;
        }
        Some(match self.resumes {
            Some(_) => Ended::Gap("what it knew last is not in etcd's history any more"),
            None => Ended::Lost("nothing comes".into()),
        })
    }
}

/// Why etcd has ended a watch.
pub(super) async fn end_of(answer: &mut Answer) -> Ended {
    let status = answer.body.trailers().await.ok().flatten();
    let status = status.as_ref().and_then(crate::grpc::from_headers);
    match status {
        Some(status) if is_about_permission(&status) => Ended::Denied(status.message().to_owned()),
        Some(status) => Ended::Lost(status.message().to_owned()),
        None => Ended::Lost("etcd has ended the watch".into()),
    }
}

/// Asks now and then whether Seawall may still read: etcd lets a watch go on that it would not open
/// again, and what a member may answer by itself is answered without asking.
pub(super) async fn denied(source: Weak<Cluster>) -> Ended {
    loop {
        sleep(LOOK).await;
        let Some(cluster) = source.upgrade() else { return Ended::Gone };
        // One that does not answer says nothing about permission.
        if let Ok(Err(denied @ Ended::Denied(_))) = timeout(LOOK, newest(&cluster)).await {
            return denied;
        }
    }
}

/// What etcd says of its store.
pub(super) async fn newest(cluster: &Cluster) -> Result<ResponseHeader, Ended> {
    let key = Bytes::from_static(b"\0");
    let request = RangeRequest { key, count_only: true, ..RangeRequest::default() };
    let asking =
        cluster.ask::<RangeResponse>(Method::Range, &request, HeaderMap::new(), CONTROL, None);
    match asking.await {
        Ok(Ok(response)) => Ok(response.header.unwrap_or_default()),
        Ok(Err(status)) if is_about_permission(&status) => {
            Err(Ended::Denied(status.message().to_owned()))
        }
        Ok(Err(status)) => Err(Ended::Lost(status.message().to_owned())),
        Err(error) => Err(Ended::Lost(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn following(resumes: Option<Last>) -> Following {
        Following::new(resumes, 3)
    }

    #[tokio::test(start_paused = true)]
    async fn is_lost_when_etcd_goes_on_and_nothing_comes() {
        let mut following = following(None);
        advance(2 * STALLED).await;
        assert!(following.check(3, 3).is_none(), "there is nothing to come");
        assert!(following.check(3, 4).is_none());
        advance(STALLED).await;
        assert!(following.check(5, 9).is_none(), "it is late, and moves");
        advance(STALLED).await;
        assert!(matches!(following.check(5, 9), Some(Ended::Lost(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn begins_anew_when_what_it_knew_does_not_come_again() {
        let mut following = following(Some(Last::default()));
        assert!(following.check(3, 3).is_none());
        advance(RESUMED).await;
        assert!(matches!(following.check(3, 3), Some(Ended::Gap(_))));
    }
}
