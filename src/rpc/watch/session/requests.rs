//! What the client asks for on its stream.

use super::{Asked, DUPLICATE_ID, End, Request, Session, Step, ended};
use crate::{
    access::{Need, Verb},
    admission::{Kind, Plan, Shape, Subject},
    etcd::{
        key_range::KeyRange,
        method::Method,
        proto::etcdserverpb::{WatchCreateRequest, WatchRequest, watch_request::RequestUnion},
        wire,
    },
    grpc::{self, Message},
    pipeline::Placed,
    rpc::{
        Context,
        access::hidden,
        admit::one_of_stream,
        error::Error,
        merge,
        watch::{
            ids::{Ids, Source},
            memory::Order,
            seat::{self, Found},
        },
    },
};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use prost::encoding::{WireType, encode_key, encode_varint};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Another cluster has this long to say that a watcher is cancelled, before its id goes elsewhere.
const CANCEL_MAX: Duration = Duration::from_secs(5);

impl Session<'_> {
    pub(super) async fn on_request(&mut self, message: &Message) -> Result<(), End> {
        let request: WatchRequest = self.context.decoded(message).map_err(|error| ended(&error))?;
        if self.context.judges()
            && let Some(cluster) = forbidden(self.context, &request, message)
        {
            return self.refuse(cluster, PERMISSION_DENIED.to_owned()).await;
        }
        let mut may_remember = self.may_remember;
        if let Some(keys) = created_keys(&request) {
            match planned(self.context, keys, message).await {
                Ok(plan) => may_remember &= self.context.edge.protection.recalls(&plan),
                Err((cluster, reason)) => return self.refuse(cluster, reason).await,
            }
        }
        self.record(&request, message);
        let Some(ids) = self.ids.clone() else {
            let request =
                Request { source: Source::Etcd(0), framed: message.framed(), creates: false };
            return self.send(request).await;
        };
        // With fields that this build does not know it is for etcd to serve.
        may_remember &= message.is_all_in(&request);
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                self.create(create, message, may_remember, &ids).await
            }
            Some(RequestUnion::CancelRequest(cancel)) => {
                self.cancel(cancel.watch_id, message, &ids).await
            }
            Some(RequestUnion::ProgressRequest(_)) => self.progress(message, &ids).await,
            None => {
                let framed = message.framed();
                self.send(Request { source: Source::Etcd(0), framed, creates: false }).await
            }
        }
    }

    /// What becomes of watchers, where calls are recorded.
    fn record(&mut self, request: &WatchRequest, message: &Message) {
        let (Some(recorded), context) = (&mut self.recorded, self.context) else { return };
        match &request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                let keys = KeyRange::for_watch(create.key.clone(), create.range_end.clone());
                let topology = &context.topology;
                let placed = topology.owners(&keys).unwrap_or_else(|_| topology.default());
                let subject = watch(context, keys);
                let seen = one_of_stream(&placed.cluster.name, &subject, message);
                recorded.created(&seen, create.watch_id, past_revisions(create, &placed));
            }
            Some(RequestUnion::CancelRequest(cancel)) => recorded.cancelled(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) | None => {}
        }
    }

    async fn cancel(
        &mut self,
        watch_id: i64,
        message: &Message,
        ids: &Mutex<Ids>,
    ) -> Result<(), End> {
        // etcd is silent about ids that it does not know.
        let Some(source) = ids.lock().cancelled(watch_id) else { return Ok(()) };
        match source {
            Source::Etcd(_) | Source::Away(_) => {
                self.send(Request { source, framed: message.framed(), creates: false }).await
            }
            Source::Memory(cluster) | Source::Moving(cluster) => {
                // The id may be chosen again, for a watcher at etcd.
                self.step = Step::Waiting(Source::Memory(cluster));
                self.order(cluster, Order::Cancel(watch_id)).await;
                Ok(())
            }
        }
    }

    async fn progress(&mut self, message: &Message, ids: &Mutex<Ids>) -> Result<(), End> {
        let is_live = |source| !ids.lock().live(source).is_empty();
        let mut memories: Vec<_> = self.memories.keys().copied().collect();
        memories.retain(|&cluster| is_live(Source::Memory(cluster)));
        let mut sent = false;
        for (source, upstream) in self.upstreams.iter_mut().filter(|(source, _)| is_live(**source))
        {
            if let Source::Away(cluster) = source {
                ids.lock().away(*cluster).client_asks();
            }
            // Fails when the cluster has ended its stream, of which its relay tells.
            let _ = upstream.up.send(message.framed()).await;
            sent = true;
        }
        if !sent && memories.is_empty() {
            let (source, framed) = (Source::Etcd(0), message.framed());
            return self.send(Request { source, framed, creates: false }).await;
        }
        if !memories.is_empty() {
            let context = self.context;
            self.step = Step::Asking(Box::pin(async move {
                // Where it cannot be found out, there is no answer, as there may be none at etcd.
                Asked::Progress(seat::reached_of(context, memories).await)
            }));
        }
        Ok(())
    }

    /// Sends a create request to the cluster that owns its keys, or to the memory of it, under the id
    /// that a single etcd would give.
    async fn create(
        &mut self,
        create: WatchCreateRequest,
        message: &Message,
        may_remember: bool,
        ids: &Mutex<Ids>,
    ) -> Result<(), End> {
        let context = self.context;
        let topology = &context.topology;
        let keys = KeyRange::for_watch(create.key.clone(), create.range_end.clone());
        // etcd tells a client that an id is taken; the cluster where it is does so here.
        let taken = ids.lock().source_of(create.watch_id).filter(|_| create.watch_id != 0);
        let cluster = match (taken, topology.owners(&keys)) {
            (Some(Source::Etcd(cluster)), _) => cluster,
            (Some(source), _) if !keys.is_empty() => {
                return self.refuse(source.cluster(), DUPLICATE_ID.to_owned()).await;
            }
            (_, Ok(placed)) => placed.index,
            (_, Err(segments)) => {
                let text = merge::spans(topology, &keys, &segments, "cannot be watched");
                return self.refuse(0, format!("seawall: {text}")).await;
            }
        };
        let id = if create.watch_id == 0 { ids.lock().next() } else { create.watch_id };
        let framed = match create.watch_id == id {
            true => message.framed(),
            false => with_watch_id(&message.payload(), id),
        };
        ids.lock().ask(None);
        let cancelling = ids.lock().cancelling(id);
        let behind = cancelling.filter(|source| source.cluster() == cluster);
        let source = behind.unwrap_or(Source::Etcd(cluster));
        let request = Request { source, framed, creates: true };
        if cancelling.is_some() && behind.is_none() {
            // On its own stream, the answer of the one that had the id could come after this one's.
            let answered = timeout(CANCEL_MAX, ids.lock().answered(id));
            self.step = Step::Asking(Box::pin(async move {
                let _ = answered.await;
                Asked::Create(request, Found::Etcd)
            }));
            return Ok(());
        }
        if !may_remember || taken.is_some() || cancelling.is_some() {
            return self.send(request).await;
        }
        let create = WatchCreateRequest { watch_id: id, ..create };
        self.step = Step::Asking(Box::pin(async move {
            let found = seat::find(context, context.topology.at(cluster), create).await;
            Asked::Create(request, found)
        }));
        Ok(())
    }
}

