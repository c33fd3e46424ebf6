//! Answers from memory, at a revision that etcd names after the call has arrived.

use super::{
    Patience, Read, Responder,
    answering::{Answering, CHUNK},
};
use crate::{
    admission::{Class, Mode, Shape},
    etcd::{
        errors,
        key_range::KeyRange,
        proto::etcdserverpb::{RangeResponse, ResponseHeader},
    },
    grpc::Message,
    mirror::{Collection, Found, Mirror, Pass, Snapshot, Store, Tier, answers},
    sabotage::Sabotage,
};
use http::HeaderName;
use prost::Message as _;
use std::sync::Arc;
use tonic::Status;

/// An answer from memory.
#[derive(Debug)]
pub struct Mirrored {
    found: Found,
    header: ResponseHeader,
}

/// Why there is none.
#[derive(Debug)]
pub enum NotMirrored {
    /// It is for etcd to answer.
    Pass(Pass),
    /// etcd has refused the revision.
    Refused(Status),
}

impl From<Pass> for NotMirrored {
    fn from(pass: Pass) -> Self {
        Self::Pass(pass)
    }
}

/// What a member without a leader answers by itself is refused to clients that send this.
const HAS_LEADER: HeaderName = HeaderName::from_static("hasleader");

impl Read {
    /// The answer from memory, counted either way.
    ///
    /// # Errors
    ///
    /// When etcd has to be asked, or has refused already.
    pub async fn mirrored(&self, mirror: &Mirror) -> Result<Mirrored, NotMirrored> {
        let answer = match self.reads.protection.mirror() {
            Mode::Observe => return Err(self.observed(mirror).into()),
            _ => self.recall(mirror).await,
        };
        match &answer {
            Err(NotMirrored::Pass(pass)) => mirror.metrics.pass(*pass),
            Err(NotMirrored::Refused(_)) | Ok(_) => _ = mirror.metrics.answers.inc(),
        }
        answer
    }

    /// Counts what it would do, and neither waits nor asks etcd for that.
    fn observed(&self, mirror: &Mirror) -> Pass {
        let held = self.collection(mirror).and_then(|collection| self.held(mirror, &collection));
        let found = held.and_then(|store| {
            let revision = if self.request.revision > 0 { self.request.revision } else { i64::MAX };
            self.find(&*store.at(revision).map_err(|_| Pass::Past)?)
        });
        match found {
            Ok(_) => _ = mirror.metrics.would_answer.inc(),
            Err(pass) => mirror.metrics.pass(pass),
        }
        Pass::Off
    }

    async fn recall(&self, mirror: &Mirror) -> Result<Mirrored, NotMirrored> {
        let collection = self.collection(mirror)?;
        match self.held(mirror, &collection) {
            Err(Pass::Cold | Pass::Tier) if self.is_worth_loading() => {
                mirror.loaded(&collection, self.tier(), self.deadline).await?;
            }
            held => drop(held?),
        }
        match self.request.revision {
            1.. => self.recall_past(mirror, &collection).await,
            _ => self.recall_newest(mirror, &collection).await,
        }
    }

    /// What is held of a collection, if that is enough; else it is loaded if this read is worth it.
    fn held(&self, mirror: &Mirror, collection: &Arc<Collection>) -> Result<Arc<Store>, Pass> {
        mirror.store(collection, self.tier(), self.is_worth_loading())
    }

    /// What it takes to answer.
    fn tier(&self) -> Tier {
        if answers(&self.request, Tier::Index) { Tier::Index } else { Tier::Value }
    }

    /// A single key is no reason to read all that are beside it.
    fn is_worth_loading(&self) -> bool {
        !self.request.range_end.is_empty()
    }

    /// The collection that may answer; nothing of the client's own must stand in the way.
    fn collection(&self, mirror: &Mirror) -> Result<Arc<Collection>, Pass> {
        let check = self.subject.shape == Shape::CheckPage;
        if self.subject.class == Class::Critical
            || check && !mirror.config().consistency_checks
            || self.is_named()
            || !self.is_understood()
            || self.request.serializable && self.outbound.headers.contains_key(HAS_LEADER)
        {
            return Err(Pass::Off);
        }
        let keys = KeyRange::of(self.request.key.clone(), self.request.range_end.clone());
        mirror.collection(&keys, self.is_worth_loading())
    }

