//! Leases whose keys live at another cluster, under a clock that stands still until everybody
//! waits, by hundreds of seeds.
//!
//! Clients are granted leases at the default cluster, keep them alive, put keys of another cluster
//! with them, and revoke them, let them expire or go. Between Seawall and both clusters connections
//! break and answers are lost, the other cluster cannot be reached for a while, or stops. No key may
//! go before the time that its client was promised; those of a revoked lease go with it where nothing
//! stood in the way; and nothing may be left in the end.

mod scripted;

use super::{Backends, Families, start_backends, topology};
use crate::{
    access::Access,
    admission::Protection,
    attribution::Attribution,
    config::{self, Flags, Settings},
    etcd::{
        method::Method,
        proto::etcdserverpb::{
            LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
            LeaseRevokeRequest, LeaseRevokeResponse, PutRequest, PutResponse,
        },
    },
    grpc::{self, Incoming, Outgoing},
    mirror,
    pipeline::{self, Peer, Reads},
    rpc::{self, Common, Edge, Page},
    upstream,
};
use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use h2::client::SendRequest;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use scripted::{Mistake, Scripted};
use seawall_testkit::{Choices, each_seed};
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};
use tokio::{
    io::duplex,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

const CONFIG: &str = "
listeners: [{name: main, address: '127.0.0.1:0', default: home, routes: [{prefix: /registry/events, cluster: other}]}]
clusters: {home: {endpoints: ['http://home:2379']}, other: {endpoints: ['http://other:2379']}}
workers: 1
";

/// Of every lease; clients renew them three times as often.
const TTL: Duration = Duration::from_secs(6);

/// All that clients do happens in this time.
const TIME: Duration = Duration::from_secs(16);

const CLIENTS: usize = 6;

/// Less than what is left of a lease whose last renewal was lost.
const OUTAGE_MAX: usize = 10;

/// A whole number of tenths of a second.
fn tenths(choices: &mut Choices, of: usize) -> Duration {
    Duration::from_millis(100 * choices.pick(of) as u64)
}

/// Seawall before both clusters, without its sockets.
fn edge(settings: &Settings) -> Result<Arc<Edge>> {
    let registry = &mut Registry::default();
    let families = Families {
        upstream: upstream::Metrics::register(registry),
        mirror: mirror::Families::register(registry),
    };
    let protection = Protection::new(settings.protection.clone(), registry);
    let backends = start_backends(settings, &Backends::new(), &families, &protection)?;
    let common = Common {
        metrics: Arc::new(pipeline::Metrics::register(registry)),
        access: Access::new(None, registry),
        reads: Reads::new(Arc::clone(&protection), registry),
        attribution: Attribution::new(settings.attribution.clone(), 1, registry),
        traces: None,
        metrics_page: Page(Arc::new(String::new)),
        draining: Default::default(),
        protection: Arc::clone(&protection),
    };
    let listener = &settings.listeners[0];
    let topology = topology(listener, &backends, &protection, &common.draining)?;
    // The mirrors' feeds have nothing to do here, and end with what runs them.
    Ok(Arc::new(Edge::new(topology, listener.listener.request_bytes_max, common)))
}

/// A client's connection.
struct Client {
    sender: SendRequest<Bytes>,
    /// Both ends of it.
    _ends: JoinSet<()>,
}

impl Client {
    async fn connect(edge: &Arc<Edge>) -> Result<Self> {
        let (near, far) = duplex(1 << 16);
        let mut ends = JoinSet::new();
        let edge = Arc::clone(edge);
        ends.spawn(async move {
            let address = ([127, 0, 0, 1], 1).into();
            let peer = Arc::new(Peer::new(address, address, None, false));
            let Ok(mut connection) = h2::server::handshake(far).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                let (edge, peer) = (Arc::clone(&edge), Arc::clone(&peer));
                tokio::spawn(rpc::serve(edge, request, respond, peer, 1));
            }
        });
        let (sender, connection) = h2::client::handshake(near).await?;
        ends.spawn(async move { drop(connection.await) });
        Ok(Self { sender, _ends: ends })
    }

    async fn open(&self, method: Method) -> Result<(h2::client::ResponseFuture, Outgoing)> {
        let request = http::Request::post(format!("http://seawall{}", method.path()))
            .header("content-type", "application/grpc")
            .body(())?;
        let mut sender = self.sender.clone().ready().await?;
        let (response, out) = sender.send_request(request, false)?;
        Ok((response, Outgoing::new(out)))
    }

    async fn ask<T: prost::Message + Default>(
        &self,
        method: Method,
        request: &impl prost::Message,
    ) -> Result<T> {
        let (response, mut out) = self.open(method).await?;
        out.send(grpc::encode(request)).await?;
        out.close()?;
        let (head, body) = response.await?.into_parts();
        if let Some(status) = grpc::from_headers(&head.headers) {
            return Err(anyhow!("{status}"));
        }
        let mut incoming = Incoming::new(body);
        let message = incoming.message(1 << 20).await?.context("no message")?;
        Ok(T::decode(message.payload())?)
    }
}

