//! `KV`: writes and transactions.

use super::{Context, error::Error, materialize, merge, status};
use crate::{
    access::{self, Verb},
    admission::{Changes, Put, Refusal, RefusalKind, Shape, Subject, classify},
    etcd::{
        errors,
        key_range::KeyRange,
        method::Method,
        proto::etcdserverpb::{
            DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
            range_request::{SortOrder, SortTarget},
            request_op::Request,
        },
        wire,
    },
    grpc::{Incoming, Message, ReadError},
    pipeline::{self, Gone, Manner, Placed, Responder},
    routing::txn as keys_of,
    telemetry::audit::{self, audit},
    upstream::{self, Answer},
};
use std::{pin::pin, sync::Arc};
use tonic::Code;

pub(super) async fn put(context: Context, mut incoming: Incoming, responder: Responder) {
    let Some((request, message, responder)) =
        context.decode::<PutRequest>(&mut incoming, responder).await
    else {
        return;
    };
    let leases: Vec<_> = (request.lease != 0).then_some(request.lease).into_iter().collect();
    let needs = access::of_put(&request);
    let Some(responder) = context.allowed(&request, &message, needs, responder) else { return };
    let Some(responder) = context.allowed_leases(Verb::Write, &leases, responder).await else {
        return;
    };
    let placed = context.topology.owner(&request.key);
    let (kind, keys) = (classify::put(&request), KeyRange::single(request.key.clone()));
    let write = Write {
        placed,
        subject: context.subject(Method::Put, kind, Some(keys), request.value.len()),
        message: &message,
        puts: Vec::new(),
        deletes: Vec::new(),
        leases,
    };
    write.send(&context, Method::Put, responder).await;
}

pub(super) async fn delete_range(context: Context, mut incoming: Incoming, responder: Responder) {
    let Some((request, message, responder)) =
        context.decode::<DeleteRangeRequest>(&mut incoming, responder).await
    else {
        return;
    };
    let needs = access::of_delete(&request);
    let Some(responder) = context.allowed(&request, &message, needs, responder) else { return };
    let kind = classify::delete_range(&request);
    let single = request.range_end.is_empty();
    let keys = KeyRange::of(request.key, request.range_end);
    let placed = match context.topology.owners(&keys) {
        Ok(placed) => placed,
        Err(segments) => {
            let text =
                merge::spans(&context.topology, &keys, &segments, "cannot be deleted at once");
            return responder.status(&status::of(&Error::SpansClusters(text)));
        }
    };
    let write = Write {
        placed,
        puts: Vec::new(),
        deletes: if single { Vec::new() } else { vec![keys.clone()] },
        subject: context.subject(Method::DeleteRange, kind, Some(keys), 0),
        message: &message,
        leases: Vec::new(),
    };
    write.send(&context, Method::DeleteRange, responder).await;
}

pub(super) async fn txn(context: Context, mut incoming: Incoming, responder: Responder) {
    let Some((request, message, responder)) =
        context.decode::<TxnRequest>(&mut incoming, responder).await
    else {
        return;
    };
    // Each is asked about, and may be granted elsewhere.
    let mut leases: Vec<_> = keys_of::leases(&request).collect();
    leases.sort_unstable();
    leases.dedup();
    let needs = if context.judges() { access::of_txn(&request) } else { Vec::new() };
    let Some(responder) = context.allowed(&request, &message, needs, responder) else { return };
    let Some(responder) = context.allowed_leases(Verb::Write, &leases, responder).await else {
        return;
    };
    if let Err(error) = check_sorts(&request) {
        return responder.status(&status::of(&error));
    }
    let index = match keys_of::locate_txn(&context.topology.table, &request) {
        Ok(index) => *index,
        Err(spans) => {
            let named = spans.map(|index| Arc::clone(&context.topology.clusters[index].name));
            return responder.status(&status::of(&Error::SpansClusters(named.to_string())));
        }
    };
    let (kind, keys) = (classify::txn(&request), keys_of::keys(&request).next());
    let subject = context.subject(Method::Txn, kind, keys, keys_of::value_size(&request));
    let write = Write {
        placed: context.topology.at(index),
        subject: subject.with_others(keys_of::keys(&request)),
        message: &message,
        puts: if kind.shape == Shape::Txn { puts(&request) } else { Vec::new() },
        deletes: keys_of::deleted_ranges(&request).collect(),
        leases,
    };
    write.send(&context, Method::Txn, responder).await;
}

