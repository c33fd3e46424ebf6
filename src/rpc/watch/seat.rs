//! Whether a watcher can be served from memory.

use crate::{
    admission::{Class, Kind, Mode, Plan, Shape},
    etcd::{
        key_range::KeyRange,
        method::Method,
        proto::etcdserverpb::{RangeRequest, ResponseHeader, WatchCreateRequest},
    },
    mirror::{Collection, Mirror, Pass, Store, Tier, Watcher, is_whole},
    pipeline::{self, Manner, NotMirrored, Placed, Read, for_all, has_token},
    rpc::{
        Context,
        range::MIRROR,
        watch::ids::{Moving, Returning},
    },
};
use futures_util::future::join_all;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::timeout;

/// A place in the history of a collection for a watcher that was asked for.
#[derive(Debug)]
pub(super) struct Seat {
    /// With the id of the watcher.
    pub(super) request: WatchCreateRequest,
    pub(super) watcher: Watcher,
    pub(super) collection: Arc<Collection>,
    /// Not kept for a client that does not read.
    pub(super) store: Weak<Store>,
    /// Of the answer that it was created.
    pub(super) header: ResponseHeader,
}

/// Those who list a collection have it loaded, and watch it right after: it is worth a wait, as is a
/// feed that is being opened. A watcher that has waited for so long is created at etcd.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Memory that watchers could come back to answers sooner than that, or they go on at etcd.
const RETURN_MAX: Duration = Duration::from_secs(1);

/// Who serves a watcher that was asked for.
#[derive(Debug)]
pub(super) enum Found {
    Memory(Box<Seat>),
    /// etcd, for as long as memory cannot.
    Away(WatchCreateRequest),
    Etcd,
}

/// Watchers that have left etcd: those with a place in memory, and those without.
#[derive(Debug)]
pub(super) struct Returned {
    pub(super) cluster: usize,
    pub(super) seats: Vec<Seat>,
    pub(super) others: Vec<Moving>,
}

/// Whether watchers of a stream may be served from memory at all: the client has no name at etcd, and
/// does not ask for etcd itself.
pub(super) fn may_serve(context: &Context) -> bool {
    let call = &context.call;
    context.edge.protection.mirror() != Mode::Off
        && call.overrides.as_deref() != Some(MIRROR)
        && !has_token(&call.headers)
}

/// Finds a place for a watcher. Without one, it is for etcd to serve.
pub(super) async fn find(
    context: &Context,
    placed: Placed<'_>,
    request: WatchCreateRequest,
) -> Found {
    match timeout(WAIT_MAX, take(context, placed, &request)).await {
        Ok(Ok(seat)) => Found::Memory(Box::new(seat)),
        Ok(Err(Pass::Keys)) => Found::Etcd,
        Ok(Err(_)) | Err(_) => Found::Away(request),
    }
}

/// Whether memory has what at least one of these watchers takes. What is worth it is loaded for them.
pub(super) fn has_room<'r>(
    context: &Context,
    mirror: &Mirror,
    mut requests: impl Iterator<Item = &'r WatchCreateRequest>,
) -> bool {
    context.edge.protection.mirror() == Mode::Enforce
        && mirror.position().live
        && requests.any(|request| {
            let (keys, tier) = wanted(request);
            let collection = mirror.collection(&keys, !request.range_end.is_empty());
            collection.is_ok_and(|collection| {
                mirror.offers(&collection, tier, is_whole(&keys, &collection.name))
            })
        })
}

/// Finds places for watchers that have left etcd.
pub(super) async fn find_again(context: &Context, returning: Returning) -> Returned {
    let Returning { cluster, requests, seen } = returning;
    let placed = context.topology.at(cluster);
    let next = seen.revision + 1;
    let reached = timeout(RETURN_MAX, reached(context, placed, next)).await.ok();
    let reached = reached.and_then(Result::ok).filter(|(header, _)| seen.is_in(header));
    let (mut seats, mut others) = (Vec::new(), Vec::new());
    for request in requests {
        let next = request.start_revision.max(next);
        let seat = reached.and_then(|(header, revision)| {
            let header = ResponseHeader { revision, ..header };
            take_again(context, placed.mirror(), &request, header, next).ok()
        });
        match seat {
            Some(seat) => seats.push(seat),
            None => {
                let request = WatchCreateRequest { start_revision: next, ..request };
                others.push(Moving { cluster, request, seen });
            }
        }
    }
    Returned { cluster, seats, others }
}