/// A watcher as protections see it.
fn watch(context: &Context, keys: KeyRange) -> Subject {
    context.subject(Method::Watch, Kind::of(Shape::Watch), Some(keys), 0)
}

/// What the rules say of a watcher of these keys that is to be created; why they do not let it be, and
/// the cluster that it would be at. Nobody waits for a turn here: the other watchers of the stream would
/// wait, too.
async fn planned(
    context: &Context,
    keys: KeyRange,
    message: &Message,
) -> Result<Plan, (usize, String)> {
    let topology = &context.topology;
    let placed = topology.owners(&keys).unwrap_or_else(|_| topology.default());
    let subject = watch(context, keys);
    context.attribute_one(&placed.cluster.name, &subject, message);
    let planning = context.edge.protection.plan(placed.gate(), &subject, Some(Instant::now()));
    planning.await.map_err(|denied| (placed.index, Error::from(denied).to_string()))
}

/// How many revisions a watcher sees first that its cluster, as far as is known, has had already.
fn past_revisions(create: &WatchCreateRequest, placed: &Placed<'_>) -> u64 {
    let newest = placed.cluster.identity().header.revision;
    let newest = newest.max(placed.mirror().position().revision);
    if create.start_revision <= 0 {
        return 0;
    }
    u64::try_from(newest.saturating_add(1).saturating_sub(create.start_revision))
        .unwrap_or_default()
}

/// What etcd says to a client that may not watch what it asks for.
const PERMISSION_DENIED: &str =
    "rpc error: code = PermissionDenied desc = etcdserver: permission denied";

/// The cluster of a watcher that the client may not create.
fn forbidden(context: &Context, request: &WatchRequest, message: &Message) -> Option<usize> {
    let keys = created_keys(request);
    let need = keys.clone().map(|keys| Need::with(Verb::Watch, keys));
    if context.may(need.into_iter().chain(hidden(request, message))) {
        return None;
    }
    let placed = keys.and_then(|keys| context.topology.owners(&keys).ok());
    Some(placed.map_or(0, |placed| placed.index))
}

/// What a watcher that is to be created is about.
fn created_keys(request: &WatchRequest) -> Option<KeyRange> {
    match &request.request_union {
        Some(RequestUnion::CreateRequest(create)) => {
            Some(KeyRange::for_watch(create.key.clone(), create.range_end.clone()))
        }
        _ => None,
    }
}

/// The create request with `id` as its watch id. The last of two fields counts, and what this build
/// does not know of the request stays in it.
fn with_watch_id(request: &[u8], id: i64) -> Bytes {
    const CREATE_REQUEST: u32 = 1;
    const WATCH_ID: u32 = 7;
    let creates = wire::fields(request).flatten().filter(|field| field.number == CREATE_REQUEST);
    let mut create = BytesMut::new();
    creates.for_each(|field| create.extend_from_slice(field.value.bytes()));
    encode_key(WATCH_ID, WireType::Varint, &mut create);
    encode_varint(id as u64, &mut create);
    let mut request = BytesMut::new();
    wire::put_bytes(CREATE_REQUEST, &create, &mut request);
    grpc::frame(&request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn a_create_request_keeps_everything_but_its_id() {
        let create = WatchCreateRequest {
            key: Bytes::from_static(b"/registry/pods/"),
            range_end: Bytes::from_static(b"/registry/pods0"),
            start_revision: 12,
            progress_notify: true,
            filters: vec![0, 1],
            prev_kv: true,
            watch_id: 0,
            fragment: true,
        };
        let request =
            |create| WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let framed = with_watch_id(&request(create.clone()).encode_to_vec(), -7);
        let decoded = WatchRequest::decode(framed.slice(grpc::PREFIX_LEN..)).expect("a request");
        assert_eq!(decoded, request(WatchCreateRequest { watch_id: -7, ..create }));
    }
}
