use super::*;
use crate::{
    admission::Config,
    etcd::proto::{
        etcdserverpb::WatchCreateRequest,
        mvccpb::{KeyValue, event::EventType},
    },
    grpc::Incoming,
    mirror::{Change, Collection, Kind, Limits, Object, Position, Tier, Watcher, Writer},
    pipeline::{self, Responder},
    rpc::watch::ids::{Returning, Seen},
    upstream::{self, LaneConfig, Lanes, ProbeConfig, RetryConfig, TlsConfig, loopback},
};
use prometheus_client::registry::Registry;
use std::sync::Weak;
use tokio::{
    io::{DuplexStream, duplex},
    sync::oneshot,
    task::JoinSet,
    time::{advance, timeout},
};

#[tokio::test(start_paused = true)]
async fn a_feed_that_is_found_again_in_time_is_waited_for() {
    let mut loss = Loss::default();
    assert!(!loss.is_long(false));
    advance(LOST_MAX - TICK).await;
    assert!(!loss.is_long(false) && !loss.is_long(true));
    advance(LOST_MAX).await;
    assert!(!loss.is_long(false));
    advance(LOST_MAX).await;
    assert!(loss.is_long(false));
}

const MEMORY: Source = Source::Memory(0);

/// A revision of the store when it was loaded.
const LOADED: i64 = 5;

/// A keeper, a collection, and the client that watches it.
struct Stage {
    keeper: Keeper,
    writer: Writer,
    collection: Arc<Collection>,
    client: Incoming,
    _ends: JoinSet<()>,
    _members: mpsc::Receiver<DuplexStream>,
    _events: mpsc::Receiver<Event>,
}

/// Both ends of one call.
async fn call(ends: &mut JoinSet<()>) -> (Responder, h2::client::ResponseFuture) {
    let (near, far) = duplex(1 << 16);
    let (accepted, responding) = oneshot::channel();
    ends.spawn(async move {
        let mut connection = h2::server::handshake(far).await.expect("a client");
        let (_, respond) = connection.accept().await.expect("a call").expect("a call");
        accepted.send(respond).expect("the test waits for it");
        while connection.accept().await.is_some() {}
    });
    let (mut sender, connection) = h2::client::handshake(near).await.expect("a server");
    ends.spawn(async move { drop(connection.await) });
    let request = http::Request::post("http://seawall/").body(()).expect("a request");
    let (response, _) = sender.send_request(request, true).expect("a call");
    let record = Arc::new(pipeline::Metrics::register(&mut Registry::default())).record(None);
    (Responder::new(responding.await.expect("the call"), record), response)
}

/// A cluster that does not answer.
fn cluster() -> (Arc<Cluster>, mpsc::Receiver<DuplexStream>) {
    let second = Duration::from_secs(1);
    let lane = || LaneConfig {
        connections_max: 1,
        streams_spread: 1,
        streams_max: 1,
        stream_window: 1 << 16,
        connection_window: 1 << 16,
    };
    let config = upstream::Config {
        name: "main".into(),
        endpoints: vec![upstream::Endpoint { tls: false, host: "silent".into(), port: 1 }],
        tls: TlsConfig::default(),
        connect_timeout: second,
        backoff_min: second,
        backoff_max: second,
        keepalive_interval: 10 * second,
        keepalive_timeout: second,
        probe: ProbeConfig { interval: second, timeout: second, failures: 1 },
        retry: RetryConfig { budget_percent: 0 },
        lanes: Lanes { watch: lane(), light: lane(), heavy: lane() },
    };
    let members = loopback::listen("silent");
    let metrics = upstream::Metrics::register(&mut Registry::default());
    let connector = Cluster::connector(&config).expect("it needs no files");
    (Cluster::start(config, connector, &metrics, 1), members)
}

impl Stage {
    async fn new() -> Self {
        let mut ends = JoinSet::new();
        let (responder, response) = call(&mut ends).await;
        let (cluster, members) = cluster();
        let (events, received) = mpsc::channel(16);
        let position = Position { revision: LOADED, live: true, opening: false, cluster_id: 7 };
        let desk = Desk {
            index: 0,
            cluster,
            mirror: Mirror::fixture(position),
            protection: Protection::new(Config::fixture(), &mut Default::default()),
            outlet: Arc::new(Outlet::new(responder)),
            ids: Arc::default(),
            events,
            moved: Arc::default(),
        };
        desk.outlet.turn().await.open(grpc::head()).expect("the client waits");
        let client = Incoming::new(response.await.expect("a head").into_body());
        let limits = Limits { events: 10_000, bytes: 1 << 30 };
        let writer = Writer::load([], LOADED, Tier::Value, limits);
        let collection = Collection::fixture("/pods", writer.store());
        Self {
            keeper: Keeper::new(desk),
            writer,
            collection,
            client,
            _ends: ends,
            _members: members,
            _events: received,
        }
    }

