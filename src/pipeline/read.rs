//! Reads that others may ask, too: shared, kept, and cut into pages.

mod key;
mod reads;

pub use reads::Reads;

use super::{Whole, token::has_token};
use crate::{
    admission::{Class, Cost, Denied, Gate, Held, Kind, Plan, Shape, Subject},
    coalesce::{Fly, Given, Joined, Outcome, Seal, TooMany, Waiter},
    etcd::{
        key_range::KeyRange,
        method::{Effect, Method},
        proto::etcdserverpb::{RangeRequest, ResponseHeader},
    },
    grpc,
    paging::{Assembly, Page, Pages, Stopped},
    upstream::{self, Cluster, Lane, Outbound},
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderName, uri::PathAndQuery};
use key::Key;
use prost::Message;
use reads::Kept;
use std::sync::Arc;
use tokio::time::Instant;

/// A read, with all it needs to be made by somebody else than the call that asks for it. What rules
/// charge, they have charged each call with before it asks.
#[derive(Debug, Clone)]
pub struct Read {
    pub reads: Arc<Reads>,
    pub cluster: Arc<Cluster>,
    pub gate: Arc<Gate>,
    /// As it goes out: without a deadline, since others may wait longer.
    pub outbound: Outbound,
    pub request: RangeRequest,
    pub subject: Subject,
    pub plan: Plan,
    /// Of the call that asks.
    pub deadline: Option<Instant>,
}

/// What comes of a read.
pub type Flown = Result<Arc<Whole>, Failure>;

impl Outcome for Flown {
    fn given(&self) -> Option<&Given> {
        self.as_ref().ok()?.given()
    }
}

/// Why a read has no answer of etcd's.
#[derive(Debug, Clone)]
pub enum Failure {
    Upstream(upstream::Error),
    Denied(Denied),
    /// Whoever asked first was denied it, before it was sent. Whoever asks again has a turn of his own.
    OthersDenied(Denied),
    /// It is larger than what may be held: each is to read it for itself.
    TooLarge,
    /// It was larger than was thought, and there is no room for it now. Whoever asks again waits for
    /// as much.
    NoRoom,
}

/// Metadata that makes no difference to the answer and must not be that of one waiter.
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Whether several may get one answer to `request`, of this kind: not the question whether etcd
/// works, and not what a member may answer by itself, which promises nothing.
pub fn is_shareable(request: &RangeRequest, kind: Kind) -> bool {
    !request.serializable && kind.class != Class::Critical
}

impl Read {
    /// Joins those who wait for the same answer, if there are any whose read has not left: that
    /// costs etcd nothing.
    pub fn join(&self) -> Option<Waiter<Flown>> {
        if !self.reads.protection.coalesces(&self.plan) {
            return None;
        }
        let waiter = self.reads.flights.join_open(&self.key());
        self.reads.metrics.reads.inc_by(u64::from(waiter.is_some()));
        waiter
    }

    /// What those get who wait for a read that another has asked for.
    pub async fn joined(waiter: Waiter<Flown>) -> Flown {
        Self::flown(waiter).await.map_err(|failure| match failure {
            Failure::Denied(denied) => Failure::OthersDenied(denied),
            failure => failure,
        })
    }

    /// What those get who wait together.
    async fn flown(waiter: Waiter<Flown>) -> Flown {
        let lost = || upstream::Error::Lost { member: "none".into(), reason: "given up".into() };
        waiter.outcome().await.unwrap_or_else(|| Err(Failure::Upstream(lost())))
    }

    /// The answer, be it that of an earlier read, of one that others wait for, or of its own.
    pub async fn answer(self: Arc<Self>) -> Flown {
        if !self.reads.protection.coalesces(&self.plan) {
            self.check_deadline()?;
            return self.fly(self.outbound.worker, None).await;
        }
        if self.is_lasting()
            && let Some(kept) = self.reads.kept(&self.key())
        {
            return self.renewed(&kept).await;
        }
        self.share().await
    }

