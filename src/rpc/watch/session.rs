//! The loop of one watch stream: requests in their order, and what comes of them.

use super::{
    End,
    head::ALL,
    ids::Ids,
    outlet::Outlet,
    upstreams::{Event, Relay, Upstream},
};
use crate::{
    admission::{Kind, Shape},
    etcd::{
        key_range::KeyRange,
        method::Method,
        proto::etcdserverpb::{
            WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
        },
        wire,
    },
    grpc::{self, Incoming, Message, ReadError},
    pipeline::{self, Manner, Placed, Responder},
    rpc::{Context, error::Error, merge, status},
    upstream::Exchange,
};
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use prost::encoding::{WireType, encode_key, encode_varint};
use std::{collections::HashMap, future::poll_fn, sync::Arc};
use tokio::{sync::mpsc, time::Instant};
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
    /// Where the stream may reach several clusters. Never locked across an await.
    ids: Option<Arc<Mutex<Ids>>>,
    /// A request that no later one may overtake.
    step: Step<'c>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
}

/// What the next request waits for.
///
/// ```text
/// Ready --create, or a cluster's first request--> Opening --opened--> Creating --created--> Ready
///                                                    `--cannot be opened: refused--> Ready
/// ```
enum Step<'c> {
    Ready,
    /// The stream to a cluster, and what is to be sent first.
    Opening(Request, BoxFuture<'c, Result<Exchange, crate::upstream::Error>>),
    /// The answer of this cluster to a create request. Answers come in the order of requests, which
    /// only etcd itself can see to within one stream.
    Creating(usize),
}

/// A request on its way to the cluster at an index.
struct Request {
    cluster: usize,
    framed: Bytes,
    creates: bool,
}

impl<'c> Session<'c> {
    pub(super) fn new(context: &'c Context, manner: Manner, responder: Responder) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_QUEUED);
        let several = !context.topology.is_single();
        Self {
            context,
            manner,
            outlet: Arc::new(Outlet::new(responder)),
            upstreams: HashMap::new(),
            ids: several.then(Arc::default),
            step: Step::Ready,
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
            let ready = matches!(self.step, Step::Ready);
            let step = tokio::select! {
                Some(event) = self.events.recv() => self.on_event(event).await,
                opened = opened(&mut self.step) => self.on_opened(opened).await,
                () = poll_fn(|cx| outlet.poll_gone(cx)) => Err(End::Gone),
                request = incoming.message(max), if open && ready => match request {
                    Ok(Some(message)) => self.on_request(&message).await,
                    Ok(None) => {
                        open = false;
                        Ok(())
                    }
                    Err(ReadError::Broken(_)) => Err(End::Gone),
                    Err(error) => Err(ended(&error.into())),
                },
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
            drop(self.upstreams);
            turn.finish(&status);
        }
    }

    async fn on_request(&mut self, message: &Message) -> Result<(), End> {
        if self.context.edge.protection.has_rules()
            && let Some((cluster, reason)) = denied(self.context, message).await?
        {
            return self.refuse(cluster, reason).await;
        }
        let Some(ids) = self.ids.clone() else {
            let request = Request { cluster: 0, framed: message.framed(), creates: false };
            return self.send(request).await;
        };
        let request: WatchRequest = self.context.decoded(message).map_err(|error| ended(&error))?;
        let framed = message.framed();
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(&create, message, &ids).await,
            Some(RequestUnion::CancelRequest(cancel)) => {
                let cluster = ids.lock().cluster_of(cancel.watch_id);
                // etcd is silent about ids that it does not know.
                let Some(cluster) = cluster else { return Ok(()) };
                ids.lock().cancelled(cancel.watch_id);
                self.send(Request { cluster, framed, creates: false }).await
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                let mut clusters: Vec<_> = self.upstreams.keys().copied().collect();
                clusters.retain(|&cluster| !ids.lock().live(cluster).is_empty());
                if clusters.is_empty() {
                    clusters.push(0);
                }
                for cluster in clusters {
                    self.send(Request { cluster, framed: framed.clone(), creates: false }).await?;
                }
                Ok(())
            }
            None => self.send(Request { cluster: 0, framed, creates: false }).await,
        }
    }

    /// Sends a create request to the cluster that owns its keys, under the id that a single etcd
    /// would give.
    async fn create(
        &mut self,
        create: &WatchCreateRequest,
        message: &Message,
        ids: &Mutex<Ids>,
    ) -> Result<(), End> {
        let topology = &self.context.topology;
        let keys = KeyRange::for_watch(create.key.clone(), create.range_end.clone());
        // etcd tells a client that an id is taken; the cluster where it is does so here.
        let taken = ids.lock().cluster_of(create.watch_id).filter(|_| create.watch_id != 0);
        let cluster = match (taken, topology.owners(&keys)) {
            (Some(cluster), _) => cluster,
            (None, Ok(placed)) => placed.index,
            (None, Err(segments)) => {
                let text = merge::spans(topology, &keys, &segments, "cannot be watched");
                return self.refuse(0, format!("seawall: {text}")).await;
            }
        };
        let id = if create.watch_id == 0 { ids.lock().next() } else { create.watch_id };
        let framed = match create.watch_id == id {
            true => message.framed(),
            false => with_watch_id(&message.payload(), id),
        };
        self.send(Request { cluster, framed, creates: true }).await
    }