fn take_again(
    context: &Context,
    mirror: &Mirror,
    request: &WatchCreateRequest,
    header: ResponseHeader,
    next: i64,
) -> Result<Seat, Pass> {
    if context.edge.protection.mirror() != Mode::Enforce {
        return Err(Pass::Off);
    }
    let (keys, tier) = wanted(request);
    let collection = mirror.collection(&keys, !request.range_end.is_empty())?;
    let store = mirror.store(&collection, tier, false)?;
    if !store.history(|history| next > history.floor()) {
        return Err(Pass::Past);
    }
    let watcher = Watcher::new(request, header.revision).going_on_at(next);
    let store = Arc::downgrade(&store);
    Ok(Seat { request: request.clone(), watcher, collection, store, header })
}

/// The keys of a watcher, and what it takes to serve it: values before an event are those that the
/// collection itself held.
fn wanted(request: &WatchCreateRequest) -> (KeyRange, Tier) {
    let keys = KeyRange::for_watch(request.key.clone(), request.range_end.clone());
    (keys, if request.prev_kv { Tier::Value } else { Tier::Index })
}

async fn take(
    context: &Context,
    placed: Placed<'_>,
    request: &WatchCreateRequest,
) -> Result<Seat, Pass> {
    let mirror = placed.mirror();
    let (keys, tier) = wanted(request);
    if request.start_revision < 0 || keys.is_empty() {
        return Err(Pass::Keys);
    }
    let collection = mirror.collection(&keys, !request.range_end.is_empty())?;
    if context.edge.protection.mirror() != Mode::Enforce {
        return Err(Pass::Off);
    }
    // After an outage all clients come back at once: none of them is to stay at etcd for that.
    mirror.live().await?;
    if mirror.store(&collection, tier, is_whole(&keys, &collection.name)).is_err() {
        mirror.loaded(&collection, tier, None).await?;
    }
    let (header, revision) = reached(context, placed, request.start_revision).await?;
    let store = mirror.store(&collection, tier, false)?;
    let remembers = |start| store.history(|history| start > history.floor());
    if request.start_revision > 0 && !remembers(request.start_revision) {
        return Err(Pass::Past);
    }
    let watcher = Watcher::new(request, revision);
    Ok(Seat {
        request: request.clone(),
        watcher,
        collection,
        store: Arc::downgrade(&store),
        header: ResponseHeader { revision, ..header },
    })
}

/// Waits until memory has come as far as etcd was after this call, and etcd has said that it still
/// has `start_revision`, if that is one of the past.
async fn reached(
    context: &Context,
    placed: Placed<'_>,
    start_revision: i64,
) -> Result<(ResponseHeader, i64), Pass> {
    let mirror: &Mirror = placed.mirror();
    let is_past = start_revision <= mirror.position().revision;
    let asked = if is_past { start_revision } else { 0 };
    let header = match newest(context, placed).probe(mirror, asked).await {
        Ok(header) => header,
        Err(NotMirrored::Pass(pass)) => return Err(pass),
        Err(NotMirrored::Refused(_)) => return Err(Pass::Past),
    };
    let revision = mirror.reached(header.revision, header.cluster_id).await?;
    Ok((header, revision))
}

/// Those of these clusters whose memory has come as far as etcd was after this call.
pub(super) async fn reached_of(context: &Context, clusters: Vec<usize>) -> Vec<usize> {
    let asking = clusters.into_iter().map(async |cluster| {
        let reached = reached(context, context.topology.at(cluster), 0);
        timeout(WAIT_MAX, reached).await.ok()?.ok().map(|_| cluster)
    });
    join_all(asking).await.into_iter().flatten().collect()
}

/// What the cluster at an index says of its store now. Watchers that leave together share the read.
pub(super) async fn store(context: &Context, cluster: usize) -> Result<ResponseHeader, Pass> {
    let asking = newest(context, context.topology.at(cluster));
    let header = timeout(WAIT_MAX, asking.header_at(0)).await;
    header.map_err(|_| Pass::Behind)?.map_err(|_| Pass::Behind)
}

/// A read that asks for nothing but the newest revision.
fn newest(context: &Context, placed: Placed<'_>) -> Read {
    let manner = Manner::of(Method::Range, Class::Probe);
    let outbound = pipeline::outbound(&placed, &context.call, manner, None);
    Read {
        reads: Arc::clone(&context.edge.reads),
        cluster: Arc::clone(placed.cluster),
        gate: Arc::clone(placed.gate()),
        outbound: for_all(outbound),
        request: RangeRequest::default(),
        subject: context.subject(Method::Range, Kind::of(Shape::CurrentRevision), None, 0),
        plan: Plan::default(),
        deadline: None,
    }
}
