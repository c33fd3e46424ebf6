//! Leases, which the default cluster owns and others may hold copies of; see `materialize`.

use super::{Context, answer, error::Error, materialize::credentials, status};
use crate::{
    access::Verb,
    admission::Class,
    etcd::{
        method::Method,
        proto::etcdserverpb::{
            LeaseGrantRequest, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest,
            LeaseTimeToLiveResponse,
        },
    },
    grpc::{Incoming, Message, Outgoing},
    pipeline::{self, Manner, Placed, Responder},
    sabotage::Sabotage,
    upstream::{self, Cluster, Lane, Outbound},
};
use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::{collections::VecDeque, future::pending, pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use tonic::Code;

/// What a cluster other than the default one may cost a call that is not about its keys alone.
const SECONDARY_WAIT: Duration = Duration::from_secs(2);

pub(super) async fn grant(context: Context, mut incoming: Incoming, responder: Responder) {
    let Some((request, message, responder)) =
        context.decode::<LeaseGrantRequest>(&mut incoming, responder).await
    else {
        return;
    };
    let Some(mut responder) = context.allowed_method(Method::LeaseGrant, responder) else { return };
    let manner = Manner::of(Method::LeaseGrant, Class::Critical);
    let placed = context.topology.default();
    context.attribute_method(&placed, Method::LeaseGrant, &message, &mut responder);
    let granting = async {
        let answer = pipeline::forward(&placed, &context.call, manner, message.framed()).await?;
        // A client that chose the id may have used it before: what another cluster still holds
        // under it is another lease.
        if request.id != 0 && !answer.is_refused() {
            revoke_copies(&context, request.id).await;
        }
        Ok(answer)
    };
    let answered = responder.unless_gone(pin!(granting)).await;
    context.finish(placed, answered, responder).await;
}

pub(super) async fn revoke(context: Context, mut incoming: Incoming, responder: Responder) {
    let Some((request, message, responder)) =
        context.decode::<LeaseRevokeRequest>(&mut incoming, responder).await
    else {
        return;
    };
    let Some(responder) = context.allowed_method(Method::LeaseRevoke, responder) else { return };
    let attached = context.allowed_leases(Verb::Write, &[request.id], responder).await;
    let Some(mut responder) = attached else { return };
    let manner = Manner::of(Method::LeaseRevoke, Class::Critical);
    let placed = context.topology.default();
    context.attribute_method(&placed, Method::LeaseRevoke, &message, &mut responder);
    let revoking = async {
        let answer = pipeline::forward(&placed, &context.call, manner, message.framed()).await?;
        // Also when the default cluster has it no more: that may be the second attempt.
        revoke_copies(&context, request.id).await;
        Ok(answer)
    };
    let answered = responder.unless_gone(pin!(revoking)).await;
    context.finish(placed, answered, responder).await;
}

/// Revokes what the other clusters hold under `id`. One that cannot be asked keeps its copy until
/// that expires, since nobody renews it any more.
async fn revoke_copies(context: &Context, id: i64) {
    let revoke = |placed: Placed<'_>| {
        let cluster = Arc::clone(placed.cluster);
        let headers = credentials(context, &placed);
        let worker = context.call.worker;
        async move {
            let request = LeaseRevokeRequest { id };
            let deadline = Some(Instant::now() + SECONDARY_WAIT);
            let asked = cluster.ask::<LeaseRevokeResponse>(
                Method::LeaseRevoke,
                &request,
                headers,
                worker,
                deadline,
            );
            let error = match timeout_at(Instant::now() + SECONDARY_WAIT, asked).await {
                Ok(Ok(Ok(_))) => return,
                Ok(Ok(Err(status))) if status.code() == Code::NotFound => return,
                Ok(Ok(Err(status))) => status.to_string(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            let (cluster, lease) = (&*cluster.name, format!("{id:x}"));
            tracing::warn!(cluster, lease, error, "copy of a revoked lease is left to expire");
        }
    };
    // Under another name the default cluster has no copy, but the lease itself.
    let own = context.topology.default().cluster.header().cluster_id;
    let is_other = |placed: &Placed<'_>| own == 0 || placed.cluster.header().cluster_id != own;
    join_all(context.topology.secondaries().filter(is_other).map(revoke)).await;
}

/// The default cluster knows how long a lease lives; its keys may be anywhere.
pub(super) async fn time_to_live(context: Context, mut incoming: Incoming, responder: Responder) {
    let Some((request, message, responder)) =
        context.decode::<LeaseTimeToLiveRequest>(&mut incoming, responder).await
    else {
        return;
    };
    let method = Method::LeaseTimeToLive;
    let Some(responder) = context.allowed_method(method, responder) else { return };
    let shown = if request.keys { vec![request.id] } else { Vec::new() };
    let attached = context.allowed_leases(Verb::Read, &shown, responder).await;
    let Some(responder) = attached else { return };
    let manner = Manner::of(method, Class::PointRead);
    let placed = context.topology.default();
    let Some(responder) = context.admit(&placed, method, &message, responder).await else {
        return;
    };
    if !request.keys || context.topology.is_single() {
        return context.forward(placed, manner, &message, responder).await;
    }
    answer(time_to_live_everywhere(&context, &request), responder).await;
}

async fn time_to_live_everywhere(
    context: &Context,
    request: &LeaseTimeToLiveRequest,
) -> Result<LeaseTimeToLiveResponse, Error> {
    let mut known = ask_time_to_live(context, context.topology.default(), request).await?;
    for placed in context.topology.secondaries() {
        let copy = ask_time_to_live(context, placed, request).await?;
        known.keys.extend(copy.keys);
    }
    known.keys.sort();
    Ok(known)
}

/// The keys that are attached to a lease, on all clusters.
pub(super) async fn attached(context: &Context, id: i64) -> Result<Vec<Bytes>, Error> {
    let request = LeaseTimeToLiveRequest { id, keys: true };
    Ok(time_to_live_everywhere(context, &request).await?.keys)
}

async fn ask_time_to_live(
    context: &Context,
    placed: Placed<'_>,
    request: &LeaseTimeToLiveRequest,
) -> Result<LeaseTimeToLiveResponse, Error> {
    let headers = credentials(context, &placed);
    let (worker, deadline) = (context.call.worker, context.call.deadline);
    let method = Method::LeaseTimeToLive;
    let asked = placed.cluster.ask(method, request, headers, worker, deadline).await?;
    asked.map_err(Error::Etcd)
}

/// Keep-alives go to every cluster, since any may hold a copy; the default cluster's answers are
/// the client's.
pub(super) async fn keep_alive(context: Context, incoming: Incoming, responder: Responder) {
    let method = Method::LeaseKeepAlive;
    let Some(mut responder) = context.allowed_method(method, responder) else { return };
    let manner = staying();
    let placed = context.topology.default();
    responder.record.placed(manner.class, &placed.cluster.name);
    let outbound = pipeline::outbound(&placed, &context.call, manner, None);
    let mut exchange = match responder.unless_gone(pin!(placed.cluster.stream(&outbound))).await {
        Ok(Ok(exchange)) => exchange,
        Ok(Err(error)) => return responder.status(&status::of(&Error::Upstream(error))),
        Err(_) => return,
    };
    let Some(up) = exchange.outgoing.take() else { return };
    let copies =
        context.topology.secondaries().map(|placed| Copies::start(&context, placed)).collect();
    let upward = renew(&context, incoming, up, copies);
    let downward = async {
        let answering = pin!(exchange.answer());
        let Some((answered, responder)) = context.until_stopped(answering, responder).await else {
            return;
        };
        context.finish(placed, Ok(answered), responder).await;
    };
    tokio::select! {
        () = downward => {}
        () = upward => {}
    }
}

/// Keep-alives stay open as long as their client lives, and would fill the connections of short calls.
fn staying() -> Manner {
    Manner { lane: Lane::Watch, ..Manner::of(Method::LeaseKeepAlive, Class::Critical) }
}

/// Passes the client's keep-alives on; never ends, since the answers decide when the call does.
async fn renew(context: &Context, mut incoming: Incoming, mut up: Outgoing, copies: Vec<Copies>) {
    let subject = context.subject_of(Method::LeaseKeepAlive, None);
    let default = &context.topology.default().cluster.name;
    while let Ok(Some(message)) = incoming.message(context.edge.request_bytes_max).await {
        context.attribute_one(default, &subject, &message);
        copies.iter().for_each(|copies| copies.renew(&message));
        if up.send(message.framed()).await.is_err() {
            break;
        }
    }
    // Fails when etcd has ended the call, of which its answers tell.
    let _ = up.close();
    pending().await
}

/// Keeps the copies of leases at one other cluster alive. When this goes, what was passed on already
/// is still seen to, which takes a moment: clients that renew a lease once leave with the answer of
/// the default cluster.
struct Copies {
    queue: mpsc::Sender<Message>,
}

/// Keep-alives that wait for a cluster. When it does not take them they are dropped: the client
/// repeats each of them three times within a lease's time.
const KEEP_ALIVES_QUEUED: usize = 1024;

impl Copies {
    fn start(context: &Context, placed: Placed<'_>) -> Self {
        let (queue, queued) = mpsc::channel(KEEP_ALIVES_QUEUED);
        let outbound = pipeline::outbound(&placed, &context.call, staying(), None);
        // It ends when the queue does.
        tokio::spawn(keep_copies(Arc::clone(placed.cluster), outbound, queued));
        Self { queue }
    }

    fn renew(&self, message: &Message) {
        if Sabotage::ForgetLease.is_on() {
            return;
        }
        if self.queue.try_send(message.clone()).is_err() {
            tracing::debug!(
                "keep-alive for a lease's copy dropped: its cluster does not take them"
            );
        }
    }
}

/// A keep-alive without an answer is sent again for so long. To renew a lease twice does no harm.
const RETRIES_MAX: Duration = Duration::from_secs(5);

/// Before the second attempt, and twice as long before each that follows.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Opens a stream when there is something to send, and another one after it broke.
async fn keep_copies(
    cluster: Arc<Cluster>,
    outbound: Outbound,
    mut queued: mpsc::Receiver<Message>,
) {
    while let Some(message) = queued.recv().await {
        let unanswered = Mutex::new(VecDeque::from([message]));
        let (mut until, mut pause) = (Instant::now() + RETRIES_MAX, RETRY_PAUSE);
        loop {
            let error = match cluster.stream(&outbound).await {
                Ok(exchange) => {
                    if keep_on(exchange, &unanswered, &mut queued).await {
                        (until, pause) = (Instant::now() + RETRIES_MAX, RETRY_PAUSE);
                    }
                    None
                }
                Err(error) => Some(error.to_string()),
            };
            if unanswered.lock().is_empty() {
                break;
            }
            if Instant::now() + pause >= until {
                let cluster = &*cluster.name;
                tracing::warn!(cluster, error, "copies of leases cannot be kept alive");
                break;
            }
            sleep(pause).await;
            pause *= 2;
        }
    }
}

/// Sends what is `unanswered`, then what is `queued`, and takes the answers, which come in the order
/// of the questions, until either fails. Whether there was an answer.
async fn keep_on(
    mut exchange: upstream::Exchange,
    unanswered: &Mutex<VecDeque<Message>>,
    queued: &mut mpsc::Receiver<Message>,
) -> bool {
    let Some(mut up) = exchange.outgoing.take() else { return false };
    let mut answered = false;
    let again = unanswered.lock().clone();
    let sending = async {
        for message in again {
            if up.send(message.framed()).await.is_err() {
                return;
            }
        }
        while let Some(message) = queued.recv().await {
            let waiting = {
                let mut unanswered = unanswered.lock();
                unanswered.push_back(message.clone());
                unanswered.len()
            };
            if waiting > KEEP_ALIVES_QUEUED || up.send(message.framed()).await.is_err() {
                return;
            }
        }
        // etcd ends the stream when it has answered.
        if up.close().is_ok() {
            sleep(SECONDARY_WAIT).await;
        }
    };
    let answers = async {
        if let Ok(mut answer) = exchange.answer().await {
            while let Ok(Some(_)) = answer.body.message(ANSWER_BYTES_MAX).await {
                unanswered.lock().pop_front();
                answered = true;
            }
        }
    };
    tokio::select! {
        () = sending => {}
        () = answers => {}
    }
    answered
}

/// A keep-alive's answer is a header and two numbers.
const ANSWER_BYTES_MAX: usize = 1 << 16;