    pub(super) async fn share(self: Arc<Self>) -> Flown {
        self.reads.metrics.reads.inc();
        let (flights, worker) = (&self.reads.flights, self.outbound.worker);
        let fly = || Self::flight(Arc::clone(&self));
        let key = self.key();
        // The turn of a batch that is open was asked for before, and nobody knows when it comes.
        let joins = flights.is_open(&key);
        if !joins {
            self.check_deadline()?;
        }
        let too_many =
            |many: TooMany| Failure::Denied(self.reads.protection.too_many_waiters(many.waiting));
        let waiter = if self.is_light() {
            match flights.join(key, worker, fly).map_err(too_many)? {
                Joined::Wait(waiter) => waiter,
                Joined::Lead(lead) => {
                    let flown = self.fly(worker, None).await;
                    drop(lead);
                    return flown;
                }
            }
        } else {
            // It may have to wait for its turn, and is joined until then.
            flights.queue(key, worker, fly).map_err(too_many)?
        };
        if joins { Self::joined(waiter).await } else { Self::flown(waiter).await }
    }

    /// Refuses the call at once if no read that is begun now would be answered in its time.
    fn check_deadline(&self) -> Result<(), Failure> {
        let Self { gate, subject, plan, deadline, .. } = self;
        let checked = self.reads.protection.check_deadline(gate, subject, plan, *deadline);
        checked.map_err(Failure::Denied)
    }

    fn flight(self: Arc<Self>) -> Fly<Key, Flown> {
        Box::new(move |worker, seal| async move { self.fly(worker, Some(seal)).await }.boxed())
    }

    /// Reads at etcd, once its turn has come.
    async fn fly(&self, worker: usize, seal: Option<Seal<Key, Flown>>) -> Flown {
        let protection = &self.reads.protection;
        let turn = protection.turn(&self.gate, &self.subject, &self.plan, self.outbound.deadline);
        // Its place in the queue is given back when this returns.
        let permit = turn.await.map_err(Failure::Denied)?;
        let held = match self.is_light() {
            true => None,
            false => {
                let bytes = permit.estimate().bytes;
                let held = protection.hold(bytes, self.outbound.deadline).await;
                Some(held.map_err(Failure::Denied)?.ok_or(Failure::TooLarge)?)
            }
        };
        let departed = Instant::now();
        if let Some(seal) = seal {
            seal.close();
        }
        self.reads.metrics.flights.inc();
        let outbound = Outbound { worker, ..self.outbound.clone() };
        let flown = match self.pages() {
            true => self.list(outbound, held).await,
            false => self.whole(outbound, held).await,
        };
        flown.map(|whole| Arc::new(whole.since(departed)))
    }

    /// Whether it is worth cutting into pages, and can be.
    fn pages(&self) -> bool {
        let protection = &self.reads.protection;
        let known = protection.costs.learnt(&self.gate.cluster, &self.subject);
        let large = known.is_none_or(|cost| cost.bytes > 2 * protection.page_bytes());
        self.subject.shape == Shape::List
            && large
            && self.is_understood()
            && protection.pages(&self.plan)
    }

    /// A request with fields that this build does not know goes to etcd as it came.
    pub(super) fn is_understood(&self) -> bool {
        let body = self.outbound.body.clone();
        body.is_some_and(|body| grpc::Message::from_framed(body).is_all_in(&self.request))
    }

    /// Whether the answer is worth keeping: it stays the same for as long as etcd has its revision,
    /// and to renew it takes less than to read it. To a client that has a name at etcd it does not
    /// stay the same: what that may read changes, and only etcd knows.
    fn is_lasting(&self) -> bool {
        self.request.revision > 0 && !self.is_light() && !self.is_named()
    }

    /// Whether the client has a name at etcd, by a token; else it is to etcd what Seawall is.
    pub(super) fn is_named(&self) -> bool {
        has_token(&self.outbound.headers)
    }

    fn is_light(&self) -> bool {
        matches!(self.subject.class, Class::PointRead | Class::Probe)
    }

