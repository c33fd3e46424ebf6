//! `Lock` and `Election`: etcd makes them of keys below a name, so the name routes them.

use super::{Context, error::Error, materialize, merge, status};
use crate::{
    access::{self, Need, Verb},
    etcd::{
        key_range::KeyRange,
        method::Method,
        proto::concurrency::{
            CampaignRequest, LeaderRequest, LockRequest, ProclaimRequest, ResignRequest,
            UnlockRequest,
        },
    },
    grpc::{Incoming, Message},
    pipeline::{Gone, Manner, Responder},
    upstream::Lane,
};
use bytes::Bytes;
use std::pin::pin;

/// Where a call belongs: the keys it touches and the lease it attaches one of them to.
struct Place {
    keys: KeyRange,
    lease: i64,
    /// See [`Message::is_all_in`].
    is_plain: bool,
}

pub(super) async fn serve(
    context: Context,
    mut incoming: Incoming,
    responder: Responder,
    method: Method,
) {
    let Some((message, responder)) = context.request(&mut incoming, responder).await else {
        return;
    };
    let place = match place(&context, method, &message) {
        Ok(place) => place,
        Err(error) => return responder.status(&status::of(&error)),
    };
    let Some(mut responder) = allowed(&context, method, &place, responder).await else { return };
    let placed = match context.topology.owners(&place.keys) {
        Ok(placed) => placed,
        Err(segments) => {
            let text = merge::spans(&context.topology, &place.keys, &segments, "cannot be a name");
            return responder.status(&status::of(&Error::SpansClusters(text)));
        }
    };
    if placed.index != 0 && place.lease != 0 {
        let materializing = materialize::materialize(&context, &placed, place.lease);
        match responder.unless_gone(pin!(materializing)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return responder.status(&status::of(&error.into())),
            Err(_) => return,
        }
    }
    let subject = context.subject_of(method, Some(place.keys));
    context.attribute(&placed, &subject, &message, &mut responder);
    // Who observes is as who watches: it meets rules when it begins, and nothing while it stays.
    match context.plan(&placed, &subject, &mut responder).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return responder.status(&status::of(&error)),
        Err(Gone) => return,
    }
    // They wait for others as long as it takes, and would fill the connections of short calls.
    let manner = Manner { lane: Lane::Watch, ..Manner::of(method, subject.class) };
    context.forward(placed, manner, &message, responder).await;
}

async fn allowed(
    context: &Context,
    method: Method,
    Place { keys, lease, is_plain }: &Place,
    responder: Responder,
) -> Option<Responder> {
    if !context.judges() {
        return Some(responder);
    }
    let mut needs: Vec<Need> = match method {
        Method::Leader => vec![Need::with(Verb::Read, keys.clone())],
        Method::Observe => access::of_observe(keys).collect(),
        Method::Lock | Method::Campaign => access::of_lock(keys).collect(),
        _ => vec![Need::with(Verb::Write, keys.clone())],
    };
    if !is_plain {
        needs.extend(Need::everything());
    }
    let responder = context.allowed_to(needs, responder)?;
    let leases = if *lease == 0 { &[][..] } else { std::slice::from_ref(lease) };
    context.allowed_leases(Verb::Write, leases, responder).await
}

fn place(context: &Context, method: Method, message: &Message) -> Result<Place, Error> {
    let place = |keys, lease, is_plain| Place { keys, lease, is_plain };
    Ok(match method {
        Method::Lock => {
            let request: LockRequest = context.decoded(message)?;
            place(below(&request.name), request.lease, message.is_all_in(&request))
        }
        Method::Campaign => {
            let request: CampaignRequest = context.decoded(message)?;
            place(below(&request.name), request.lease, message.is_all_in(&request))
        }
        Method::Leader | Method::Observe => {
            let request: LeaderRequest = context.decoded(message)?;
            place(below(&request.name), 0, message.is_all_in(&request))
        }
        Method::Proclaim => {
            let request: ProclaimRequest = context.decoded(message)?;
            let is_plain = message.is_all_in(&request);
            let leader = request.leader.unwrap_or_default();
            place(KeyRange::single(leader.key), leader.lease, is_plain)
        }
        Method::Resign => {
            let request: ResignRequest = context.decoded(message)?;
            let is_plain = message.is_all_in(&request);
            place(KeyRange::single(request.leader.unwrap_or_default().key), 0, is_plain)
        }
        _ => {
            let request: UnlockRequest = context.decoded(message)?;
            let is_plain = message.is_all_in(&request);
            place(KeyRange::single(request.key), 0, is_plain)
        }
    })
}

/// The keys that etcd makes for `name`.
fn below(name: &Bytes) -> KeyRange {
    KeyRange::prefix(Bytes::from([name, &b"/"[..]].concat()))
}
