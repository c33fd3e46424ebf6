//! The loop of one watch stream: requests in their order, and what comes of them.

use super::{
    End,
    head::ALL,
    ids::{Ids, Moving, Source},
    memory::{Desk, Memory, Order},
    outlet::Outlet,
    seat::{self, Seat},
    stopped,
    upstreams::{Event, Relay, Upstream},
};
use crate::{
    access::{Need, Verb},
    admission::{Kind, Plan, Shape},
    etcd::{
        errors,
        key_range::KeyRange,
        method::Method,
        proto::etcdserverpb::{
            ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse,
            watch_request::RequestUnion,
        },
        wire,
    },
    grpc::{self, Incoming, Message, ReadError},
    mirror::Pass,
    pipeline::{self, Manner, Placed, Responder},
    rpc::{Context, access::hidden, error::Error, merge, status},
    upstream::Exchange,
};
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use std::{
    collections::HashMap,
    future::{poll_fn, ready},
    sync::Arc,
};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tonic::{Code, Status};

/// Events of relays that wait for the session; relays wait when it is full.
const EVENTS_QUEUED: usize = 16;

/// One watch stream of a client.
pub(super) struct Session<'c> {
    context: &'c Context,
    manner: Manner,
    outlet: Arc<Outlet>,
    /// By index of the cluster; opened when first needed.
    upstreams: HashMap<usize, Upstream>,
    /// By index of the cluster; started when first needed.
    memories: HashMap<usize, Memory>,
    /// Whether watchers may be served from memory.
    may_remember: bool,
    /// Where watchers may have several sources. Never locked across an await.
    ids: Option<Arc<Mutex<Ids>>>,
    /// Told when a watcher moves from memory to etcd.
    moved: Arc<Notify>,
    /// A request that no later one may overtake.
    step: Step<'c>,
    /// A watcher has moved on, and a request may have waited for that.
    owes_a_request: bool,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
}

