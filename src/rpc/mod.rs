//! The wire edge: what each method of etcd means, on one cluster and on several.
//!
//! Requests are decoded here as far as a decision needs it, and no further; what is not understood
//! goes through as bytes. May import `pipeline`.

mod access;
mod admit;
mod auth;
mod cluster;
mod compaction;
mod concurrency;
mod edge;
mod error;
mod health;
mod http;
mod kv;
mod lease;
mod maintenance;
mod materialize;
mod merge;
mod passthrough;
mod range;
mod status;
mod watch;

pub use edge::{Common, Edge};
pub use http::{Page, answer as answer_http};

use crate::{
    etcd::{
        errors,
        method::{self, Method, Shape},
        proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader},
    },
    grpc::{self, Incoming, Message},
    pipeline::{self, Call, Cut, Gone, Manner, Peer, Placed, Responder, Topology},
    telemetry::audit::{self, audit},
    upstream::{self, Answer},
};
use ::http::{HeaderValue, Request, header::CONTENT_TYPE};
use bytes::Bytes;
use error::Error;
use futures_util::future::BoxFuture;
use h2::{RecvStream, server::SendResponse};
use std::{pin::pin, sync::Arc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;

/// One call while it is being served.
#[derive(Debug)]
struct Context {
    edge: Arc<Edge>,
    topology: Arc<Topology>,
    call: Call,
}

/// Serves one HTTP/2 request of a client.
pub async fn serve(
    edge: Arc<Edge>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    peer: Arc<Peer>,
    worker: usize,
) {
    let (mut head, body) = request.into_parts();
    let is_grpc = head
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        return Box::pin(http::answer_http2(&edge, &peer.client, &head, worker, respond)).await;
    }
    let traces = edge.traces.as_deref();
    let span = traces.and_then(|traces| traces.begin(head.uri.path(), &mut head.headers));
    let call = Call::new(head, peer, worker);
    let mut record = edge.metrics.record(call.method);
    record.traced(span);
    let responder = Responder::new(respond, record);
    let topology = edge.topology();
    dispatch(Context { edge, topology, call }, Incoming::new(body), responder).await;
}

/// Each handler answers in every case; the client's leaving ends it.
async fn dispatch(context: Context, incoming: Incoming, responder: Responder) {
    if context.call.overrides.is_some() {
        context.tell_override();
    }
    let Some(method) = context.call.method else {
        return Box::pin(unknown(context, incoming, responder)).await;
    };
    handler(context, incoming, responder, method).await;
}

/// The table of methods. On the heap, each as large as it is: in place every call would be as large
/// as the largest.
fn handler(
    context: Context,
    incoming: Incoming,
    responder: Responder,
    method: Method,
) -> BoxFuture<'static, ()> {
    use Method::*;
    match method {
        Range | RangeStream => Box::pin(range::range(context, incoming, responder, method)),
        Put => Box::pin(kv::put(context, incoming, responder)),
        Txn => Box::pin(kv::txn(context, incoming, responder)),
        DeleteRange => Box::pin(kv::delete_range(context, incoming, responder)),
        Compact => Box::pin(compaction::compact(context, incoming, responder)),
        Watch => Box::pin(watch::watch(context, incoming, responder)),
        LeaseGrant => Box::pin(lease::grant(context, incoming, responder)),
        LeaseRevoke => Box::pin(lease::revoke(context, incoming, responder)),
        LeaseTimeToLive => Box::pin(lease::time_to_live(context, incoming, responder)),
        LeaseKeepAlive => Box::pin(lease::keep_alive(context, incoming, responder)),
        MemberList => Box::pin(cluster::member_list(context, incoming, responder)),
        Status => Box::pin(maintenance::status(context, incoming, responder)),
        Authenticate => Box::pin(auth::authenticate(context, incoming, responder)),
        RoleGrantPermission => Box::pin(auth::grant_permission(context, incoming, responder)),
        Lock | Unlock | Campaign | Proclaim | Leader | Observe | Resign => {
            Box::pin(concurrency::serve(context, incoming, responder, method))
        }
        HealthCheck => Box::pin(health::check(context, incoming, responder)),
        HealthWatch => Box::pin(health::watch(context, incoming, responder)),
        LeaseLeases | MemberAdd | MemberRemove | MemberUpdate | MemberPromote | Alarm
        | Defragment | Hash | HashKv | Snapshot | MoveLeader | Downgrade | AuthEnable
        | AuthDisable | AuthStatus | UserAdd | UserGet | UserList | UserDelete
        | UserChangePassword | UserGrantRole | UserRevokeRole | RoleAdd | RoleGet | RoleList
        | RoleDelete | RoleRevokePermission => {
            Box::pin(passthrough::unary(context, incoming, responder, method))
        }
    }
}

