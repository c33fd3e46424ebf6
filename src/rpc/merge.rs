//! Ranges that several clusters own together.
//!
//! An operator who lists everything should see everything; but one revision over several clusters
//! does not exist, so only reads of the present in key order are joined.

use super::{Context, error::Error, materialize, status};
use crate::{
    admission::Cost,
    etcd::{
        key_range::KeyRange,
        method::Method,
        proto::etcdserverpb::{
            RangeRequest, RangeResponse,
            range_request::{SortOrder, SortTarget},
        },
    },
    grpc,
    pipeline::{Patience, Responder, Topology, send_pieces},
    routing::Segment,
};
use std::pin::pin;

/// Bytes of joined answers; they are held until the last one came.
const MERGED_BYTES_MAX: usize = 64 << 20;

/// Answers a range that lies in the clusters of `segments`.
pub(super) async fn range(
    context: &Context,
    method: Method,
    request: &RangeRequest,
    segments: &[Segment<'_, usize>],
    mut responder: Responder,
) {
    if let Err(error) = check(context, method, request, segments) {
        return responder.status(&status::of(&error));
    }
    let mut cost = Cost::default();
    let joined = responder.unless_gone(pin!(join(context, request, segments, &mut cost))).await;
    if let Some(account) = responder.record.account() {
        account.cost = Some(cost);
    }
    match joined {
        Ok(Ok(response)) => {
            let patience = Patience::new(&context.edge.protection);
            send_pieces(&[grpc::encode(&response)], responder, patience).await;
        }
        Ok(Err(error)) => responder.status(&status::of(&error)),
        Err(_) => {}
    }
}

/// Says what lies where, after `what` happened.
pub(super) fn spans(
    topology: &Topology,
    keys: &KeyRange,
    segments: &[Segment<'_, usize>],
    what: &str,
) -> String {
    let parts: Vec<_> = segments
        .iter()
        .map(|part| format!("{} in {}", part.range, topology.clusters[*part.cluster].name))
        .collect();
    format!("the range {keys} {what}: its keys lie in several etcd clusters ({})", parts.join(", "))
}

fn check(
    context: &Context,
    method: Method,
    request: &RangeRequest,
    segments: &[Segment<'_, usize>],
) -> Result<(), Error> {
    let in_key_order = request.sort_target == SortTarget::Key as i32
        && request.sort_order != SortOrder::Descend as i32;
    let bounds = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    let what = if method == Method::RangeStream {
        "cannot be streamed"
    } else if request.revision > 0 {
        "cannot be read at a revision"
    } else if bounds.iter().any(|&bound| bound != 0) {
        "cannot be filtered by revision"
    } else if !in_key_order {
        "can be read in the order of keys only"
    } else {
        return Ok(());
    };
    let keys = KeyRange::of(request.key.clone(), request.range_end.clone());
    Err(Error::SpansClusters(spans(&context.topology, &keys, segments, what)))
}

/// Asks one cluster after the other, in the order of keys, and takes the default cluster's header.
/// What has come so far has had its `cost`.
async fn join(
    context: &Context,
    request: &RangeRequest,
    segments: &[Segment<'_, usize>],
    cost: &mut Cost,
) -> Result<RangeResponse, Error> {
    let mut joined = RangeResponse::default();
    for segment in segments {
        let left = request.limit - joined.kvs.len() as i64;
        let full = request.limit > 0 && left <= 0;
        let part = RangeRequest {
            key: segment.range.start.clone(),
            range_end: segment.range.range_end(),
            limit: if request.limit > 0 { left.max(1) } else { 0 },
            // Once the limit is reached the rest is only counted.
            count_only: request.count_only || full,
            ..request.clone()
        };
        let response = ask(context, *segment.cluster, &part).await?;
        joined.count += response.count;
        joined.more |= response.more || full && response.count > 0;
        cost.keys += u64::try_from(response.count).unwrap_or_default();
        cost.bytes += prost::Message::encoded_len(&response) as u64;
        if cost.bytes > MERGED_BYTES_MAX as u64 {
            return Err(Error::MergeTooLarge { max: MERGED_BYTES_MAX });
        }
        joined.kvs.extend(response.kvs);
        if *segment.cluster == 0 {
            joined.header = response.header;
        }
    }
    if joined.header.is_none() {
        joined.header = context.header(0).await?;
    }
    Ok(joined)
}

async fn ask(context: &Context, index: usize, part: &RangeRequest) -> Result<RangeResponse, Error> {
    let placed = context.topology.at(index);
    let headers = materialize::credentials(context, &placed);
    let (worker, deadline) = (context.call.worker, context.call.deadline);
    let asked = placed.cluster.ask(Method::Range, part, headers, worker, deadline).await?;
    asked.map_err(Error::Etcd)
}