/// What a client was told of a lease.
struct Told {
    /// The lease lives so long at least.
    until: Instant,
    /// Its end was asked for.
    revoked: Option<Instant>,
}

/// What is to become of a client and its lease, all of it times after the start.
#[derive(Clone)]
struct Plan {
    arrives: Duration,
    /// Puts with the lease.
    puts: Vec<Duration>,
    /// No renewals after this.
    renews_until: Duration,
    revokes: Option<Duration>,
    leaves: Option<Duration>,
}

impl Plan {
    fn new(choices: &mut Choices) -> Self {
        let within = TIME.as_secs() as usize * 10;
        Self {
            arrives: tenths(choices, within / 2),
            puts: (0..3).map(|_| tenths(choices, within)).collect(),
            renews_until: tenths(choices, within),
            revokes: (choices.pick(2) == 0).then(|| tenths(choices, within)),
            leaves: (choices.pick(3) == 0).then(|| tenths(choices, within)),
        }
    }
}

#[derive(Clone)]
struct World {
    edge: Arc<Edge>,
    home: Scripted,
    other: Scripted,
    start: Instant,
    /// Nothing stands between Seawall and the clusters.
    calm: bool,
    told: Arc<Mutex<BTreeMap<i64, Told>>>,
    /// Keys that were put, with their leases.
    put: Arc<Mutex<Vec<(Bytes, i64)>>>,
    wrong: Arc<Mutex<Vec<String>>>,
}

impl World {
    async fn client(self, number: usize, plan: Plan) {
        sleep(plan.arrives).await;
        let leaves = plan.leaves.unwrap_or(TIME * 2).saturating_sub(plan.arrives);
        // What fails is what a fault has made fail; what counts is what clients were told.
        let _ = timeout(leaves, self.live(number, &plan)).await;
    }

    async fn live(&self, number: usize, plan: &Plan) -> Result<()> {
        let client = Client::connect(&self.edge).await?;
        let asked = Instant::now();
        let request = LeaseGrantRequest { id: 0, ttl: TTL.as_secs() as i64 };
        let granted: LeaseGrantResponse = client.ask(Method::LeaseGrant, &request).await?;
        let id = granted.id;
        self.told.lock().insert(id, Told { until: asked + TTL, revoked: None });
        let puts = plan.puts.iter().enumerate().map(|(n, at)| {
            let key = Bytes::from(format!("/registry/events/{number}-{n}"));
            self.put(&client, id, key, self.start + *at)
        });
        let revokes = async {
            if let Some(at) = plan.revokes {
                self.revoke(&client, id, self.start + at).await?;
            }
            anyhow::Ok(())
        };
        let (_, _, revoked) = tokio::join!(
            futures_util::future::join_all(puts),
            self.renew(&client, id, self.start + plan.renews_until),
            revokes
        );
        revoked
    }

    async fn put(&self, client: &Client, lease: i64, key: Bytes, at: Instant) -> Result<()> {
        sleep_until(at).await;
        let request = PutRequest { key: key.clone(), lease, ..Default::default() };
        client.ask::<PutResponse>(Method::Put, &request).await?;
        self.put.lock().push((key, lease));
        Ok(())
    }

    async fn revoke(&self, client: &Client, id: i64, at: Instant) -> Result<()> {
        sleep_until(at).await;
        if let Some(told) = self.told.lock().get_mut(&id) {
            told.revoked = Some(Instant::now());
        }
        let put: Vec<_> = self.put.lock().clone();
        client.ask::<LeaseRevokeResponse>(Method::LeaseRevoke, &LeaseRevokeRequest { id }).await?;
        let mut left = put.iter().filter(|(key, lease)| *lease == id && self.other.has(key));
        if let Some((key, _)) = left.next().filter(|_| self.calm) {
            self.wrong.lock().push(format!("revoked: {key:?} outlives its lease"));
        }
        Ok(())
    }