/// A method of a newer etcd goes through as bytes; anything else etcd would refuse like this.
async fn unknown(context: Context, incoming: Incoming, responder: Responder) {
    let path = context.call.path.path();
    if method::is_known_service(path) {
        return passthrough::streams(context, incoming, responder).await;
    }
    let text = match path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) {
        Some((service, _)) => format!("unknown service {service}"),
        None => format!("malformed method name: {path:?}"),
    };
    responder.status(&tonic::Status::new(Code::Unimplemented, text));
}

impl Context {
    /// Writes down that the client insists on something. The name is a word of ours or says nothing.
    #[cold]
    fn tell_override(&self) {
        let name = self.call.overrides.as_deref();
        let Some(overrides) = name.filter(|name| [admit::DELETES, range::MIRROR].contains(name))
        else {
            return;
        };
        let client = &self.call.peer.client;
        let (name, address) = (&*client.name, client.address);
        let method = self.call.method.map(Method::name);
        audit::of_client(|| {
            audit!("override", client = name, %address, method, overrides, "a client goes past a protection");
        });
    }

    /// The request's one message; answers the call where there is none.
    async fn request(
        &self,
        incoming: &mut Incoming,
        responder: Responder,
    ) -> Option<(Message, Responder)> {
        match incoming.message(self.edge.request_bytes_max).await {
            Ok(Some(message)) => Some((message, responder)),
            Ok(None) => {
                responder.status(&status::of(&Error::NoMessage));
                None
            }
            Err(error) => {
                responder.status(&status::of(&Error::Read(error)));
                None
            }
        }
    }
}

impl Context {
    /// The request's one message, decoded and as it came; answers the call where that cannot be had.
    ///
    /// What cannot be decoded is refused here as etcd would refuse it: it might be decodable to an
    /// etcd that it then ends.
    async fn decode<T: prost::Message + Default>(
        &self,
        incoming: &mut Incoming,
        responder: Responder,
    ) -> Option<(T, Message, Responder)> {
        let (message, responder) = self.request(incoming, responder).await?;
        match self.decoded(&message) {
            Ok(request) => Some((request, message, responder)),
            Err(error) => {
                responder.status(&status::of(&error));
                None
            }
        }
    }

    fn decoded<T: prost::Message + Default>(&self, message: &Message) -> Result<T, Error> {
        if message.is_compressed() {
            let encoding = self.call.headers.get("grpc-encoding").map(HeaderValue::as_bytes);
            return Err(match encoding {
                None | Some(b"" | b"identity") => Error::CompressedWithoutEncoding,
                Some(name) => {
                    Error::Compressed { encoding: String::from_utf8_lossy(name).into_owned() }
                }
            });
        }
        Ok(T::decode(message.payload())?)
    }
}

/// Answers with what comes of `work`.
async fn answer<T: prost::Message>(
    work: impl Future<Output = Result<T, Error>>,
    mut responder: Responder,
) {
    match responder.unless_gone(pin!(work)).await {
        Ok(Ok(response)) => responder.message(grpc::encode(&response)).await,
        Ok(Err(error)) => responder.status(&status::of(&error)),
        Err(Gone) => {}
    }
}

impl Context {
    /// The cluster of a call without keys; answers the call where it names one that is not here.
    fn named(&self, responder: Responder) -> Option<(Placed<'_>, Responder)> {
        match self.topology.named(&self.call) {
            Ok(placed) => Some((placed, responder)),
            Err(error) => {
                responder.status(&status::of(&error.into()));
                None
            }
        }
    }

