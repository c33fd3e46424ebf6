//! `Lock` and `Election`: etcd makes them of keys below a name, so the name routes them.

use super::{Context, error::Error, materialize, merge, status};
use crate::{
    admission::classify,
    etcd::{
        key_range::KeyRange,
        method::Method,
        proto::concurrency::{
            CampaignRequest, LeaderKey, LeaderRequest, LockRequest, ProclaimRequest, ResignRequest,
            UnlockRequest,
        },
    },
    grpc::Incoming,
    pipeline::{Manner, Responder},
    upstream::Lane,
};
use bytes::Bytes;

/// Where a call belongs: the keys it touches and the lease it attaches one of them to.
struct Place {
    keys: KeyRange,
    lease: i64,
}

pub(super) async fn serve(
    context: Context,
    mut incoming: Incoming,
    responder: Responder,
    method: Method,
) {
    let Some((message, mut responder)) = context.request(&mut incoming, responder).await else {
        return;
    };
    let place = match place(&context, method, &message) {
        Ok(place) => place,
        Err(error) => return responder.status(&status::of(&error)),
    };
    let placed = match context.topology.owners(&place.keys) {
        Ok(placed) => placed,
        Err(segments) => {
            let text = merge::spans(&context.topology, &place.keys, &segments, "cannot be a name");
            return responder.status(&status::of(&Error::SpansClusters(text)));
        }
    };
    if placed.index != 0 && place.lease != 0 {
        let materializing = materialize::materialize(&context, &placed, place.lease);
        match responder.unless_gone(materializing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return responder.status(&status::of(&error.into())),
            Err(_) => return,
        }
    }
    // They wait for others as long as it takes, and would fill the connections of short calls.
    let manner =
        Manner { lane: Lane::Watch, ..Manner::of(method, classify::method(method.path()).class) };
    context.forward(placed, manner, &message, responder).await;
}

fn place(
    context: &Context,
    method: Method,
    message: &crate::grpc::Message,
) -> Result<Place, Error> {
    Ok(match method {
        Method::Lock => {
            let LockRequest { name, lease } = context.decoded(message)?;
            Place { keys: below(&name), lease }
        }
        Method::Campaign => {
            let CampaignRequest { name, lease, .. } = context.decoded(message)?;
            Place { keys: below(&name), lease }
        }
        Method::Leader | Method::Observe => {
            let LeaderRequest { name } = context.decoded(message)?;
            Place { keys: below(&name), lease: 0 }
        }
        Method::Proclaim => {
            let ProclaimRequest { leader, .. } = context.decoded(message)?;
            key(leader.unwrap_or_default())
        }
        Method::Resign => {
            let ResignRequest { leader } = context.decoded(message)?;
            key(leader.unwrap_or_default())
        }
        _ => {
            let UnlockRequest { key } = context.decoded(message)?;
            Place { keys: KeyRange::single(key), lease: 0 }
        }
    })
}

/// The keys that etcd makes for `name`.
fn below(name: &Bytes) -> KeyRange {
    KeyRange::prefix(Bytes::from([name, &b"/"[..]].concat()))
}

fn key(leader: LeaderKey) -> Place {
    Place { keys: KeyRange::single(leader.key), lease: 0 }
}
