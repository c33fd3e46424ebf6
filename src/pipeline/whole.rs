//! Answers that are held whole, to be given to several calls.

use super::Responder;
use crate::{
    admission::{Cost, Held},
    coalesce::Given,
    etcd::errors,
    grpc::Message,
    paging::Assembly,
};
use bytes::Bytes;
use parking_lot::Mutex;
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
    /// Its room in memory.
    _held: Option<Held>,
    /// That it is a list, and until when it is sent to somebody.
    given: Option<Given>,
}

impl Whole {
    pub fn of(message: &Message) -> Self {
        let cost = Cost { keys: 1, bytes: message.framed().len() as u64 };
        Self::new(Ok(vec![message.framed()]), cost)
    }

    /// A list; the key-values' bytes are what `held` was taken for.
    pub fn list(assembly: Assembly, cost: Cost, held: Option<Held>) -> Self {
        let largest = assembly.largest();
        let given = Some(Given::default());
        Self { largest, _held: held, given, ..Self::new(Ok(assembly.finish()), cost) }
    }

    pub fn refused(status: Status) -> Self {
        Self::new(Err(status), Cost::default())
    }

    fn new(result: Result<Vec<Bytes>, Status>, cost: Cost) -> Self {
        Self { result, cost: Mutex::new(Some(cost)), largest: None, _held: None, given: None }
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

    /// Answers a call with it.
    pub async fn send(&self, responder: Responder) {
        match &self.result {
            Ok(pieces) => responder.pieces(pieces).await,
            Err(status) => responder.status(status),
        }
    }
}