    /// What the cluster says to the message of a call that was put down already; answers the call where
    /// that is no message.
    async fn ask(
        &self,
        placed: &Placed<'_>,
        manner: Manner,
        message: &Message,
        mut responder: Responder,
    ) -> Option<(Message, Responder)> {
        let asking = async {
            let mut answer =
                pipeline::forward(placed, &self.call, manner, message.framed()).await?;
            answer.message().await
        };
        match responder.unless_gone(pin!(asking)).await {
            Ok(Ok(Ok(said))) => return Some((said, responder)),
            Ok(Ok(Err(refused))) => responder.status(&refused),
            Ok(Err(error)) => responder.status(&status::of(&error.into())),
            Err(Gone) => {}
        }
        None
    }

    /// Forwards the message of a call that was put down already as it came, and relays the answer as it
    /// comes.
    async fn forward(
        &self,
        placed: Placed<'_>,
        manner: Manner,
        message: &Message,
        responder: Responder,
    ) {
        let forwarding = pipeline::forward(&placed, &self.call, manner, message.framed());
        let Some((answered, responder)) = self.until_stopped(pin!(forwarding), responder).await
        else {
            return;
        };
        self.finish(placed, Ok(answered), responder).await;
    }

    /// Does what comes before the head of the answer; answers the call when it has to end before that.
    async fn until_stopped<F: Future + Unpin>(
        &self,
        mut work: F,
        mut responder: Responder,
    ) -> Option<(F::Output, Responder)> {
        let working = async {
            match self.stop() {
                Some(stop) => stop.run_until_cancelled(&mut work).await,
                None => Some((&mut work).await),
            }
        };
        match responder.unless_gone(pin!(working)).await {
            Ok(Some(done)) => Some((done, responder)),
            Ok(None) => {
                responder.status(&self.cut(Cut::Stopped));
                None
            }
            Err(Gone) => None,
        }
    }

    /// Relays the answer, or says why there is none.
    async fn finish(
        &self,
        placed: Placed<'_>,
        answered: Result<Result<Answer, upstream::Error>, Gone>,
        responder: Responder,
    ) {
        match answered {
            Ok(Ok(answer)) => {
                if answer.refusal().is_some_and(|refusal| is_overload(&refusal)) {
                    placed.gate().overloaded();
                }
                pipeline::relay(answer, responder, self.stop(), |cut| self.cut(cut)).await
            }
            Ok(Err(error)) => responder.status(&status::of(&Error::Upstream(error))),
            Err(Gone) => {}
        }
    }

    /// What ends the call early that may not end by itself.
    fn stop(&self) -> Option<&CancellationToken> {
        match self.call.method {
            // A reload leaves them alone: who waits has a place in the line where its key was put, and
            // would lose it.
            Some(Method::Lock | Method::Campaign) => Some(&self.edge.draining),
            Some(method) if method.shape() != Shape::Bidi && method != Method::Observe => None,
            // What is not known may stay open, too.
            _ => Some(&self.topology.ended),
        }
    }

    /// The status of an answer that is cut.
    fn cut(&self, cut: Cut) -> tonic::Status {
        // etcd keeps the client's deadline too, and breaks the call off without a word.
        if self.call.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return status::of(&Error::Upstream(upstream::Error::Deadline));
        }
        match cut {
            Cut::Broken(error) => status::of(&Error::Upstream(error)),
            Cut::Stopped => status::of(&Error::Known(errors::SERVER_STOPPED)),
        }
    }

    /// Header of an answer of the cluster at `index`.
    async fn header(&self, index: usize) -> Result<Option<ResponseHeader>, Error> {
        let placed = self.topology.at(index);
        let known = placed.cluster.identity().header;
        if known.cluster_id != 0 {
            return Ok(Some(known));
        }
        let request = RangeRequest { key: Bytes::from_static(b"\0"), ..RangeRequest::default() };
        let headers = materialize::credentials(self, &placed);
        let (worker, deadline) = (self.call.worker, self.call.deadline);
        let asked = placed.cluster.ask(Method::Range, &request, headers, worker, deadline).await?;
        asked.map(|response: RangeResponse| response.header).map_err(Error::Etcd)
    }
}

/// Whether etcd says that it has too much to do, as it does of writes alone. It is known by its
/// text: the code on the wire is UNKNOWN, whatever etcd's own client makes of it.
fn is_overload(refusal: &tonic::Status) -> bool {
    refusal.message() == errors::TOO_MANY_REQUESTS.1
}
