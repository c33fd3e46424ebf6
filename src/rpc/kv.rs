//! `KV`: ranges, writes and transactions.

use super::{Context, error::Error, materialize, merge, status};
use crate::{
    admission::classify,
    etcd::{
        errors,
        key_range::KeyRange,
        method::Method,
        proto::etcdserverpb::{
            DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
            range_request::{SortOrder, SortTarget},
            request_op::Request,
        },
    },
    grpc::{Incoming, Message},
    pipeline::{self, Manner, Placed, Responder},
    routing::txn as keys_of,
};
use std::sync::Arc;

/// `Range` and `RangeStream`.
pub(super) async fn range(
    context: Context,
    mut incoming: Incoming,
    responder: Responder,
    method: Method,
) {
    let Some((request, message, responder)) =
        context.decode::<RangeRequest>(&mut incoming, responder).await
    else {
        return;
    };
    if let Err(error) = check_sort(&request) {
        return responder.status(&status::of(&error));
    }
    let manner = Manner::of(method, classify::range(&request).class);
    let keys = KeyRange::of(request.key.clone(), request.range_end.clone());
    match context.topology.owners(&keys) {
        Ok(placed) => context.forward(placed, manner, &message, responder).await,
        Err(segments) => {
            let merging = merge::range(&context, method, manner, &request, &segments, responder);
            Box::pin(merging).await;
        }
    }
}

pub(super) async fn put(context: Context, mut incoming: Incoming, responder: Responder) {
    let Some((request, message, responder)) =
        context.decode::<PutRequest>(&mut incoming, responder).await
    else {
        return;
    };
    let placed = context.topology.owner(&request.key);
    let manner = Manner::of(Method::Put, classify::put(&request).class);
    let lease = (request.lease != 0).then_some(request.lease);
    write(&context, placed, manner, &message, lease.as_slice(), responder).await;
}

pub(super) async fn delete_range(context: Context, mut incoming: Incoming, responder: Responder) {
    let Some((request, message, responder)) =
        context.decode::<DeleteRangeRequest>(&mut incoming, responder).await
    else {
        return;
    };
    let manner = Manner::of(Method::DeleteRange, classify::delete_range(&request).class);
    let keys = KeyRange::of(request.key, request.range_end);
    match context.topology.owners(&keys) {
        Ok(placed) => context.forward(placed, manner, &message, responder).await,
        Err(segments) => {
            let text =
                merge::spans(&context.topology, &keys, &segments, "cannot be deleted at once");
            responder.status(&status::of(&Error::SpansClusters(text)));
        }
    }
}

pub(super) async fn txn(context: Context, mut incoming: Incoming, responder: Responder) {
    let Some((request, message, responder)) =
        context.decode::<TxnRequest>(&mut incoming, responder).await
    else {
        return;
    };
    if let Err(error) = check_sorts(&request) {
        return responder.status(&status::of(&error));
    }
    let manner = Manner::of(Method::Txn, classify::txn(&request).class);
    let index = match keys_of::locate_txn(&context.topology.table, &request) {
        Ok(index) => *index,
        Err(spans) => {
            let named = spans.map(|index| Arc::clone(&context.topology.clusters[index].name));
            return responder.status(&status::of(&Error::SpansClusters(named.to_string())));
        }
    };
    let leases: Vec<i64> = keys_of::leases(&request).collect();
    write(&context, context.topology.at(index), manner, &message, &leases, responder).await;
}

/// A write that may attach keys to `leases`, which may not exist yet where its keys live.
async fn write(
    context: &Context,
    placed: Placed<'_>,
    manner: Manner,
    message: &Message,
    leases: &[i64],
    mut responder: Responder,
) {
    if placed.index == 0 || leases.is_empty() {
        return context.forward(placed, manner, message, responder).await;
    }
    responder.record.placed(manner.class, &placed.cluster.name);
    let outbound = pipeline::outbound(&placed, &context.call, manner, Some(message.framed()));
    let writing = materialize::with_leases(context, &placed, &outbound, manner, leases);
    let writing = Box::pin(writing);
    let answered = responder.unless_gone(writing).await;
    context.finish(answered, responder).await;
}

/// A sort that etcd does not know ends the process of 3.4 and 3.5; 3.6 answers like this.
fn check_sort(request: &RangeRequest) -> Result<(), Error> {
    let known = SortOrder::try_from(request.sort_order).is_ok()
        && SortTarget::try_from(request.sort_target).is_ok();
    known.then_some(()).ok_or(Error::Known(errors::INVALID_SORT_OPTION))
}

/// The same for every range of a transaction, however deep.
fn check_sorts(txn: &TxnRequest) -> Result<(), Error> {
    let mut nested = vec![txn];
    while let Some(txn) = nested.pop() {
        for RequestOp { request } in txn.success.iter().chain(&txn.failure) {
            match request {
                Some(Request::RequestRange(range)) => check_sort(range)?,
                Some(Request::RequestTxn(txn)) => nested.push(txn),
                _ => {}
            }
        }
    }
    Ok(())
}
