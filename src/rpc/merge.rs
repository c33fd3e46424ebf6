//! Ranges that several clusters own together.
//!
//! An operator who lists everything should see everything; but one revision over several clusters
//! does not exist, so only reads of the present in key order are joined.

use super::{Context, error::Error, materialize, status};
use crate::{
    admission::{Cost, Held, Protection},
    etcd::{
        errors,
        key_range::KeyRange,
        method::Method,
        proto::etcdserverpb::{
            RangeRequest, RangeResponse, ResponseHeader,
            range_request::{SortOrder, SortTarget},
        },
    },
    grpc,
    pipeline::{self, Manner, Patience, Responder, Topology, send_pieces},
    routing::Segment,
    upstream::{self, Answer},
};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use std::{collections::HashMap, pin::pin, sync::Arc};
use tonic::Status;

/// Bytes of joined answers; they are held until the client has taken them.
const MERGED_BYTES_MAX: u64 = 64 << 20;

/// Room that every one takes, before it is known how large it is.
const ROOM: u64 = 64 << 10;

/// How often one is made whose revisions etcd compacts away meanwhile.
const ATTEMPTS: u32 = 3;

/// Answers a range that lies in the clusters of `segments`, and that [`check`] has nothing against.
pub(super) async fn range(
    context: &Context,
    manner: Manner,
    request: &RangeRequest,
    segments: &[Segment<'_, usize>],
    mut responder: Responder,
) {
    let mut cost = Cost::default();
    let joining = async {
        for _ in 1..ATTEMPTS {
            match join(context, manner, request, segments, &mut cost).await {
                // It was asked for as it is now, and now has moved on.
                Err(Error::Etcd(status)) if is_compacted(&status) => {}
                joined => return joined,
            }
        }
        join(context, manner, request, segments, &mut cost).await
    };
    let joined = responder.unless_gone(pin!(joining)).await;
    if let Some(account) = responder.record.account() {
        account.cost = Some(cost);
    }
    match joined {
        Ok(Ok(joined)) => {
            let (pieces, _held) = joined.into_pieces();
            let patience = Patience::with_room(&context.edge.protection);
            send_pieces(&pieces, responder, patience).await;
        }
        Ok(Err(error)) => responder.status(&status::of(&error)),
        Err(_) => {}
    }
}

fn is_compacted(status: &Status) -> bool {
    (status.code(), status.message()) == errors::COMPACTED
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

/// What speaks against joining the answers; asked before the call waits for its turn.
pub(super) fn check(
    context: &Context,
    method: Method,
    request: &RangeRequest,
    segments: &[Segment<'_, usize>],
) -> Result<(), Error> {
    let in_key_order = request.sort_target == SortTarget::Key as i32
        && request.sort_order != SortOrder::Descend as i32;
    let what = if method == Method::RangeStream {
        "cannot be streamed"
    } else if request.revision > 0 {
        "cannot be read at a revision"
    } else if request.is_filtered() {
        "cannot be filtered by revision"
    } else if !in_key_order {
        "can be read in the order of keys only"
    } else {
        return Ok(());
    };
    let keys = KeyRange::of(request.key.clone(), request.range_end.clone());
    Err(Error::SpansClusters(spans(&context.topology, &keys, segments, what)))
}

/// Asks one cluster after the other, in the order of keys, and takes the default cluster's header. All
/// parts of one cluster are read at the revision of the first, so that they are one state of it, and it
/// is that of the header. What has come so far has had its `cost`.
async fn join(
    context: &Context,
    manner: Manner,
    request: &RangeRequest,
    segments: &[Segment<'_, usize>],
    cost: &mut Cost,
) -> Result<Joined, Error> {
    let protection = &context.edge.protection;
    let mut joined = Joined::new(protection.hold(ROOM, context.call.deadline).await?);
    let mut revisions = HashMap::new();
    for segment in segments {
        let left = request.limit - joined.keys;
        let full = request.limit > 0 && left <= 0;
        let part = RangeRequest {
            key: segment.range.start.clone(),
            range_end: segment.range.range_end(),
            limit: if request.limit > 0 { left.max(1) } else { 0 },
            // Once the limit is reached the rest is only counted.
            count_only: request.count_only || full,
            revision: revisions.get(segment.cluster).copied().unwrap_or(request.revision),
            ..request.clone()
        };
        let mut answer = ask(context, manner, *segment.cluster, &part).await?;
        let length = answer.length().await?.unwrap_or(0) as u64;
        joined.make_room(protection, length)?;
        let mut response: RangeResponse = answer.decode().await?.map_err(Error::Etcd)?;
        cost.keys += u64::try_from(response.count).unwrap_or_default();
        cost.bytes += length;
        response.more |= full && response.count > 0;
        let header = response.header;
        joined.add(response);
        if *segment.cluster == 0 {
            joined.header = joined.header.or(header);
        }
        // What a member may answer by itself it may not have got to by the next part.
        if let Some(ResponseHeader { revision, .. }) = header
            && !request.serializable
        {
            revisions.entry(*segment.cluster).or_insert(revision);
        }
    }
    if joined.header.is_none() {
        joined.header = context.header(0).await?;
    }
    Ok(joined)
}

async fn ask(
    context: &Context,
    manner: Manner,
    index: usize,
    part: &RangeRequest,
) -> Result<Answer, Error> {
    let placed = context.topology.at(index);
    let mut outbound = upstream::outbound(Method::Range, part, context.call.worker, manner.lane);
    Arc::make_mut(&mut outbound.headers).extend(materialize::credentials(context, &placed));
    outbound.deadline = context.call.deadline;
    Ok(pipeline::resend(&placed, &outbound, manner).await?)
}

/// An answer as far as it has come, encoded.
struct Joined {
    header: Option<ResponseHeader>,
    /// The keys of each part.
    parts: Vec<Bytes>,
    bytes: u64,
    keys: i64,
    count: i64,
    more: bool,
    /// Its room; `None` where there is less than the least of it.
    held: Option<Held>,
}

impl Joined {
    fn new(held: Option<Held>) -> Self {
        Self { header: None, parts: Vec::new(), bytes: 0, keys: 0, count: 0, more: false, held }
    }

    /// Takes the room for a part of `length` bytes: as it comes, and as it goes on.
    fn make_room(&mut self, protection: &Protection, length: u64) -> Result<(), Error> {
        if self.bytes + length > MERGED_BYTES_MAX {
            return Err(Error::MergeTooLarge { max: MERGED_BYTES_MAX as usize });
        }
        match &mut self.held {
            Some(held) => Ok(protection.grow(held, self.bytes + 2 * length)?),
            None => Ok(()),
        }
    }

    /// Takes what a part says but for its header.
    fn add(&mut self, part: RangeResponse) {
        self.keys += part.kvs.len() as i64;
        self.count += part.count;
        self.more |= part.more;
        let keys = RangeResponse { kvs: part.kvs, ..RangeResponse::default() }.encode_to_vec();
        self.bytes += keys.len() as u64;
        self.parts.push(keys.into());
        if let Some(held) = &mut self.held {
            held.shrink(self.bytes.max(ROOM));
        }
    }

    /// The message in pieces, in the order of its fields, and its room.
    fn into_pieces(self) -> (Vec<Bytes>, Option<Held>) {
        let Self { header, parts, bytes, count, more, held, .. } = self;
        let header = RangeResponse { header, ..RangeResponse::default() }.encode_to_vec();
        let end = RangeResponse { more, count, ..RangeResponse::default() }.encode_to_vec();
        let mut start = BytesMut::with_capacity(grpc::PREFIX_LEN + header.len());
        grpc::put_prefix(header.len() + bytes as usize + end.len(), &mut start);
        start.put_slice(&header);
        let pieces = [start.freeze()].into_iter().chain(parts).chain([end.into()]).collect();
        (pieces, held)
    }
}
