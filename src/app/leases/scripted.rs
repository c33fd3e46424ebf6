//! As much of etcd as leases need, behind a network that a test cuts.

use crate::{
    etcd::{
        errors::LEASE_NOT_FOUND,
        method::Method,
        proto::etcdserverpb::{
            LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
            LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest,
            LeaseTimeToLiveResponse, PutRequest, PutResponse, RangeResponse, ResponseHeader,
            StatusResponse,
        },
    },
    grpc::{self, Incoming, Outgoing},
    upstream::loopback,
};
use bytes::Bytes;
use h2::{
    RecvStream,
    server::{self, SendResponse},
};
use http::Request;
use parking_lot::Mutex;
use prost::Message;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::DuplexStream,
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::{Code, Status};

/// What a cluster can do wrong, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mistake {
    None,
    /// Tells the rest of a lease's time as the whole of it.
    TellsRest,
    /// Answers keep-alives and renews nothing.
    RenewsNothing,
    /// Says that it has revoked what it has not.
    KeepsRevoked,
    NeverExpires,
}

struct Lease {
    granted: Duration,
    expires: Instant,
}

/// A cluster of one member.
#[derive(Clone)]
pub(super) struct Scripted {
    state: Arc<Mutex<State>>,
}

struct State {
    id: u64,
    mistake: Mistake,
    revision: i64,
    leases: BTreeMap<i64, Lease>,
    keys: HashMap<Bytes, i64>,
    /// Keys that went with their lease, and when.
    gone: Vec<(Bytes, Instant)>,
    /// What a message takes in one direction, one after the other.
    delays: Vec<Duration>,
    calls: usize,
    /// It has stopped, and its leases with it.
    stopped: bool,
    /// Nobody reaches it.
    unreachable: bool,
    connections: JoinSet<()>,
}

impl Scripted {
    pub(super) fn start(host: &str, id: u64, delays: Vec<Duration>, mistake: Mistake) -> Self {
        let state = State {
            id,
            mistake,
            revision: 1,
            leases: BTreeMap::new(),
            keys: HashMap::new(),
            gone: Vec::new(),
            delays,
            calls: 0,
            stopped: false,
            unreachable: false,
            connections: JoinSet::new(),
        };
        let this = Self { state: Arc::new(Mutex::new(state)) };
        let (cluster, mut incoming) = (this.clone(), loopback::listen(host));
        // Ends with the runtime.
        tokio::spawn(async move {
            while let Some(stream) = incoming.recv().await {
                let mut state = cluster.state.lock();
                if !state.unreachable && !state.stopped {
                    state.connections.spawn(cluster.clone().serve(stream));
                }
            }
        });
        this
    }

    /// Breaks all connections, whatever is under way on them.
    pub(super) fn cut(&self) {
        self.state.lock().connections.abort_all();
    }

    pub(super) fn set_unreachable(&self, unreachable: bool) {
        self.state.lock().unreachable = unreachable;
        self.cut();
    }

    /// As all members do at once. A new leader gives every lease its whole time again.
    pub(super) fn set_stopped(&self, stopped: bool) {
        let mut state = self.state.lock();
        state.expire();
        if state.stopped && !stopped {
            let now = Instant::now();
            state.leases.values_mut().for_each(|lease| lease.expires = now + lease.granted);
        }
        state.stopped = stopped;
        state.connections.abort_all();
    }

    pub(super) fn has(&self, key: &Bytes) -> bool {
        let mut state = self.state.lock();
        state.expire();
        state.keys.contains_key(key)
    }

    /// Keys that went with their lease, and when.
    pub(super) fn gone(&self) -> Vec<(Bytes, Instant)> {
        let mut state = self.state.lock();
        state.expire();
        state.gone.clone()
    }

    pub(super) fn left(&self) -> (usize, usize) {
        let mut state = self.state.lock();
        state.expire();
        (state.leases.len(), state.keys.len())
    }

    async fn serve(self, stream: DuplexStream) {
        let Ok(mut connection) = server::handshake(stream).await else { return };
        let mut calls = JoinSet::new();
        while let Some(Ok((request, respond))) = connection.accept().await {
            calls.spawn(self.clone().call(request, respond));
        }
    }

    async fn travel(&self) {
        let delay = {
            let mut state = self.state.lock();
            state.calls += 1;
            state.delays[state.calls % state.delays.len()]
        };
        sleep(delay).await;
    }

    async fn call(self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let (head, body) = request.into_parts();
        let mut incoming = Incoming::new(body);
        let method = Method::from_path(head.uri.path());
        if method == Some(Method::LeaseKeepAlive) {
            let Ok(out) = respond.send_response(grpc::head(), false) else { return };
            return self.keep_alive(incoming, Outgoing::new(out)).await;
        }
        let Ok(Some(message)) = incoming.message(1 << 20).await else { return };
        self.travel().await;
        let answer = self.state.lock().apply(method, &message.payload());
        self.travel().await;
        // Who has asked may have gone.
        let _ = match answer {
            Ok(answer) => respond.send_response(grpc::head(), false).and_then(|mut out| {
                out.send_data(grpc::frame(&answer), false)?;
                out.send_trailers(grpc::trailers(&Status::ok("")))
            }),
            Err(status) => respond.send_response(grpc::trailers_only(&status), true).map(drop),
        };
    }