    /// Renews the lease as etcd's client does: on a stream, and on another one when that broke.
    async fn renew(&self, client: &Client, id: i64, until: Instant) {
        while Instant::now() < until {
            if let Ok(false) = self.renew_on_stream(client, id, until).await {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Whether the lease was there to the end.
    async fn renew_on_stream(&self, client: &Client, id: i64, until: Instant) -> Result<bool> {
        let (response, mut out) = client.open(Method::LeaseKeepAlive).await?;
        let mut response = Some(response);
        let mut incoming = None;
        while Instant::now() < until {
            let asked = Instant::now();
            out.send(grpc::encode(&LeaseKeepAliveRequest { id })).await?;
            if let Some(response) = response.take() {
                incoming = Some(Incoming::new(response.await?.into_body()));
            }
            let incoming = incoming.as_mut().context("it was opened")?;
            let answer = incoming.message(1 << 10).await?.context("the stream has ended")?;
            if <LeaseKeepAliveResponse as prost::Message>::decode(answer.payload())?.ttl == 0 {
                return Ok(false);
            }
            if let Some(told) = self.told.lock().get_mut(&id) {
                told.until = told.until.max(asked + TTL);
            }
            sleep_until(asked + TTL / 3).await;
        }
        Ok(true)
    }

    async fn trouble(self, mut faults: Vec<(Duration, Fault)>) {
        faults.sort_by_key(|(at, _)| *at);
        for (at, fault) in faults {
            sleep_until(self.start + at).await;
            match fault {
                Fault::CutHome => self.home.cut(),
                Fault::CutOther => self.other.cut(),
                Fault::Unreachable(outage) => {
                    self.other.set_unreachable(true);
                    sleep(outage).await;
                    self.other.set_unreachable(false);
                }
                Fault::Stop(outage) => {
                    self.other.set_stopped(true);
                    sleep(outage).await;
                    self.other.set_stopped(false);
                }
            }
        }
    }

    fn check_gone(&self) {
        let (told, put) = (self.told.lock(), self.put.lock());
        for (key, at) in self.other.gone() {
            let lease = put.iter().find(|(known, _)| *known == key).map(|(_, lease)| lease);
            let Some(told) = lease.and_then(|lease| told.get(lease)) else { continue };
            if at < told.until && told.revoked.is_none_or(|revoked| at < revoked) {
                let early = told.until - at;
                self.wrong.lock().push(format!("early: {key:?} goes by {early:?}"));
            }
        }
    }

    async fn run(&self, choices: &mut Choices) -> Result<(), String> {
        let faults = if self.calm { 0 } else { 1 + choices.pick(5) };
        let faults = (0..faults).map(|_| (tenths(choices, 160), Fault::new(choices))).collect();
        let troubling = tokio::spawn(self.clone().trouble(faults));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(self.clone().client(number, Plan::new(choices)));
        }
        while let Some(client) = clients.join_next().await {
            client.map_err(|error| error.to_string())?;
        }
        troubling.await.map_err(|error| error.to_string())?;
        // Nobody renews anything any more.
        sleep(3 * TTL).await;
        self.check_gone();
        for (name, cluster) in [("home", &self.home), ("other", &self.other)] {
            let (leases, keys) = cluster.left();
            if leases + keys > 0 {
                let text = format!("left: {leases} leases and {keys} keys at {name}");
                self.wrong.lock().push(text);
            }
        }
        self.wrong.lock().first().map_or(Ok(()), |wrong| Err(wrong.clone()))
    }
}

enum Fault {
    CutHome,
    CutOther,
    Unreachable(Duration),
    Stop(Duration),
}

impl Fault {
    fn new(choices: &mut Choices) -> Self {
        match choices.pick(6) {
            0 => Self::CutHome,
            1..=3 => Self::CutOther,
            4 => Self::Unreachable(tenths(choices, OUTAGE_MAX)),
            _ => Self::Stop(tenths(choices, 40)),
        }
    }
}

fn delays(choices: &mut Choices) -> Vec<Duration> {
    (0..37).map(|_| Duration::from_millis(choices.pick(500) as u64)).collect()
}

fn simulate(seeds: u64, home: Mistake, other: Mistake) -> Result<(), String> {
    let built = config::build(Some((Path::new("seawall.yaml"), CONFIG)), &Flags::default());
    let settings = built.expect("a configuration").settings;
    each_seed(0..seeds, |choices| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let (to_home, to_other) = (delays(choices), delays(choices));
            let home = Scripted::start("home", 1, to_home, home);
            let other = Scripted::start("other", 2, to_other, other);
            let world = World {
                edge: edge(&settings).map_err(|error| format!("{error:#}"))?,
                home,
                other,
                start: Instant::now(),
                calm: choices.pick(3) == 0,
                told: Arc::default(),
                put: Arc::default(),
                wrong: Arc::default(),
            };
            world.run(choices).await
        })
    })
}

#[test]
fn keys_live_as_long_as_their_client_was_told_and_no_longer() {
    simulate(120, Mistake::None, Mistake::None).unwrap_or_else(|wrong| panic!("{wrong}"));
}

#[test]
fn every_mistake_is_found_out() {
    for (home, other, rule) in [
        (Mistake::TellsRest, Mistake::None, "early"),
        (Mistake::None, Mistake::RenewsNothing, "early"),
        (Mistake::None, Mistake::KeepsRevoked, "revoked"),
        (Mistake::None, Mistake::NeverExpires, "left"),
    ] {
        let wrong = simulate(100, home, other).expect_err("a mistake");
        assert!(wrong.starts_with(rule), "{home:?}, {other:?}: {wrong}");
    }
}
