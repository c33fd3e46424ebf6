//! `Range` and `RangeStream`: shared, paged, or forwarded as they are.

use super::{Context, error::Error, kv::check_sort, merge, status};
use crate::{
    access,
    admission::{Cost, Permit, Plan, Subject, classify},
    etcd::{
        key_range::KeyRange,
        method::Method,
        proto::etcdserverpb::{
            RangeRequest,
            range_request::{SortOrder, SortTarget},
        },
    },
    grpc::{self, Incoming, Message},
    mirror::Pass,
    paging::{PAGES_HELD, Pages, Stopped, stream_chunk, stream_end},
    pipeline::{
        self, Answering, Failure, Flown, Gone, Manner, NotMirrored, Patience, Placed, Read,
        Responder, Whole,
    },
    upstream,
};
use std::{pin::pin, sync::Arc};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

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
    let needs = [access::of_range(&request)];
    let Some(mut responder) = context.allowed(&request, &message, needs, responder) else { return };
    if let Err(error) = check_sort(&request) {
        return responder.status(&status::of(&error));
    }
    let kind = classify::range(&request);
    let manner = Manner::of_range(method, kind);
    let keys = KeyRange::of(request.key.clone(), request.range_end.clone());
    let placed = match context.topology.owners(&keys) {
        Ok(placed) => placed,
        Err(segments) => {
            if let Err(error) = merge::check(&context, method, &request, &segments) {
                return responder.status(&status::of(&error));
            }
            // Its turn is the default cluster's, where most of such a range lies.
            let subject = context.subject(method, kind, Some(keys), 0);
            let default = context.topology.default();
            context.attribute(&default, &subject, &message, &mut responder);
            note_limit(&request, &mut responder);
            match context.enter(&default, &subject, &mut responder).await {
                Ok(Ok(permit)) => responder.record.in_turn(permit),
                Ok(Err(error)) => return responder.status(&status::of(&error)),
                Err(Gone) => return,
            }
            let merging = merge::range(&context, manner, &request, &segments, responder);
            return Box::pin(merging).await;
        }
    };
    let subject = context.subject(method, kind, Some(keys), 0);
    context.attribute(&placed, &subject, &message, &mut responder);
    note_limit(&request, &mut responder);
    let plan = match context.plan(&placed, &subject, &mut responder).await {
        Ok(Ok(plan)) => plan,
        Ok(Err(error)) => return responder.status(&status::of(&error)),
        Err(Gone) => return,
    };
    let protection = &context.edge.protection;
    let asked = Asked { context: &context, placed, manner, message: &message, subject, plan };
    let responder = match asked.recall(&request, responder).await {
        Some(responder) => responder,
        None => return,
    };
    if method == Method::RangeStream {
        let here = !placed.cluster.streams_ranges() && protection.pages(&asked.plan);
        return match here {
            true => Box::pin(asked.stream(request, responder)).await,
            false => asked.forward(responder).await,
        };
    }
    let shared = pipeline::is_shareable(&request, kind)
        && (protection.coalesces(&asked.plan) || protection.pages(&asked.plan));
    match shared {
        true => asked.share(request, responder).await,
        false => asked.forward(responder).await,
    }
}

/// For the record of calls.
fn note_limit(request: &RangeRequest, responder: &mut Responder) {
    if let Some(account) = responder.record.account() {
        account.limit = u64::try_from(request.limit).unwrap_or_default();
    }
}

/// What a client names in `seawall-override` to be answered by etcd itself.
pub(super) const MIRROR: &str = "mirror";

/// A range that was asked for, and what is to become of it.
struct Asked<'c> {
    context: &'c Context,
    placed: Placed<'c>,
    manner: Manner,
    message: &'c Message,
    subject: Subject,
    plan: Plan,
}

