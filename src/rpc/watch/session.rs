//! The loop of one watch stream: requests in their order, and what comes of them.

mod moving;
mod requests;

use super::{
    End,
    head::ALL,
    homecoming::{Homecoming, LOOK},
    ids::{Ids, Moving, Source},
    memory::{Desk, Memory, Order},
    outlet::Outlet,
    seat::{self, Found, Returned},
    upstreams::{Event, Relay, Upstream},
};
use crate::{
    attribution::StreamRecord,
    etcd::proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse},
    grpc::{self, Incoming, ReadError},
    mirror::{self, Pass},
    pipeline::{self, LAST_MAX, Manner, Placed, Responder},
    rpc::{Context, error::Error, status},
    upstream::Exchange,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    future::{poll_fn, ready},
    sync::Arc,
};
use tokio::{
    sync::{Notify, mpsc},
    time::{MissedTickBehavior, interval, timeout},
};
use tonic::{Code, Status};

/// Events of relays that wait for the session; relays wait when it is full.
const EVENTS_QUEUED: usize = 16;

/// One watch stream of a client.
pub(super) struct Session<'c> {
    context: &'c Context,
    manner: Manner,
    outlet: Arc<Outlet>,
    /// Streams to etcd; opened when first needed.
    upstreams: HashMap<Source, Upstream>,
    /// By index of the cluster; started when first needed.
    memories: HashMap<usize, Memory>,
    /// Whether watchers may be served from memory.
    may_remember: bool,
    /// Where calls are recorded.
    recorded: Option<StreamRecord>,
    /// Where watchers may have several sources. Never locked across an await.
    ids: Option<Arc<Mutex<Ids>>>,
    /// Told when a watcher moves from memory to etcd.
    moved: Arc<Notify>,
    /// By index of the cluster, where watchers are away from its memory.
    homecomings: HashMap<usize, Homecoming>,
    /// A request that no later one may overtake.
    step: Step<'c>,
    /// The turn of the watcher that is being created at etcd in order to go on there.
    entry: Option<mirror::Turn>,
    /// A watcher has moved on, and a request may have waited for that.
    owes_a_request: bool,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
}