    fn ids(&self) -> parking_lot::MutexGuard<'_, Ids> {
        self.keeper.desk.ids.lock()
    }

    /// Writes a key at each of these revisions.
    fn put(&mut self, revisions: impl IntoIterator<Item = i64>) {
        let change = |mod_revision| {
            let (key, value) = ("/pods/a".into(), vec![b'v'; 100].into());
            let kv = KeyValue { key, value, mod_revision, ..KeyValue::default() };
            let object = Object::parse(&kv.encode_to_vec()).expect("a key-value");
            Change { kind: Kind::Put, object }
        };
        self.writer.apply(revisions.into_iter().map(change));
    }

    /// A place for a watcher that has seen everything before `next`.
    fn seat(&self, watch_id: i64, next: i64) -> Seat {
        let request = watched(watch_id);
        let header = ResponseHeader { cluster_id: 7, revision: LOADED, ..Default::default() };
        Seat {
            watcher: Watcher::new(&request, LOADED).going_on_at(next),
            request,
            collection: Arc::clone(&self.collection),
            store: Arc::downgrade(self.writer.store()),
            header,
        }
    }

    /// Has a watcher created in memory.
    async fn create(&mut self, watch_id: i64) {
        let seat = Box::new(self.seat(watch_id, LOADED + 1));
        self.order(Order::Create(seat)).await;
        assert!(self.next().await.created);
    }

    /// A watcher that etcd serves leaves it, having seen everything that there is so far.
    fn return_from_etcd(&self, watch_id: i64) {
        let mut ids = self.ids();
        ids.ask(Some(watched(watch_id)));
        ids.created(watch_id, Source::Away(0), LOADED - 1);
        ids.away(0).ask(Instant::now());
        ids.part(0, Seen { cluster_id: 7, revision: LOADED }, Instant::now());
        let Some(Returning { requests, .. }) = ids.return_next() else { panic!("it stays") };
        assert_eq!(requests, [watched(watch_id)]);
    }

    async fn order(&mut self, order: Order) {
        self.keeper.on_order(order).await.expect("the client is there");
    }

    async fn next(&mut self) -> WatchResponse {
        let message = self.client.message(1 << 20).await.expect("a message");
        WatchResponse::decode(message.expect("a message").payload()).expect("a response")
    }
}

fn watched(watch_id: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: "/pods/".into(),
        range_end: "/pods0".into(),
        watch_id,
        ..WatchCreateRequest::default()
    }
}

/// A client that asked for progress while watchers of its stream came back from etcd was told that all
/// had seen what they were about to be sent.
#[tokio::test(start_paused = true)]
async fn nothing_is_said_of_all_watchers_while_one_comes_back() {
    let mut stage = Stage::new().await;
    stage.create(1).await;
    stage.return_from_etcd(2);
    stage.put([LOADED + 1]);
    stage.order(Order::Progress).await;
    let seen = stage.next().await;
    assert_eq!((seen.watch_id, seen.events.len()), (1, 1));
    let told = stage.next().await;
    assert_eq!((told.watch_id, told.events.len()), (1, 0));
    let seat = stage.seat(2, LOADED + 1);
    stage.order(Order::Return(vec![seat])).await;
    assert_eq!(stage.ids().source_of(2), Some(MEMORY));
    let seen = stage.next().await;
    assert_eq!((seen.watch_id, seen.events[0].r#type()), (2, EventType::Put));
    stage.order(Order::Progress).await;
    assert_eq!(stage.next().await.watch_id, ALL);
}

#[tokio::test(start_paused = true)]
async fn who_is_cancelled_before_it_has_its_place_gets_none() {
    let mut stage = Stage::new().await;
    stage.return_from_etcd(2);
    stage.put([LOADED + 1]);
    assert_eq!(stage.ids().cancelled(2), Some(Source::Moving(0)));
    let seat = stage.seat(2, LOADED + 1);
    stage.order(Order::Return(vec![seat])).await;
    stage.order(Order::Cancel(2)).await;
    let canceled = stage.next().await;
    assert!(canceled.canceled && canceled.watch_id == 2, "{canceled:?}");
    assert!(stage.keeper.followed.is_empty());
}

/// A client that read nothing kept collections that had been given up, beside all that `mirror.memory`
/// counts.
#[tokio::test(start_paused = true)]
async fn who_does_not_read_keeps_no_collection() {
    const AT_ONCE: i64 = 1000;
    let mut stage = Stage::new().await;
    stage.create(1).await;
    stage.put(LOADED + 1..=LOADED + AT_ONCE + 1);
    let Stage { mut keeper, writer, collection, mut client, _ends, _members, _events } = stage;
    let store: Weak<_> = Arc::downgrade(writer.store());
    let mut delivering = Box::pin(keeper.deliver_all());
    timeout(TICK, &mut delivering).await.expect_err("the client has read it");
    drop(writer);
    collection.give_up();
    assert!(store.upgrade().is_none());
    let (delivered, read) = tokio::join!(delivering, client.message(1 << 20));
    delivered.expect("the client is there");
    let read = read.expect("a message").expect("a message");
    let read = WatchResponse::decode(read.payload()).expect("a response");
    assert_eq!(read.events.len(), AT_ONCE as usize);
    let moving = keeper.desk.ids.lock().continue_next().expect("it goes on at etcd");
    assert_eq!(moving.request.start_revision, LOADED + AT_ONCE + 1);
}