    async fn keep_alive(&self, mut incoming: Incoming, mut out: Outgoing) {
        while let Ok(Some(message)) = incoming.message(1 << 10).await {
            self.travel().await;
            let answer = self.state.lock().renew(&message.payload());
            self.travel().await;
            if out.send(grpc::frame(&answer)).await.is_err() {
                return;
            }
        }
        let _ = out.finish(grpc::trailers(&Status::ok("")));
    }
}

impl State {
    fn header(&self) -> Option<ResponseHeader> {
        let (id, revision) = (self.id, self.revision);
        Some(ResponseHeader { cluster_id: id, member_id: id, revision, raft_term: 2 })
    }

    fn expire(&mut self) {
        if self.stopped || self.mistake == Mistake::NeverExpires {
            return;
        }
        let now = Instant::now();
        let due =
            |(id, lease): (&i64, &Lease)| (lease.expires <= now).then_some((*id, lease.expires));
        for (id, at) in self.leases.iter().filter_map(due).collect::<Vec<_>>() {
            self.end(id, at);
        }
    }

    fn end(&mut self, id: i64, at: Instant) {
        self.leases.remove(&id);
        let gone = &mut self.gone;
        self.keys.retain(|key, lease| {
            let stays = *lease != id;
            if !stays {
                gone.push((key.clone(), at));
            }
            stays
        });
    }

    fn renew(&mut self, request: &[u8]) -> Vec<u8> {
        self.expire();
        let id = LeaseKeepAliveRequest::decode(request).expect("a request").id;
        let renews = self.mistake != Mistake::RenewsNothing;
        let lease = self.leases.get_mut(&id);
        let ttl = lease.map_or(0, |lease| {
            if renews {
                lease.expires = Instant::now() + lease.granted;
            }
            lease.granted.as_secs() as i64
        });
        LeaseKeepAliveResponse { header: self.header(), id, ttl }.encode_to_vec()
    }

    fn apply(&mut self, method: Option<Method>, request: &[u8]) -> Result<Vec<u8>, Status> {
        self.expire();
        let header = self.header();
        match method {
            Some(Method::LeaseGrant) => {
                let LeaseGrantRequest { id, ttl } = decode(request);
                self.grant(id, ttl)
            }
            Some(Method::LeaseRevoke) => {
                let LeaseRevokeRequest { id } = decode(request);
                self.known(id)?;
                if self.mistake != Mistake::KeepsRevoked {
                    self.end(id, Instant::now());
                }
                Ok(LeaseRevokeResponse { header }.encode_to_vec())
            }
            Some(Method::LeaseTimeToLive) => Ok(self.time_to_live(&decode(request))),
            Some(Method::Put) => {
                let PutRequest { key, lease, .. } = decode(request);
                self.known(lease)?;
                self.keys.insert(key, lease);
                self.revision += 1;
                Ok(PutResponse { header: self.header(), prev_kv: None }.encode_to_vec())
            }
            Some(Method::Range) => {
                Ok(RangeResponse { header, ..Default::default() }.encode_to_vec())
            }
            Some(Method::Status) => {
                let version = "3.6.0".to_owned();
                let leader = self.id;
                let status = StatusResponse { header, version, leader, ..Default::default() };
                Ok(status.encode_to_vec())
            }
            _ => Err(Status::new(Code::Unimplemented, "not in the script")),
        }
    }

    fn known(&self, id: i64) -> Result<(), Status> {
        let (code, text) = LEASE_NOT_FOUND;
        self.leases.contains_key(&id).then_some(()).ok_or_else(|| Status::new(code, text))
    }

    fn grant(&mut self, id: i64, ttl: i64) -> Result<Vec<u8>, Status> {
        let id = if id == 0 { 1_000 + self.calls as i64 } else { id };
        if self.leases.contains_key(&id) {
            let text = "etcdserver: lease already exists";
            return Err(Status::new(Code::FailedPrecondition, text));
        }
        let granted = Duration::from_secs(ttl as u64);
        self.leases.insert(id, Lease { granted, expires: Instant::now() + granted });
        let (header, error) = (self.header(), String::new());
        Ok(LeaseGrantResponse { header, id, ttl, error }.encode_to_vec())
    }

    fn time_to_live(&self, request: &LeaseTimeToLiveRequest) -> Vec<u8> {
        let (header, id) = (self.header(), request.id);
        let (ttl, granted_ttl) = self.leases.get(&id).map_or((-1, 0), |lease| {
            let rest = (lease.expires - Instant::now()).as_secs() as i64;
            let granted = lease.granted.as_secs() as i64;
            (rest, if self.mistake == Mistake::TellsRest { rest } else { granted })
        });
        LeaseTimeToLiveResponse { header, id, ttl, granted_ttl, keys: Vec::new() }.encode_to_vec()
    }
}

fn decode<T: Message + Default>(request: &[u8]) -> T {
    T::decode(request).expect("a request")
}
