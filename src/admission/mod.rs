//! What a call is, and so how it may be treated.

mod bucket;
pub mod classify;
mod config;
mod cost;
mod limiter;
mod memory;
mod queue;
mod refusal;
mod shape;
mod subject;

pub use bucket::Bucket;
pub use classify::{Class, Kind};
pub use config::{
    CoalescingConfig, Config, DeletesConfig, Limit, Match, Mode, PagingConfig, Pattern, Per,
    Priority, QueueConfig, QueuesConfig, Quota, Rate, Rule, SpaceConfig,
};
pub use cost::{Cost, Costs, assumed};
pub use limiter::{Limiter, Sample};
pub use memory::{Held, Memory};
pub use queue::{Flow, Queue, Slot, Ticket, Turned};
pub use refusal::{Kind as RefusalKind, Refusal};
pub use shape::Shape;
pub use subject::{Client, Place, Subject};
