//! Reading a collection from etcd, page by page, each in its turn.

use super::{Change, Kind, Object, Tier, reader::below};
use crate::{
    admission::{Client, Gate, Kind as CallKind, Place, Plan, Protection, Shape, Subject},
    etcd::{
        key_range::KeyRange,
        method::Method,
        proto::etcdserverpb::{RangeRequest, ResponseHeader},
        wire,
    },
    paging::{PAGES_HELD, Page, Pages, Splits, Stopped},
    upstream::{CONTROL, Cluster, Lane, outbound},
};
use bytes::Bytes;
use prost::Message;
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::timeout;

/// What a load needs of the cluster it loads from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) cluster: Arc<Cluster>,
    pub(super) gate: Arc<Gate>,
    pub(super) protection: Arc<Protection>,
    pub(super) splits: Arc<Splits>,
}

/// All objects of a collection at one revision.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) revision: i64,
    /// In the order of their keys.
    pub(super) objects: Vec<Object>,
}

/// Why there is none.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Failed {
    #[error("{0}")]
    Etcd(String),
    #[error("no turn at etcd")]
    Denied,
    #[error("larger than the memory that is left")]
    TooLarge,
    #[error("etcd does not answer")]
    Silent,
    #[error("malformed answer")]
    Malformed,
}

impl From<Stopped> for Failed {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Refused(status) => Self::Etcd(status.message().to_owned()),
            Stopped::Failed(error) => Self::Etcd(error.to_string()),
            Stopped::TooLarge { .. } => Self::TooLarge,
        }
    }
}

impl From<wire::Malformed> for Failed {
    fn from(_: wire::Malformed) -> Self {
        Self::Malformed
    }
}

/// A page that takes longer does not come.
const PAGE_MAX: Duration = Duration::from_secs(30);

impl Source {
    /// Reads all of a collection, at most `bytes_max` of memory; `bytes` tells how much it is so far.
    pub(super) async fn load(
        &self,
        name: &Bytes,
        tier: Tier,
        bytes_max: usize,
        bytes: &AtomicUsize,
    ) -> Result<Loaded, Failed> {
        let mut objects = Vec::new();
        let keys_only = tier == Tier::Index;
        let mut each = |object: Object| {
            let weight = object.weight();
            objects.push(object);
            let all = bytes.fetch_add(weight, Relaxed) + weight;
            if all > bytes_max { Err(Failed::TooLarge) } else { Ok(()) }
        };
        let revision = self.read(below(name), 0, keys_only, &mut each).await?;
        self.read(KeyRange::single(name.clone()), revision, keys_only, &mut each).await?;
        // The bare name comes before what is below it.
        objects.sort_by(|one, other| one.key().cmp(other.key()));
        Ok(Loaded { revision, objects })
    }

    /// Hands the objects of a range to `each`, in their order, and tells the revision that they were
    /// read at: `revision`, or the newest if that is 0.
    pub(super) async fn read(
        &self,
        keys: KeyRange,
        revision: i64,
        keys_only: bool,
        each: &mut impl FnMut(Object) -> Result<(), Failed>,
    ) -> Result<i64, Failed> {
        let request = RangeRequest {
            key: keys.start.clone(),
            range_end: keys.range_end(),
            revision,
            keys_only,
            ..RangeRequest::default()
        };
        let subject = subject(&keys);
        let calling = outbound(Method::Range, &request, CONTROL, Lane::Heavy);
        let page_bytes = self.protection.page_bytes();
        let known = self.protection.costs.learnt(&self.gate.cluster, &subject);
        let size = known.filter(|cost| cost.keys > 0).map(|cost| cost.bytes / cost.keys);
        let pages = Pages::new(&self.cluster, &self.splits, calling, request, page_bytes, size);
        let mut pages = pages.up_to(PAGES_HELD * page_bytes);
        let mut at = revision;
        loop {
            // Each page waits for its turn, so that a load never holds one for long.
            let plan = Plan::default();
            let entering = self.protection.enter(&self.gate, &subject, &plan, None);
            let permit = entering.await.map_err(|_| Failed::Denied)?;
            let next = timeout(PAGE_MAX, pages.next_that_fits()).await;
            let Some(page) = next.map_err(|_| Failed::Silent)? else { return Ok(at) };
            drop(permit);
            let page = page?;
            if at == 0 {
                let header = ResponseHeader::decode(page.header.clone());
                at = header.map_err(|_| Failed::Malformed)?.revision;
            }
            take(&page, keys_only, each)?;
        }
    }
}

fn take(
    page: &Page,
    keys_only: bool,
    each: &mut impl FnMut(Object) -> Result<(), Failed>,
) -> Result<(), Failed> {
    let parse = if keys_only { Object::parse_key } else { Object::parse };
    for run in &page.kvs {
        for field in wire::fields(run) {
            each(parse(field?.value.bytes())?)?;
        }
    }
    Ok(())
}

/// What a load is to the queues: background work of Seawall's own.
fn subject(keys: &KeyRange) -> Subject {
    let CallKind { shape, class } = CallKind::of(Shape::CheckPage);
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Subject {
        method: Some(Method::Range),
        shape,
        class,
        place: Place::of(keys),
        keys: Some(keys.clone()),
        others: Vec::new(),
        client: Arc::new(Client { name: "seawall".into(), address }),
        value_size: 0,
    }
}

impl Change {
    /// What the feed says of one key.
    pub(super) fn read(kind: Kind, kv: &[u8]) -> Result<Self, wire::Malformed> {
        Ok(Self { kind, object: Object::parse(kv)? })
    }
}
