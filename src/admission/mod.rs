//! What a call is, and so how it may be treated.

pub mod classify;
mod config;
mod shape;
mod subject;

pub use classify::{Class, Kind};
pub use config::{
    CoalescingConfig, Config, DeletesConfig, Limit, Match, Mode, PagingConfig, Pattern, Per,
    Priority, QueueConfig, QueuesConfig, Quota, Rate, Rule, SpaceConfig,
};
pub use shape::Shape;
pub use subject::{Client, Place, Subject};