impl Asked<'_> {
    fn read(&self, request: RangeRequest) -> Read {
        let call = &self.context.call;
        let body = Some(self.message.framed());
        let outbound = pipeline::outbound(&self.placed, call, self.manner, body);
        Read {
            reads: Arc::clone(&self.context.edge.reads),
            cluster: Arc::clone(self.placed.cluster),
            gate: Arc::clone(self.placed.gate()),
            outbound: pipeline::for_all(outbound),
            request,
            subject: self.subject.clone(),
            plan: self.plan.clone(),
            deadline: call.deadline,
        }
    }

    /// Answers from memory; gives the responder back where that cannot be.
    async fn recall(&self, request: &RangeRequest, mut responder: Responder) -> Option<Responder> {
        let call = &self.context.call;
        let streams = call.method == Some(Method::RangeStream);
        if streams && refusal(request).is_some() {
            return Some(responder);
        }
        let recalls = self.context.edge.protection.recalls(&self.plan);
        if !recalls || call.overrides.as_deref() == Some(MIRROR) {
            self.placed.mirror().metrics.pass(Pass::Off);
            return Some(responder);
        }
        let read = self.read(request.clone());
        let recalling = pin!(read.mirrored(self.placed.mirror()));
        let Ok(recalled) = responder.unless_gone(pin!(self.in_time(recalling))).await else {
            return None;
        };
        match recalled {
            None => {
                responder.status(&status::of(&Error::Upstream(upstream::Error::Deadline)));
                None
            }
            Some(Err(NotMirrored::Pass(_))) => Some(responder),
            Some(Err(NotMirrored::Refused(refusal))) => {
                responder.status(&refusal);
                None
            }
            Some(Ok(mirrored)) => {
                if let Some(account) = responder.record.account() {
                    account.cost = Some(Cost::default());
                }
                let patience = Patience::new(&self.context.edge.protection);
                if streams {
                    mirrored.stream(responder, patience).await;
                    return None;
                }
                mirrored.send(responder, patience).await.err()
            }
        }
    }

    /// What comes of `work` before the client's deadline.
    async fn in_time<T>(&self, work: impl Future<Output = T> + Unpin) -> Option<T> {
        match self.context.call.deadline {
            Some(deadline) => timeout_at(deadline, work).await.ok(),
            None => Some(work.await),
        }
    }

    /// Answers with what others may get, too.
    async fn share(self, request: RangeRequest, mut responder: Responder) {
        let asked = Instant::now();
        let read = Arc::new(self.read(request));
        let shared = match self.read_shared(&read, &mut responder).await {
            Ok(Err(Failure::NoRoom | Failure::OthersDenied(_))) => {
                self.read_shared(&read, &mut responder).await
            }
            shared => shared,
        };
        let Ok(shared) = shared else { return };
        match shared {
            Ok(whole) => {
                if let Some(account) = responder.record.account() {
                    account.waited += whole.waited(asked);
                }
                whole.send(responder, &self.context.edge.protection).await;
            }
            Err(Failure::TooLarge | Failure::NoRoom) => self.forward(responder).await,
            Err(Failure::Upstream(error)) => {
                responder.status(&status::of(&Error::Upstream(error)));
            }
            Err(Failure::Denied(denied) | Failure::OthersDenied(denied)) => {
                responder.status(&status::of(&denied.into()));
            }
        }
    }

    /// The answer that others may get, too. The rules that this call obeys hold up nobody else, and not
    /// this one either where it joins others.
    async fn read_shared(
        &self,
        read: &Arc<Read>,
        responder: &mut Responder,
    ) -> Result<Flown, Gone> {
        let Self { context, placed, subject, plan, .. } = self;
        let open = if plan.charges() { read.join() } else { None };
        let permit = match &open {
            None if plan.charges() => {
                let protection = &context.edge.protection;
                let deadline = context.call.deadline;
                let charging = protection.charge(placed.gate(), subject, plan, deadline);
                match responder.unless_gone(pin!(charging)).await? {
                    Ok(permit) => permit,
                    Err(denied) => return Ok(Err(Failure::Denied(denied))),
                }
            }
            _ => Permit::default(),
        };
        let reading = async {
            match open {
                Some(waiter) => Read::joined(waiter).await,
                None => Arc::clone(read).answer().await,
            }
        };
        let reading = pin!(reading);
        let flown = responder.unless_gone(pin!(self.in_time(reading))).await?;
        let flown = flown.unwrap_or(Err(Failure::Upstream(upstream::Error::Deadline)));
        let cost = flown.as_ref().ok().map(|whole| self.settled(whole));
        // What has failed has cost nothing, as far as is known.
        permit.settle(cost.unwrap_or_default());
        if let Some(account) = responder.record.account() {
            account.cost = cost;
        }
        Ok(flown)
    }

    /// What the call has cost: all of it for the first who gets the answer, nothing for the others.
    fn settled(&self, whole: &Whole) -> Cost {
        let Some(cost) = whole.take_cost() else { return Cost::default() };
        if let Some((key, size)) = &whole.largest {
            self.context.object(&self.placed, key, *size);
        }
        cost
    }

    /// Passes the answer on as it comes.
    async fn forward(self, mut responder: Responder) {
        let Self { context, placed, manner, message, subject, plan } = self;
        match context.enter_by(&placed, &subject, &plan, &mut responder).await {
            Ok(Ok(permit)) => responder.record.in_turn(permit),
            Ok(Err(error)) => return responder.status(&status::of(&error)),
            Err(Gone) => return,
        }
        context.forward(placed, manner, message, responder).await;
    }

    /// Answers `RangeStream` in front of an etcd that has none.
    async fn stream(self, request: RangeRequest, mut responder: Responder) {
        if let Some(refusal) = refusal(&request) {
            return responder.status(&refusal);
        }
        let (context, placed) = (self.context, self.placed);
        match context.enter_by(&placed, &self.subject, &self.plan, &mut responder).await {
            Ok(Ok(permit)) => responder.record.in_turn(permit),
            Ok(Err(error)) => return responder.status(&status::of(&error)),
            Err(Gone) => return,
        }
        let protection = &context.edge.protection;
        let page_bytes = protection.page_bytes().min(protection.memory.limit() / PAGES_HELD);
        let holding = protection.hold(PAGES_HELD * page_bytes, context.call.deadline);
        let _room = match responder.unless_gone(Box::pin(holding)).await {
            Ok(Ok(room)) => room,
            Ok(Err(denied)) => return responder.status(&status::of(&denied.into())),
            Err(Gone) => return,
        };
        let read = self.read(request.clone());
        let mut outbound = read.outbound.clone();
        outbound.path = http::uri::PathAndQuery::from_static(Method::Range.path());
        outbound.deadline = context.call.deadline;
        let pages = read.paged(outbound).up_to(PAGES_HELD * page_bytes);
        let patience = Patience::with_room(protection);
        stream_pages(pages, &request, responder, patience).await;
    }
}

