//! What a call is, and so how it may be treated.

mod bucket;
pub mod classify;
mod config;
mod cost;
mod explain;
mod gate;
mod limiter;
mod matching;
mod memory;
mod metrics;
mod protection;
mod queue;
mod refusal;
mod rules;
mod shape;
#[cfg(test)]
mod simulation;
mod subject;
mod switches;
mod usage;
mod writes;

pub use bucket::Bucket;
pub use classify::{Class, Kind};
pub use config::{
    CoalescingConfig, Config, DeletesConfig, Limit, Match, Mode, PagingConfig, Pattern, Per,
    Priority, QueueConfig, QueuesConfig, Quota, Rate, Rule, SpaceConfig,
};
pub use cost::{Answered, Charge, Cost, Costs, assumed};
pub use explain::{Explanation, Matched};
pub use gate::{Denied, Gate, Line, QueueStanding};
pub use limiter::{Limiter, Sample};
pub use memory::{Held, Memory};
pub use protection::{Permit, Protection};
pub use queue::{Flow, Queue, Slot, Ticket, Turned};
pub use refusal::{Kind as RefusalKind, Refusal};
pub use rules::{Plan, Treatment};
pub use shape::Shape;
pub use subject::{Client, Place, Subject};
pub use switches::{Standing, UnknownProtection};
pub use usage::{Census, Growth, Uncounted};
pub use writes::{Changes, Put};