    /// The answer in one piece.
    async fn whole(&self, outbound: Outbound, mut held: Option<Held>) -> Result<Whole, Failure> {
        let mut answer =
            self.cluster.call(&outbound, Effect::Read).await.map_err(Failure::Upstream)?;
        let length = answer.length().await.map_err(Failure::Upstream)?.unwrap_or(0) as u64;
        self.make_room(&mut held, Cost { keys: 1, bytes: length })?;
        let message =
            match answer.message_up_to(u32::MAX as usize).await.map_err(Failure::Upstream)? {
                Ok(message) => message,
                Err(status) => return Ok(Whole::refused(status)),
            };
        if self.is_light() {
            return Ok(Whole::of(&message, held));
        }
        let step = self.reads.protection.page_bytes();
        // What cannot be taken apart is passed on as it is.
        let Ok(page) = Page::parse(&message.payload(), step) else {
            return Ok(Whole::of(&message, held));
        };
        let walked = page.keys.number.max(page.count.max(0) as u64);
        let cost = Cost { keys: walked, bytes: page.keys.bytes };
        if page.others {
            self.learn(cost);
            return Ok(Whole::of(&message, held).at(cost));
        }
        Ok(self.ready(Assembly::of(page), cost, held))
    }

    /// Takes the room that an answer needs of which so much is `seen`; small ones need none. Where it
    /// is not to be had, the next one need not begin to find that out.
    fn make_room(&self, held: &mut Option<Held>, seen: Cost) -> Result<(), Failure> {
        let memory = &self.reads.protection.memory;
        if seen.bytes > memory.limit() {
            self.learn_at_least(seen);
            return Err(Failure::TooLarge);
        }
        if let Some(held) = held {
            let grown = held.grow_to(seen.bytes);
            return grown.then_some(()).ok_or_else(|| {
                self.learn_at_least(seen);
                Failure::NoRoom
            });
        }
        if seen.bytes > SMALL_BYTES {
            *held = Some(memory.try_hold(seen.bytes).ok_or(Failure::TooLarge)?);
        }
        Ok(())
    }

    /// The answer page by page.
    async fn list(&self, outbound: Outbound, mut held: Option<Held>) -> Result<Whole, Failure> {
        for _ in 0..ATTEMPTS {
            let room = self.reads.protection.memory.limit();
            let mut pages = self.paged(outbound.clone()).up_to(room);
            match self.collect(&mut pages, &mut held).await {
                Ok(Err(failure)) => return Err(failure),
                Ok(Ok(list)) => {
                    let cost = Cost { keys: list.count() as u64, bytes: list.bytes() };
                    return Ok(self.ready(list, cost, held));
                }
                // The list was asked for as it is now, and now has moved on.
                Err(Stopped::Refused(status))
                    if self.request.revision <= 0
                        && Whole::refused(status.clone()).is_compacted() => {}
                Err(Stopped::Refused(status)) => return Ok(Whole::refused(status)),
                Err(Stopped::Failed(error)) => return Err(Failure::Upstream(error)),
                Err(Stopped::TooLarge { length }) => {
                    self.learn_at_least(Cost { keys: 1, bytes: length as u64 });
                    return Err(Failure::TooLarge);
                }
            }
        }
        self.whole(outbound, held).await
    }

    fn learn(&self, cost: Cost) {
        self.reads.protection.costs.learn(&self.gate.cluster, &self.subject, cost);
    }

    /// The next one waits for as much room.
    fn learn_at_least(&self, cost: Cost) {
        self.reads.protection.costs.learn_at_least(&self.gate.cluster, &self.subject, cost);
    }

    /// Reads all pages, unless they are more than may be held, or than there is room for.
    async fn collect(
        &self,
        pages: &mut Pages,
        held: &mut Option<Held>,
    ) -> Result<Result<Assembly, Failure>, Stopped> {
        let mut list = Assembly::default();
        while let Some(page) = pages.next().await {
            self.reads.metrics.pages.inc();
            list.push(page?);
            let seen = Cost { keys: list.count() as u64, bytes: list.bytes() };
            if let Err(failure) = self.make_room(held, seen) {
                return Ok(Err(failure));
            }
        }
        Ok(Ok(list))
    }

