//! Answers that are held whole, to be given to several calls.

use super::{Patience, Responder, send_pieces};
use crate::{
    admission::{Cost, Held, Protection},
    coalesce::Given,
    etcd::errors,
    grpc::Message,
    paging::Assembly,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tonic::Status;

/// A whole answer to a read. Those who get it share its bytes.
#[derive(Debug)]
pub struct Whole {
    /// The framed message in pieces, or etcd's error.
    pub result: Result<Vec<Bytes>, Status>,
    /// What it has cost etcd: taken by the first who answers with it, and nothing for the others.
    cost: Mutex<Option<Cost>>,
    /// The key of the largest key-value, and its size.
    pub largest: Option<(Bytes, u64)>,
    /// Its room in memory; none where it is small.
    held: Option<Arc<Held>>,
    /// That it is a list, and until when it is sent to somebody.
    given: Option<Given>,
    /// When its turn at etcd had come, and room for it.
    departed: Option<Instant>,
}

impl Whole {
    /// A message as it came, for which `held` was taken.
    pub fn of(message: &Message, held: Option<Held>) -> Self {
        let cost = Cost { keys: 1, bytes: message.framed().len() as u64 };
        Self { held: held.map(Arc::new), ..Self::new(Ok(vec![message.framed()]), cost) }
    }

    /// The same, with what it has cost etcd.
    pub fn at(self, cost: Cost) -> Self {
        Self { cost: Mutex::new(Some(cost)), ..self }
    }

    /// A list; the key-values' bytes are what `held` was taken for.
    pub fn list(assembly: Assembly, cost: Cost, held: Option<Arc<Held>>) -> Self {
        let largest = assembly.largest();
        let given = Some(Given::default());
        Self { largest, held, given, ..Self::new(Ok(assembly.finish()), cost) }
    }

    /// The same, read by a flight that left then.
    pub fn since(self, departed: Instant) -> Self {
        Self { departed: Some(departed), ..self }
    }

    pub fn refused(status: Status) -> Self {
        Self::new(Err(status), Cost::default())
    }

    fn new(result: Result<Vec<Bytes>, Status>, cost: Cost) -> Self {
        let cost = Mutex::new(Some(cost));
        Self { result, cost, largest: None, held: None, given: None, departed: None }
    }

    /// What a call that asked for it at `asked` waited until its turn had come.
    pub fn waited(&self, asked: Instant) -> Duration {
        self.departed.map_or(Duration::ZERO, |departed| departed.saturating_duration_since(asked))
    }

    /// Those it is sent to, if that takes time.
    pub fn given(&self) -> Option<&Given> {
        self.given.as_ref()
    }

    /// What it has cost, the first time.
    pub fn take_cost(&self) -> Option<Cost> {
        self.cost.lock().take()
    }

    /// Whether etcd says by it that the revision is compacted.
    pub fn is_compacted(&self) -> bool {
        let told = |status: &Status| (status.code(), status.message()) == errors::COMPACTED;
        self.result.as_ref().is_err_and(told)
    }

    /// Answers a call with it, as its client takes it.
    pub async fn send(&self, responder: Responder, protection: &Arc<Protection>) {
        let patience = match &self.held {
            Some(_) => Patience::with_room(protection),
            None => Patience::new(protection),
        };
        match &self.result {
            Ok(pieces) => send_pieces(pieces, responder, patience).await,
            Err(status) => responder.status(status),
        }
    }
}
