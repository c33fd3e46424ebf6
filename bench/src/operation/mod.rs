//! What is asked of a target, and what is a right answer.

mod control;
mod counter;
mod ground;
mod list;
mod read;
mod write;

pub(crate) use ground::{Ground, Whole};

use crate::{
    client::{Connection, Failure},
    measure::Operation,
    scenario::Ask,
};
use anyhow::Result;
use control::{Grant, Health};
use counter::Counter;
use list::List;
pub(crate) use list::Pages;
use read::{Count, Get, Revision};
use std::sync::Arc;
pub(crate) use write::Put;
use write::{Churn, Create, Update};

/// One of a workload's operations, which it performs again and again.
pub(crate) enum Asked {
    Get(Get),
    Revision(Revision),
    List(List),
    Pages(Pages),
    Count(Count),
    Put(Put),
    Update(Update),
    Create(Create),
    Churn(Churn),
    Health(Health),
    Grant(Grant),
    Counter(Counter),
}

impl Asked {
    /// The `index`-th of `of` loops of a workload.
    pub(crate) fn new(ask: Ask, ground: &Arc<Ground>, index: usize, of: usize) -> Self {
        let ground = Arc::clone(ground);
        match ask {
            Ask::Get { of } => Self::Get(Get::new(ground, of, index)),
            Ask::Revision { of } => Self::Revision(Revision::new(ground, of)),
            Ask::List { of, own } => Self::List(List::new(ground, of, own.then_some(index))),
            Ask::Pages { of, limit, pinned } => Self::Pages(Pages::new(ground, of, limit, pinned)),
            Ask::Count { of } => Self::Count(Count::new(ground, of)),
            Ask::Put { of: resource } => Self::Put(Put::new(ground, resource, index, of)),
            Ask::Update { of: resource } => Self::Update(Update::new(ground, resource, index, of)),
            Ask::Create { of } => Self::Create(Create::new(ground, of, index)),
            Ask::Churn { of } => Self::Churn(Churn::new(ground, of, index)),
            Ask::Health => Self::Health(Health::new(ground)),
            Ask::Grant { ttl } => Self::Grant(Grant { ttl }),
            Ask::Counter { of } => Self::Counter(Counter::new(ground, of)),
        }
    }
}

impl Operation for Asked {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        match self {
            Self::Get(get) => get.perform(connection).await,
            Self::Revision(revision) => revision.perform(connection).await,
            Self::List(list) => list.perform(connection).await,
            Self::Pages(pages) => pages.perform(connection).await,
            Self::Count(count) => count.perform(connection).await,
            Self::Put(put) => put.perform(connection).await,
            Self::Update(update) => update.perform(connection).await,
            Self::Create(create) => create.perform(connection).await,
            Self::Churn(churn) => churn.perform(connection).await,
            Self::Health(health) => health.perform(connection).await,
            Self::Grant(grant) => grant.perform(connection).await,
            Self::Counter(counter) => counter.perform(connection).await,
        }
    }
}