/// What a transaction puts that is not one of Kubernetes', which put what they are about.
fn puts(request: &TxnRequest) -> Vec<Put> {
    let put = |put: &PutRequest| Put { key: put.key.clone(), size: put.value.len() as u64 };
    keys_of::puts(request).map(put).collect()
}

/// A write on its way.
struct Write<'c> {
    placed: Placed<'c>,
    subject: Subject,
    message: &'c Message,
    puts: Vec<Put>,
    /// Ranges that it deletes.
    deletes: Vec<KeyRange>,
    /// Leases that it attaches keys to, which may not exist yet where its keys live.
    leases: Vec<i64>,
}

impl Write<'_> {
    async fn send(self, context: &Context, method: Method, mut responder: Responder) {
        let Self { placed, subject, message, puts, deletes, leases } = self;
        let manner = Manner::of(method, subject.class);
        context.attribute(&placed, &subject, message, &mut responder);
        let changes = Changes { puts: &puts, deletes: &deletes, overridden: context.insists() };
        let entering = match subject.is_write() {
            true => context.enter_to_write(&placed, &subject, changes, &mut responder).await,
            false => context.enter(&placed, &subject, &mut responder).await,
        };
        let mut permit = match entering {
            Ok(Ok(permit)) => permit,
            Ok(Err(error)) => {
                tell_refusal(&subject, &error);
                return responder.status(&status::of(&error));
            }
            Err(Gone) => return,
        };
        let outbound = pipeline::outbound(&placed, &context.call, manner, Some(message.framed()));
        // From here on a client that leaves does not take back what it has sent.
        permit.send();
        let writing = async {
            let mut answer = if placed.index == 0 || leases.is_empty() {
                pipeline::resend(&placed, &outbound, manner).await?
            } else {
                let leases = &leases;
                Box::pin(materialize::with_leases(context, &placed, &outbound, manner, leases))
                    .await?
            };
            if permit.grows()
                && let Some(stored) = has_stored(method, &mut answer).await?
            {
                permit.end(stored);
            }
            Ok(answer)
        };
        let answered = responder.unless_gone(pin!(writing)).await;
        responder.record.in_turn(permit);
        context.finish(placed, answered, responder).await;
    }
}

/// Writes down that a write was refused. What came at a bad time may come again, and a delete of many
/// keys was written down with their number, whoever forbids it.
fn tell_refusal(subject: &Subject, error: &Error) {
    let Error::Refused(Refusal { kind, rule, reason, .. }) = error else { return };
    if !subject.is_write() || matches!(kind, RefusalKind::Load | RefusalKind::WideDelete) {
        return;
    }
    let (client, address) = (&*subject.client.name, subject.client.address);
    let method = subject.method.map(Method::name);
    let keys = subject.keys.as_ref().map(KeyRange::to_string);
    audit::of_client(|| {
        audit!("write_refused", client, %address, method, keys, rule = &**rule, reason, "a write was refused");
    });
}

/// `TxnResponse.succeeded`, which stands behind the header: four numbers of at most eleven bytes.
const SUCCEEDED: u32 = 2;
const HEAD: usize = 64;

/// Whether etcd has done what it was asked to, if it says so. A transaction may have gone the other
/// way.
async fn has_stored(method: Method, answer: &mut Answer) -> Result<Option<bool>, upstream::Error> {
    match answer.refusal().map(|status| status.code()) {
        // It may have done it all the same.
        Some(Code::Unavailable | Code::DeadlineExceeded | Code::Unknown) => return Ok(None),
        Some(_) => return Ok(Some(false)),
        None if method != Method::Txn => return Ok(Some(true)),
        None => {}
    }
    let body = &mut answer.body;
    let peeked = match body.peek_length().await {
        Ok(Some(_)) => body.peek_payload(HEAD).await,
        Ok(None) => return Ok(None),
        Err(error) => Err(error),
    };
    match peeked {
        Ok(head) => Ok(Some(wire::fields(&head).flatten().any(|field| field.number == SUCCEEDED))),
        Err(ReadError::Broken(error)) => Err(answer.broken(&error)),
        // What is no message says nothing, and goes on as it is.
        Err(_) => Ok(None),
    }
}

/// A sort that etcd does not know ends the process of 3.4 and 3.5; 3.6 answers like this.
pub(super) fn check_sort(request: &RangeRequest) -> Result<(), Error> {
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