    async fn recall_newest(
        &self,
        mirror: &Mirror,
        collection: &Collection,
    ) -> Result<Mirrored, NotMirrored> {
        let header = match self.request.serializable || Sabotage::SkipProbe.is_on() {
            // What a member may answer without asking the others.
            true => self.known_header(mirror)?,
            false => self.probe(mirror, 0).await?,
        };
        let reached = mirror.reached(header.revision, header.cluster_id).await?;
        // It may have been given up while this waited.
        let snapshot = collection.snapshot().ok_or(Pass::Cold)?;
        let found = self.find(&snapshot)?;
        // The feed may be further than it has said, in this collection.
        let revision = reached.max(snapshot.revision);
        Ok(Mirrored { found, header: ResponseHeader { revision, ..header } })
    }

    async fn recall_past(
        &self,
        mirror: &Mirror,
        collection: &Collection,
    ) -> Result<Mirrored, NotMirrored> {
        let revision = self.request.revision;
        // That etcd still has the revision, and has it already, only etcd can say.
        let header = self.probe(mirror, revision).await?;
        mirror.reached(revision, header.cluster_id).await?;
        let store = collection.store().ok_or(Pass::Cold)?;
        let snapshot = store.at(revision).map_err(|_| Pass::Past)?;
        let found = self.find(&snapshot)?;
        Ok(Mirrored { found, header })
    }

    fn find(&self, snapshot: &Snapshot) -> Result<Found, Pass> {
        let found = Found::of(snapshot, &self.request).ok_or(Pass::Tier)?;
        // etcd 3.7 leaves them out.
        let differs = self.cluster.may_stream_ranges() && found.shows_leases_of_keys();
        if differs { Err(Pass::Tier) } else { Ok(found) }
    }

    /// What etcd has said of itself last.
    fn known_header(&self, mirror: &Mirror) -> Result<ResponseHeader, Pass> {
        let header = self.cluster.identity().header;
        let same = header.cluster_id == mirror.position().cluster_id;
        if same { Ok(header) } else { Err(Pass::Behind) }
    }

    /// What etcd says of itself and of `revision` to a read that is sent after this call; reads that
    /// arrive together share one.
    ///
    /// # Errors
    ///
    /// When etcd has to be asked, or has refused the revision.
    pub async fn probe(
        &self,
        mirror: &Mirror,
        revision: i64,
    ) -> Result<ResponseHeader, NotMirrored> {
        let before = mirror.position();
        let header = self.header_at(revision).await?;
        if !mirror.is_of(&header, before) {
            return Err(Pass::Behind.into());
        }
        Ok(header)
    }

    /// The header of a read of `revision` that is sent after this call; others share it.
    ///
    /// # Errors
    ///
    /// When etcd refuses the revision, or does not answer.
    pub async fn header_at(&self, revision: i64) -> Result<ResponseHeader, NotMirrored> {
        let flown = Arc::new(self.at_one_key(revision)).share().await;
        let whole = match flown {
            Ok(whole) => whole,
            Err(_) => return Err(Pass::Behind.into()),
        };
        let pieces = match &whole.result {
            Ok(pieces) => pieces,
            Err(status) if is_about_revision(status) => {
                return Err(NotMirrored::Refused(status.clone()));
            }
            Err(_) => return Err(Pass::Behind.into()),
        };
        let message = Message::from_framed(pieces.concat().into());
        let response = RangeResponse::decode(message.payload()).unwrap_or_default();
        Ok(response.header.ok_or(Pass::Behind)?)
    }
}

fn is_about_revision(status: &Status) -> bool {
    [errors::COMPACTED, errors::FUTURE_REVISION].contains(&(status.code(), status.message()))
}

impl Mirrored {
    /// Sends the answer as the client takes it.
    ///
    /// # Errors
    ///
    /// With the responder, when the answer is longer than any message.
    pub async fn send(self, responder: Responder, patience: Patience) -> Result<(), Responder> {
        let header = self.header.encode_to_vec();
        let Some(mut response) = self.found.response(&header) else { return Err(responder) };
        let mut left = response.length();
        let Ok(mut answer) = Answering::open(responder, patience) else { return Ok(()) };
        while let Some(chunk) = response.next_chunk(CHUNK) {
            let length = chunk.len();
            answer = match answer.send(chunk, left).await {
                Some(answer) => answer,
                None => return Ok(()),
            };
            left -= length;
        }
        answer.finish(&Status::ok(""));
        Ok(())
    }

    /// The same as the messages of a `RangeStream`.
    pub async fn stream(self, responder: Responder, patience: Patience) {
        let mut stream = self.found.stream(&self.header.encode_to_vec());
        let Ok(mut answer) = Answering::open(responder, patience) else { return };
        while let Some(pieces) = stream.next_message(CHUNK) {
            for piece in pieces {
                let left = piece.len() + stream.left();
                answer = match answer.send(piece, left).await {
                    Some(answer) => answer,
                    None => return,
                };
            }
        }
        answer.finish(&Status::ok(""));
    }
}