/// What the next request waits for.
///
/// ```text
/// Ready --create, or a cluster's first request--> Opening --opened--> Waiting --answered--> Ready
///   |                                                ^ `--cannot be opened: refused--> Ready
///   |--its id is being cancelled elsewhere--> Asking --|
///   |--may be served from memory--> Asking --it is not-'
///   |--a watcher leaves memory-------^ `--it is--> Waiting
///   |--watchers come back--> Asking --> Ready
///   `--a watcher in memory is cancelled-------------^
/// ```
enum Step<'c> {
    Ready,
    /// Memory, which has to reach what etcd has reached; or etcd, whether it is still the same, or has
    /// cancelled who had an id before.
    Asking(BoxFuture<'c, Asked>),
    /// The stream to a cluster, and what is to be sent first.
    Opening(Request, BoxFuture<'c, Result<Exchange, crate::upstream::Error>>),
    /// The answer of this source to a create request, or of memory to a cancel request. Answers come
    /// in the order of requests, which only etcd itself can see to within one stream.
    Waiting(Source),
}

/// What was waited for elsewhere.
enum Done {
    Asked(Asked),
    Opened(Request, Result<Exchange, crate::upstream::Error>),
}

/// What was asked before the next step.
enum Asked {
    /// Who serves a watcher, and what etcd gets to read if it does.
    Create(Request, Found),
    /// How far the watchers are that are served from the memories of these clusters.
    Progress(Vec<usize>),
    /// A watcher that left memory, what etcd says of its store now, and its turn to go there.
    GoOn(Moving, Result<ResponseHeader, Pass>, Option<mirror::Turn>),
    /// Watchers that left etcd.
    Return(Returned),
}

/// What etcd says to a client that chooses an id twice.
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

/// A request on its way to etcd, on this stream.
struct Request {
    source: Source,
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
            recorded: StreamRecord::new(&context.edge.attribution),
            ids: several.then(Arc::default),
            moved: Arc::default(),
            homecomings: HashMap::new(),
            step: Step::Ready,
            entry: None,
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
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_ready = matches!(self.step, Step::Ready);
            // Watchers that move on do not hold the client's requests up.
            let owes = is_ready && std::mem::take(&mut self.owes_a_request);
            if is_ready && !owes && self.move_on() {
                continue;
            }
            let is_away = is_ready && self.is_away();
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
                _ = looks.tick(), if is_away => self.look().await,
                () = ready(()), if owes => Ok(()),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Ends the stream after the message that is being sent. Where the client does not take that, the
    /// stream is broken off.
    pub(super) async fn finish(self, end: End) {
        if let End::Status(status) = end {
            let Ok(turn) = timeout(LAST_MAX, self.outlet.turn()).await else { return };
            drop((self.upstreams, self.memories));
            turn.finish(&status);
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
        self.hold(request.source);
        let Some(upstream) = self.upstreams.get_mut(&request.source) else {
            let opening = self.open(request.source.cluster());
            self.step = Step::Opening(request, opening);
            return Ok(());
        };
        self.step = match request.creates {
            true => Step::Waiting(request.source),
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
            Done::Asked(Asked::Create(request, found)) => self.on_found(request, found).await,
            Done::Asked(Asked::GoOn(moving, store, entry)) => {
                self.entry = entry;
                self.go_on(moving, store).await
            }
            Done::Asked(Asked::Return(returned)) => {
                self.on_returned(returned).await;
                Ok(())
            }
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
        let source = request.source;
        match exchange {
            Ok(exchange) => {
                let relay = Relay {
                    source,
                    outlet: Arc::clone(&self.outlet),
                    ids: self.ids.clone(),
                    events: self.sender.clone(),
                };
                let Some(upstream) = Upstream::start(exchange, relay) else {
                    return Err(End::Gone);
                };
                self.upstreams.insert(source, upstream);
                self.send(request).await
            }
            Err(error) if !request.creates => Err(ended(&error.into())),
            Err(error) => self.not_opened(source.cluster(), &error.into()).await,
        }
    }

    async fn on_event(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Gone => Err(End::Gone),
            Event::Answered => {
                self.step = Step::Ready;
                self.entry = None;
                Ok(())
            }
            Event::Left { cluster } => {
                self.drop_left(cluster);
                Ok(())
            }
            Event::Ended { source, status } => {
                self.upstreams.remove(&source);
                match self.ids.clone() {
                    Some(ids) if self.has_other_clusters(source.cluster()) => {
                        self.on_lost(source, &status, &ids).await
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
        let upstreams = self.upstreams.keys().map(|source| source.cluster());
        let mut clusters = upstreams.chain(self.memories.keys().filter(is_live).copied());
        clusters.any(|cluster| cluster != lost)
    }

    /// One of several clusters is lost to the stream: its watchers are cancelled, the others go on.
    async fn on_lost(
        &mut self,
        source: Source,
        status: &Status,
        ids: &Mutex<Ids>,
    ) -> Result<(), End> {
        let cluster = source.cluster();
        let header = self.context.topology.clusters[cluster].identity().header;
        let lost = ids.lock().lost(source);
        for watch_id in lost {
            tell(&self.outlet, &canceled(header, watch_id, status.message())).await?;
        }
        if matches!(self.step, Step::Waiting(waiting) if waiting == source) {
            self.refuse(cluster, status.message().to_owned()).await?;
        }
        Ok(())
    }

    /// Answers a create request as etcd does when it does not make the watcher.
    async fn refuse(&mut self, cluster: usize, cancel_reason: String) -> Result<(), End> {
        self.step = Step::Ready;
        let Ok(Some(header)) = self.context.header(cluster).await else {
            // Clients rely on the header's being there, and there is nothing true to put into it.
            return Err(End::Status(Status::new(Code::Unavailable, cancel_reason)));
        };
        let header = self.context.topology.at(cluster).mirror().newest(header);
        let continued = self.ids.as_ref().and_then(|ids| ids.lock().take_continued());
        if let (Some(ids), Some(WatchCreateRequest { watch_id, .. })) = (&self.ids, continued) {
            self.entry = None;
            ids.lock().cancelled(watch_id);
            return tell(&self.outlet, &canceled(header, watch_id, &cancel_reason)).await;
        }
        tell(
            &self.outlet,
            &WatchResponse { created: true, ..canceled(header, ALL, &cancel_reason) },
        )
        .await
    }
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
        Step::Ready | Step::Waiting(_) => return std::future::pending().await,
    };
    match std::mem::replace(step, Step::Ready) {
        Step::Opening(request, _) => Done::Opened(request, exchange),
        Step::Ready | Step::Asking(_) | Step::Waiting(_) => std::future::pending().await,
    }
}

fn ended(error: &Error) -> End {
    End::Status(status::of(error))
}