    async fn send(&mut self, request: Request) -> Result<(), End> {
        let Some(upstream) = self.upstreams.get_mut(&request.cluster) else {
            let opening = self.open(request.cluster);
            self.step = Step::Opening(request, opening);
            return Ok(());
        };
        self.step = if request.creates { Step::Creating(request.cluster) } else { Step::Ready };
        // Fails when the cluster has ended its stream, of which its relay tells.
        let _ = upstream.up.send(request.framed).await;
        Ok(())
    }

    fn open(&self, cluster: usize) -> BoxFuture<'c, Result<Exchange, crate::upstream::Error>> {
        let placed: Placed<'c> = self.context.topology.at(cluster);
        let outbound = pipeline::outbound(&placed, &self.context.call, self.manner, None);
        Box::pin(async move { placed.cluster.stream(&outbound).await })
    }

    async fn on_opened(
        &mut self,
        opened: (Request, Result<Exchange, crate::upstream::Error>),
    ) -> Result<(), End> {
        let (request, exchange) = opened;
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
            // With one cluster there is nothing that a stream could be good for without it.
            Err(error) if self.ids.is_none() || !request.creates => Err(ended(&error.into())),
            Err(error) => {
                let status = status::of(&error.into());
                self.refuse(cluster, status.message().to_owned()).await
            }
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
                    Some(ids) if !self.upstreams.is_empty() => {
                        self.on_lost(cluster, &status, &ids).await
                    }
                    _ => Err(End::Status(status)),
                }
            }
        }
    }

    /// One of several clusters is lost to the stream: its watchers are cancelled, the others go on.
    async fn on_lost(
        &mut self,
        cluster: usize,
        status: &Status,
        ids: &Mutex<Ids>,
    ) -> Result<(), End> {
        let header = self.context.topology.clusters[cluster].identity().header;
        let lost = ids.lock().lost(cluster);
        for watch_id in lost {
            let cancel_reason = status.message().to_owned();
            let header = Some(header);
            let response = WatchResponse {
                header,
                watch_id,
                canceled: true,
                cancel_reason,
                ..Default::default()
            };
            tell(&self.outlet, &response).await?;
        }
        if matches!(self.step, Step::Creating(waiting) if waiting == cluster) {
            self.refuse(cluster, status.message().to_owned()).await?;
        }
        Ok(())
    }

    /// Answers a create request as etcd does when it does not make the watcher.
    async fn refuse(&mut self, cluster: usize, cancel_reason: String) -> Result<(), End> {
        self.step = Step::Ready;
        let Ok(header) = self.context.header(cluster).await else {
            // Clients rely on the header's being there, and there is nothing true to put into it.
            return Err(End::Status(Status::new(Code::Unavailable, cancel_reason)));
        };
        let watch_id = ALL;
        let refusal = WatchResponse {
            header,
            watch_id,
            created: true,
            canceled: true,
            cancel_reason,
            ..Default::default()
        };
        tell(&self.outlet, &refusal).await
    }
}

/// Why the rules do not let a watcher be created, and the cluster that it would be at. Nobody waits
/// for a turn here: the other watchers of the stream would wait, too.
async fn denied(context: &Context, message: &Message) -> Result<Option<(usize, String)>, End> {
    let request: WatchRequest = context.decoded(message).map_err(|error| ended(&error))?;
    let Some(RequestUnion::CreateRequest(create)) = request.request_union else {
        return Ok(None);
    };
    let keys = KeyRange::for_watch(create.key, create.range_end);
    let topology = &context.topology;
    let placed = topology.owners(&keys).unwrap_or_else(|_| topology.default());
    let subject = context.subject(Method::Watch, Kind::of(Shape::Watch), Some(keys), 0);
    let planning = context.edge.protection.plan(placed.gate(), &subject, Some(Instant::now()));
    Ok(planning.await.err().map(|denied| (placed.index, Error::from(denied).to_string())))
}

/// Sends a response of our own.
async fn tell(outlet: &Outlet, response: &WatchResponse) -> Result<(), End> {
    let mut turn = outlet.turn().await;
    turn.send(grpc::encode(response)).await.map_err(|_| End::Gone)
}

/// Waits for the stream that is being opened, if any; then the step is for the caller to set.
async fn opened(step: &mut Step<'_>) -> (Request, Result<Exchange, crate::upstream::Error>) {
    let Step::Opening(_, opening) = step else { return std::future::pending().await };
    let exchange = opening.await;
    match std::mem::replace(step, Step::Ready) {
        Step::Opening(request, _) => (request, exchange),
        Step::Ready | Step::Creating(_) => std::future::pending().await,
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