/// What etcd 3.7 does not stream, or not right: where an order is only implied by its target, it sorts
/// each chunk by itself, and goes on behind the last key of that, so that some keys come twice and
/// others never.
fn refusal(request: &RangeRequest) -> Option<Status> {
    let by_key = request.sort_target() == SortTarget::Key;
    let sorted = match request.sort_order() {
        SortOrder::None => !by_key && !request.range_end.is_empty() && !request.count_only,
        SortOrder::Ascend => !by_key,
        SortOrder::Descend => true,
    };
    let text = if sorted {
        "RangeStream does not support custom sort orders"
    } else if request.is_filtered() {
        "RangeStream does not support revision filters"
    } else {
        return None;
    };
    Some(Status::new(Code::Unimplemented, text))
}

/// Sends each page as it comes, and puts down what those that came have cost.
async fn stream_pages(
    mut pages: Pages,
    request: &RangeRequest,
    mut responder: Responder,
    patience: Patience,
) {
    let first = match responder.unless_gone(pin!(pages.next_that_fits())).await {
        Ok(Some(Ok(page))) => page,
        Ok(Some(Err(stopped))) => {
            return responder.status(&stopped_status(stopped));
        }
        Ok(None) | Err(Gone) => return,
    };
    let Ok(mut answer) = Answering::open(responder, patience) else { return };
    // What follows the limit is counted with the first page, and counts.
    let (header, total) = (first.header.clone(), first.count);
    let (mut next, mut sent, mut bytes) = (Some(Ok(first)), 0, 0);
    let end = loop {
        let page = match next.take() {
            Some(Ok(page)) => page,
            Some(Err(stopped)) => break Err(stopped_status(stopped)),
            None => {
                let count = if request.limit > 0 || request.count_only { total } else { sent };
                let more = !request.count_only && sent < count;
                break Ok(stream_end(&header, more, count));
            }
        };
        sent += page.keys.number as i64;
        bytes += page.keys.bytes;
        if let Some(account) = answer.record().account() {
            account.cost = Some(Cost { keys: sent.max(total) as u64, bytes });
        }
        if !page.kvs.is_empty() {
            let sending = answer.send_pieces(&stream_chunk(page.kvs)).await;
            let Some(sending) = sending else { return };
            answer = sending;
        }
        next = pages.next_that_fits().await;
    };
    match end {
        Ok(last) => {
            if let Some(answer) = answer.send_pieces(&[last]).await {
                answer.finish(&Status::ok(""));
            }
        }
        Err(status) => answer.finish(&status),
    }
}

fn stopped_status(stopped: Stopped) -> Status {
    match stopped {
        Stopped::Refused(status) => status,
        Stopped::Failed(error) => status::of(&Error::Upstream(error)),
        Stopped::TooLarge { length } => {
            status::of(&Error::Read(grpc::ReadError::TooLarge { length, max: u32::MAX as usize }))
        }
    }
}