    /// The list's pages, to be read one after the other.
    pub fn paged(&self, outbound: Outbound) -> Pages {
        let protection = &self.reads.protection;
        let known = protection.costs.learnt(&self.gate.cluster, &self.subject);
        let size = known.filter(|cost| cost.keys > 0).map(|cost| cost.bytes / cost.keys);
        let splits = self.reads.splits(&self.cluster);
        let request = self.request.clone();
        Pages::new(&self.cluster, &splits, outbound, request, protection.page_bytes(), size)
    }

    /// Learns what the answer cost, and keeps it where it will not change.
    fn ready(&self, list: Assembly, cost: Cost, mut held: Option<Held>) -> Whole {
        self.learn(cost);
        if let Some(held) = &mut held {
            held.shrink(list.bytes());
        }
        if self.is_lasting() {
            self.reads.keep(self.key(), &list);
        }
        Whole::list(list, cost, held.map(Arc::new))
    }

    /// An answer that was kept, if etcd still has its revision, under the header that etcd would
    /// give it now: both are learnt by reading one key at that revision.
    async fn renewed(self: Arc<Self>, kept: &Kept) -> Flown {
        let asked = Arc::new(self.at_one_key(self.request.revision));
        let whole = asked.share().await?;
        let Ok(pieces) = &whole.result else { return Ok(whole) };
        let message = grpc::Message::from_framed(pieces.concat().into());
        let header = |bytes: &Bytes| ResponseHeader::decode(bytes.clone()).unwrap_or_default();
        let step = self.reads.protection.page_bytes();
        match Page::parse(&message.payload(), step) {
            Ok(page) if is_same_store(&header(&page.header), &header(kept.list.header())) => {
                self.reads.metrics.kept.inc();
                let list = kept.list.with_header(page.header);
                let held = Some(Arc::clone(&kept.held));
                Ok(Arc::new(Whole::list(list, Cost::default(), held)))
            }
            _ => self.share().await,
        }
    }

    /// The least read of `revision`: the same for all, whatever they want of it.
    pub(super) fn at_one_key(&self, revision: i64) -> Self {
        let request = RangeRequest {
            key: Bytes::from_static(b"\0"),
            revision,
            count_only: true,
            ..RangeRequest::default()
        };
        let body = Some(grpc::encode(&request));
        let path = PathAndQuery::from_static(Method::Range.path());
        let outbound = Outbound { path, body, lane: Lane::Light, ..self.outbound.clone() };
        let Kind { shape, class } = Kind::of(Shape::CurrentRevision);
        let keys = Some(KeyRange::single(request.key.clone()));
        let subject = Subject { shape, class, keys, ..self.subject.clone() };
        // A rule for one client must not hold the others up.
        Self { request, outbound, subject, plan: Plan::default(), ..self.clone() }
    }

    fn key(&self) -> Key {
        Key::of(self.cluster.number(), &self.outbound, self.plan.treatment())
    }
}

/// An answer of this size or less takes no room of its own: about what a connection keeps for each
/// call in any case.
const SMALL_BYTES: u64 = 64 << 10;

/// How often a list is begun anew that etcd compacts away beneath it.
const ATTEMPTS: u32 = 3;

/// Another cluster id is another store, whose history is another one, as is one that has gone back.
fn is_same_store(now: &ResponseHeader, before: &ResponseHeader) -> bool {
    now.cluster_id == before.cluster_id && now.revision >= before.revision
}

/// `outbound` without what is one client's own.
pub fn for_all(mut outbound: Outbound) -> Outbound {
    if outbound.headers.contains_key(&TIMEOUT) {
        Arc::make_mut(&mut outbound.headers).remove(&TIMEOUT);
    }
    Outbound { deadline: None, ..outbound }
}
