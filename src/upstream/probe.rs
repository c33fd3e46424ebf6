//! Finding out how members are.

use super::{CONTROL, Cluster, Lane, Member, State};
use crate::etcd::{
    method::Method,
    proto::etcdserverpb::{RangeRequest, RangeResponse, StatusRequest, StatusResponse},
};
use bytes::Bytes;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

/// Key that is asked for; it need not exist. The same one that kube-apiserver asks for.
const PROBE_KEY: &[u8] = b"/registry/health";

/// Starts one prober a member.
pub(super) fn start(cluster: &Arc<Cluster>) -> Vec<AbortOnDropHandle<()>> {
    let prober = |index| AbortOnDropHandle::new(tokio::spawn(run(Arc::downgrade(cluster), index)));
    (0..cluster.members.len()).map(prober).collect()
}

/// Between two probes at least, however many connections to the member fail.
const PAUSE: Duration = Duration::from_millis(100);

async fn run(cluster: Weak<Cluster>, index: usize) {
    let mut failures = 0;
    loop {
        let Some(cluster) = cluster.upgrade() else { return };
        let next = Instant::now() + PAUSE;
        let member = Arc::clone(&cluster.members[index]);
        probe(&cluster, index, &mut failures).await;
        drop(cluster);
        tokio::select! {
            () = sleep(member.settings.probe.interval) => {}
            () = async {
                member.probe_now.notified().await;
                sleep_until(next).await;
            } => {}
        }
    }
}

/// What a probe learnt of one question.
type Reply<T> = Option<Result<T, Status>>;

async fn probe(cluster: &Cluster, index: usize, failures: &mut u32) {
    let member = &cluster.members[index];
    let limit = member.settings.probe.timeout;
    let sent = Instant::now();
    let read = async {
        let reply =
            timeout(limit, ask::<RangeResponse>(member, Method::Range, &read_request())).await;
        (reply, Instant::now())
    };
    let status = timeout(limit, ask::<StatusResponse>(member, Method::Status, &StatusRequest {}));
    let ((read, answered), status) = tokio::join!(read, status);
    let read: Reply<RangeResponse> = read.ok().flatten();
    let status: Reply<StatusResponse> = status.ok().flatten();
    let state = judge(&read, &status);
    if let Some(Ok(status)) = status {
        observe_status(member, &status, cluster.quota(&status));
        cluster.learn_status(index, status);
    }
    if let Some(Ok(RangeResponse { header: Some(header), .. })) = &read {
        member.metrics.probe_seconds.observe((answered - sent).as_secs_f64());
        member.observe_latency(answered - sent);
        member.set_id(header.member_id);
        cluster.learn_header(*header, (sent, answered));
    }
    match state {
        Some(state) => {
            *failures = 0;
            let reason = read.as_ref().and_then(|read| read.as_ref().err()).map(Status::message);
            if state != State::Healthy {
                member.metrics.probe_failures.inc();
            }
            member.enter(state, reason.filter(|_| state != State::Healthy));
        }
        None => unanswered(member, failures),
    }
}

/// How a member is that gave these replies; `None` when it gave none.
fn judge(read: &Reply<RangeResponse>, status: &Reply<StatusResponse>) -> Option<State> {
    let learner = matches!(status, Some(Ok(status)) if status.is_learner);
    match (read, status) {
        _ if learner => Some(State::Learner),
        (Some(Ok(_)), _) => Some(State::Healthy),
        (Some(Err(refused)), _) if is_about_permission(refused) => Some(State::Healthy),
        (Some(Err(_)), _) | (None, Some(_)) => Some(State::NoQuorum),
        (None, None) => None,
    }
}

/// Whether a read was refused for want of permission. etcd looks at that after it has asked the
/// quorum, so the quorum is there.
pub fn is_about_permission(status: &Status) -> bool {
    matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated)
        || status.message() == "etcdserver: user name is empty"
}

/// Nothing came back. The connections are closed only when nothing at all came for as long: a
/// member that is slow under load still sends the answers it can.
fn unanswered(member: &Member, failures: &mut u32) {
    let settings = &member.settings.probe;
    member.metrics.probe_failures.inc();
    *failures += 1;
    let silent = member.silent_for() >= settings.timeout;
    let known = member.last_error();
    let reason = known.as_deref().unwrap_or("it does not answer");
    if *failures >= settings.failures && silent {
        member.enter(State::Down, Some(reason));
        member.metrics.leader.set(0);
    } else if member.state() != State::Down {
        member.enter(State::Suspect, Some(reason));
    }
}

fn read_request() -> RangeRequest {
    RangeRequest { key: Bytes::from_static(PROBE_KEY), count_only: true, ..RangeRequest::default() }
}

fn observe_status(member: &Member, status: &StatusResponse, quota: Option<u64>) {
    let header = status.header.unwrap_or_default();
    let leads = status.leader != 0 && status.leader == header.member_id;
    let alarms = status.errors.iter().filter(|error| error.contains("alarm")).count();
    member.set_id(header.member_id);
    member.metrics.leader.set(leads.into());
    member.metrics.db_size.set(status.db_size);
    member.metrics.db_size_in_use.set(status.db_size_in_use);
    member.metrics.db_quota.set(quota.unwrap_or(0) as i64);
    member.metrics.alarms.set(alarms as i64);
}

/// Asks this very member; `None` when no answer came.
async fn ask<T: prost::Message + Default>(
    member: &Arc<Member>,
    method: Method,
    request: &impl prost::Message,
) -> Option<Result<T, Status>> {
    member.ask(CONTROL, Lane::Light, method, request).await.ok()
}