/// What the next request waits for.
///
/// ```text
/// Ready --create, or a cluster's first request--> Opening --opened--> Creating --created--> Ready
///   |                                                ^ `--cannot be opened: refused--> Ready
///   `--may be served from memory--> Asking --it is not-'
///   `--a watcher leaves memory-------^ `--it is--> Creating
/// ```
enum Step<'c> {
    Ready,
    /// Memory, which has to reach what etcd has reached; or etcd, whether it is still the same.
    Asking(BoxFuture<'c, Asked>),
    /// The stream to a cluster, and what is to be sent first.
    Opening(Request, BoxFuture<'c, Result<Exchange, crate::upstream::Error>>),
    /// The answer of this source to a create request. Answers come in the order of requests, which
    /// only etcd itself can see to within one stream.
    Creating(Source),
}

/// What was waited for elsewhere.
enum Done {
    Asked(Asked),
    Opened(Request, Result<Exchange, crate::upstream::Error>),
}

/// What was asked before the next step.
enum Asked {
    /// A watcher, its place in memory if there is one, and what etcd gets to read otherwise.
    Create(Request, Option<Box<Seat>>),
    /// How far the watchers are that are served from the memories of these clusters.
    Progress(Vec<usize>),
    /// A watcher that left memory, and what etcd says of its store now.
    GoOn(Moving, Result<ResponseHeader, Pass>),
}

/// What etcd says to a client that chooses an id twice.
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

/// What etcd says to a client that may not watch what it asks for.
const PERMISSION_DENIED: &str =
    "rpc error: code = PermissionDenied desc = etcdserver: permission denied";

/// A request on its way to the cluster at an index.
struct Request {
    cluster: usize,
    framed: Bytes,
    creates: bool,
}

impl<'c> Session<'c> {
    pub(super) fn new(context: &'c Context, manner: Manner, responder: Responder) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_QUEUED);
        let may_remember = seat::may_serve(context);
        let several = may_remember || !context.topology.is_single();
        Self {
            context,
            manner,
            outlet: Arc::new(Outlet::new(responder)),
            upstreams: HashMap::new(),
            memories: HashMap::new(),
            may_remember,
            ids: several.then(Arc::default),
            moved: Arc::default(),
            step: Step::Ready,
            owes_a_request: false,
            events,
            sender,
        }
    }

    /// Runs until the stream has to end. What the client ends is only its own side: events go on.
    pub(super) async fn run(&mut self, mut incoming: Incoming) -> End {
        let max = self.context.edge.request_bytes_max;
        let outlet = Arc::clone(&self.outlet);
        let mut open = true;
        loop {
            let is_ready = matches!(self.step, Step::Ready);
            // Watchers that move on do not hold the client's requests up.
            let owes = is_ready && std::mem::take(&mut self.owes_a_request);
            let moves = self.ids.as_ref().filter(|_| is_ready && !owes);
            let moving = moves.and_then(|ids| ids.lock().continue_next());
            if let Some(moving) = moving {
                let context = self.context;
                self.step = Step::Asking(Box::pin(async move {
                    let store = seat::store(context, moving.cluster).await;
                    Asked::GoOn(moving, store)
                }));
                continue;
            }
            let step = tokio::select! {
                biased;
                Some(event) = self.events.recv() => self.on_event(event).await,
                done = done(&mut self.step) => self.on_done(done).await,
                () = self.moved.notified() => Ok(()),
                () = poll_fn(|cx| outlet.poll_gone(cx)) => Err(End::Gone),
                request = incoming.message(max), if open && is_ready => match request {
                    Ok(Some(message)) => self.on_request(&message).await,
                    Ok(None) => {
                        open = false;
                        Ok(())
                    }
                    Err(ReadError::Broken(_)) => Err(End::Gone),
                    Err(error) => Err(ended(&error.into())),
                },
                () = ready(()), if owes => Ok(()),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Ends the stream after the message that is being sent.
    pub(super) async fn finish(self, end: End) {
        if let End::Status(status) = end {
            let turn = self.outlet.turn().await;
            drop((self.upstreams, self.memories));
            turn.finish(&status);
        }
    }

    async fn on_request(&mut self, message: &Message) -> Result<(), End> {
        let mut may_remember = self.may_remember;
        if self.context.judges()
            && let Some(cluster) = forbidden(self.context, message)?
        {
            return self.refuse(cluster, PERMISSION_DENIED.to_owned()).await;
        }
        if self.context.edge.protection.has_rules() {
            match planned(self.context, message).await? {
                Ok(plan) => may_remember &= self.context.edge.protection.recalls(&plan),
                Err((cluster, reason)) => return self.refuse(cluster, reason).await,
            }
        }
        let Some(ids) = self.ids.clone() else {
            let request = Request { cluster: 0, framed: message.framed(), creates: false };
            return self.send(request).await;
        };
        let request: WatchRequest = self.context.decoded(message).map_err(|error| ended(&error))?;
        // With fields that this build does not know it is for etcd to serve.
        may_remember &= request.encoded_len() == message.payload().len();
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
                self.send(Request { cluster: 0, framed, creates: false }).await
            }
        }
    }

    async fn cancel(
        &mut self,
        watch_id: i64,
        message: &Message,
        ids: &Mutex<Ids>,
    ) -> Result<(), End> {
        // etcd is silent about ids that it does not know.
        let Some(source) = ids.lock().source_of(watch_id) else { return Ok(()) };
        ids.lock().cancelled(watch_id);
        match source {
            Source::Etcd(cluster) => {
                self.send(Request { cluster, framed: message.framed(), creates: false }).await
            }
            Source::Memory(cluster) | Source::Moving(cluster) => {
                self.order(cluster, Order::Cancel(watch_id)).await;
                Ok(())
            }
        }
    }

    async fn progress(&mut self, message: &Message, ids: &Mutex<Ids>) -> Result<(), End> {
        let is_live = |source| !ids.lock().live(source).is_empty();
        let mut clusters: Vec<_> = self.upstreams.keys().copied().collect();
        clusters.retain(|&cluster| is_live(Source::Etcd(cluster)));
        let mut memories: Vec<_> = self.memories.keys().copied().collect();
        memories.retain(|&cluster| is_live(Source::Memory(cluster)));
        if clusters.is_empty() && memories.is_empty() {
            clusters.push(0);
        }
        for cluster in clusters {
            let framed = message.framed();
            self.send(Request { cluster, framed, creates: false }).await?;
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
            (Some(Source::Memory(cluster) | Source::Moving(cluster)), _) if !keys.is_empty() => {
                return self.refuse(cluster, DUPLICATE_ID.to_owned()).await;
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
        let request = Request { cluster, framed, creates: true };
        if !may_remember || taken.is_some() || ids.lock().is_cancelling(id) {
            return self.send(request).await;
        }
        let create = WatchCreateRequest { watch_id: id, ..create };
        self.step = Step::Asking(Box::pin(async move {
            let seat = seat::find(context, context.topology.at(cluster), create).await;
            Asked::Create(request, seat.map(Box::new))
        }));
        Ok(())
    }

    /// Has a watcher that left memory created at etcd. The client does not hear of it.
    async fn go_on(
        &mut self,
        Moving { cluster, request, seen }: Moving,
        store: Result<ResponseHeader, Pass>,
    ) -> Result<(), End> {
        self.owes_a_request = true;
        match store {
            Ok(header) if seen.is_in(&header) => {
                let request_union = Some(RequestUnion::CreateRequest(request));
                let framed = grpc::encode(&WatchRequest { request_union });
                self.send(Request { cluster, framed, creates: true }).await
            }
            Err(_) if !self.context.topology.is_single() => {
                self.refuse(cluster, errors::SERVER_STOPPED.1.to_owned()).await
            }
            // Another store, or one that cannot be asked: clients open their watchers anew, and find out.
            Ok(_) | Err(_) => Err(stopped()),
        }
    }

    /// etcd cannot be asked for a watcher.
    async fn not_opened(&mut self, cluster: usize, error: &Error) -> Result<(), End> {
        // With one cluster there is nothing that a stream could be good for without it.
        if self.context.topology.is_single() {
            return Err(ended(error));
        }
        self.refuse(cluster, status::of(error).message().to_owned()).await
    }

    /// Has the memory of a cluster do something.
    async fn order(&mut self, cluster: usize, order: Order) {
        let Some(ids) = &self.ids else { return };
        let memory = self.memories.entry(cluster).or_insert_with(|| {
            let placed = self.context.topology.at(cluster);
            Memory::start(Desk {
                index: cluster,
                cluster: Arc::clone(placed.cluster),
                mirror: Arc::clone(placed.mirror()),
                protection: Arc::clone(&self.context.edge.protection),
                outlet: Arc::clone(&self.outlet),
                ids: Arc::clone(ids),
                events: self.sender.clone(),
                moved: Arc::clone(&self.moved),
            })
        });
        // Fails when the client has left, of which the task tells.
        let _ = memory.orders.send(order).await;
    }

    async fn send(&mut self, request: Request) -> Result<(), End> {
        let Some(upstream) = self.upstreams.get_mut(&request.cluster) else {
            let opening = self.open(request.cluster);
            self.step = Step::Opening(request, opening);
            return Ok(());
        };
        self.step = match request.creates {
            true => Step::Creating(Source::Etcd(request.cluster)),
            false => Step::Ready,
        };
        // Fails when the cluster has ended its stream, of which its relay tells.
        let _ = upstream.up.send(request.framed).await;
        Ok(())
    }

    fn open(&self, cluster: usize) -> BoxFuture<'c, Result<Exchange, crate::upstream::Error>> {
        let placed: Placed<'c> = self.context.topology.at(cluster);
        let outbound = pipeline::outbound(&placed, &self.context.call, self.manner, None);
        Box::pin(async move { placed.cluster.stream(&outbound).await })
    }

    async fn on_done(&mut self, done: Done) -> Result<(), End> {
        match done {
            Done::Opened(request, exchange) => self.on_opened(request, exchange).await,
            Done::Asked(Asked::Create(request, None)) => self.send(request).await,
            Done::Asked(Asked::Create(request, Some(seat))) => {
                self.step = Step::Creating(Source::Memory(request.cluster));
                self.order(request.cluster, Order::Create(seat)).await;
                Ok(())
            }
            Done::Asked(Asked::GoOn(moving, store)) => self.go_on(moving, store).await,
            Done::Asked(Asked::Progress(clusters)) => {
                for cluster in clusters {
                    self.order(cluster, Order::Progress).await;
                }
                Ok(())
            }
        }
    }

    async fn on_opened(
        &mut self,
        request: Request,
        exchange: Result<Exchange, crate::upstream::Error>,
    ) -> Result<(), End> {
        let cluster = request.cluster;
        match exchange {
            Ok(exchange) => {
                let relay = Relay {
                    cluster,
                    outlet: Arc::clone(&self.outlet),
                    ids: self.ids.clone(),
                    events: self.sender.clone(),
                };
                let Some(upstream) = Upstream::start(exchange, relay) else {
                    return Err(End::Gone);
                };
                self.upstreams.insert(cluster, upstream);
                self.send(request).await
            }
            Err(error) if !request.creates => Err(ended(&error.into())),
            Err(error) => self.not_opened(cluster, &error.into()).await,
        }
    }

    async fn on_event(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Gone => Err(End::Gone),
            Event::Created => {
                self.step = Step::Ready;
                Ok(())
            }
            Event::Ended { cluster, status } => {
                self.upstreams.remove(&cluster);
                match self.ids.clone() {
                    Some(ids) if self.has_other_clusters(cluster) => {
                        self.on_lost(cluster, &status, &ids).await
                    }
                    _ => Err(End::Status(status)),
                }
            }
        }
    }

    /// Whether something goes on for the stream without this cluster.
    fn has_other_clusters(&self, lost: usize) -> bool {
        let is_live = |cluster: &&usize| {
            let ids = self.ids.as_ref();
            ids.is_some_and(|ids| !ids.lock().live(Source::Memory(**cluster)).is_empty())
        };
        let mut clusters = self.upstreams.keys().chain(self.memories.keys().filter(is_live));
        clusters.any(|&cluster| cluster != lost)
    }

    /// One of several clusters is lost to the stream: its watchers are cancelled, the others go on.
    async fn on_lost(
        &mut self,
        cluster: usize,
        status: &Status,
        ids: &Mutex<Ids>,
    ) -> Result<(), End> {
        let header = self.context.topology.clusters[cluster].identity().header;
        let lost = ids.lock().lost(Source::Etcd(cluster));
        for watch_id in lost {
            tell(&self.outlet, &canceled(header, watch_id, status.message())).await?;
        }
        if matches!(self.step, Step::Creating(waiting) if waiting == Source::Etcd(cluster)) {
            self.refuse(cluster, status.message().to_owned()).await?;
        }
        Ok(())
    }

    /// Answers a create request as etcd does when it does not make the watcher.
    async fn refuse(&mut self, cluster: usize, cancel_reason: String) -> Result<(), End> {
        self.step = Step::Ready;
        let Ok(Some(mut header)) = self.context.header(cluster).await else {
            // Clients rely on the header's being there, and there is nothing true to put into it.
            return Err(End::Status(Status::new(Code::Unavailable, cancel_reason)));
        };
        let position = self.context.topology.at(cluster).mirror().position();
        if position.cluster_id == header.cluster_id {
            header.revision = header.revision.max(position.revision);
        }
        let continued = self.ids.as_ref().and_then(|ids| ids.lock().take_continued());
        if let (Some(ids), Some(id)) = (&self.ids, continued) {
            ids.lock().cancelled(id);
            return tell(&self.outlet, &canceled(header, id, &cancel_reason)).await;
        }
        tell(
            &self.outlet,
            &WatchResponse { created: true, ..canceled(header, ALL, &cancel_reason) },
        )
        .await
    }
}

/// What the rules say of a watcher that is to be created; why they do not let it be, and the cluster
/// that it would be at. Nobody waits for a turn here: the other watchers of the stream would wait,
/// too.
async fn planned(
    context: &Context,
    message: &Message,
) -> Result<Result<Plan, (usize, String)>, End> {
    let request: WatchRequest = context.decoded(message).map_err(|error| ended(&error))?;
    let Some(RequestUnion::CreateRequest(create)) = request.request_union else {
        return Ok(Ok(Plan::default()));
    };
    let keys = KeyRange::for_watch(create.key, create.range_end);
    let topology = &context.topology;
    let placed = topology.owners(&keys).unwrap_or_else(|_| topology.default());
    let subject = context.subject(Method::Watch, Kind::of(Shape::Watch), Some(keys), 0);
    let planning = context.edge.protection.plan(placed.gate(), &subject, Some(Instant::now()));
    Ok(planning.await.map_err(|denied| (placed.index, Error::from(denied).to_string())))
}

/// The cluster of a watcher that the client may not create.
fn forbidden(context: &Context, message: &Message) -> Result<Option<usize>, End> {
    let request: WatchRequest = context.decoded(message).map_err(|error| ended(&error))?;
    let hidden = hidden(&request, message);
    let keys = match request.request_union {
        Some(RequestUnion::CreateRequest(create)) => {
            Some(KeyRange::for_watch(create.key, create.range_end))
        }
        _ => None,
    };
    let need = keys.clone().map(|keys| Need::with(Verb::Watch, keys));
    if context.may(need.into_iter().chain(hidden)) {
        return Ok(None);
    }
    let placed = keys.and_then(|keys| context.topology.owners(&keys).ok());
    Ok(Some(placed.map_or(0, |placed| placed.index)))
}

/// Sends a response of our own.
async fn tell(outlet: &Outlet, response: &WatchResponse) -> Result<(), End> {
    let mut turn = outlet.turn().await;
    turn.send(grpc::encode(response)).await.map_err(|_| End::Gone)
}

fn canceled(header: ResponseHeader, watch_id: i64, reason: &str) -> WatchResponse {
    WatchResponse {
        header: Some(header),
        watch_id,
        canceled: true,
        cancel_reason: reason.to_owned(),
        ..WatchResponse::default()
    }
}

/// Waits for what is done elsewhere, if anything; then the step is for the caller to set.
async fn done(step: &mut Step<'_>) -> Done {
    let exchange = match step {
        Step::Asking(asking) => {
            let asked = asking.await;
            *step = Step::Ready;
            return Done::Asked(asked);
        }
        Step::Opening(_, opening) => opening.await,
        Step::Ready | Step::Creating(_) => return std::future::pending().await,
    };
    match std::mem::replace(step, Step::Ready) {
        Step::Opening(request, _) => Done::Opened(request, exchange),
        Step::Ready | Step::Asking(_) | Step::Creating(_) => std::future::pending().await,
    }
}

fn ended(error: &Error) -> End {
    End::Status(status::of(error))
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
