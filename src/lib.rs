//! Seawall, a load-protection proxy in front of etcd.
//!
//! Modules in the order in which a call meets them: [`listener`] takes the connection, [`rpc`] the
//! call; [`pipeline`] admits it ([`admission`]), places it ([`routing`]), answers it from memory
//! ([`mirror`]), shares it ([`coalesce`]) or cuts it up ([`paging`]), forwards it ([`upstream`]) and
//! puts it down to its client ([`attribution`]), all of it as far as [`access`] lets. Beside the way:
//! [`admin`], [`drain`] and [`handover`]. Below everything: [`etcd`]'s vocabulary, [`grpc`] and [`tls`] on
//! the wire, [`telemetry`], and what tests break on purpose ([`sabotage`]). Above it: the
//! command line ([`cli`]), [`config`] and [`app`], which puts the parts together. Modules use only
//! those that come after them; a test sees to that.

pub mod cli;

pub mod app;
pub mod config;

pub mod admin;
pub mod listener;
pub mod rpc;

pub mod pipeline;

pub mod access;
pub mod attribution;

pub mod mirror;

pub mod paging;

pub mod admission;
pub mod coalesce;
pub mod routing;
pub mod upstream;

pub mod drain;
pub mod handover;
pub mod telemetry;
pub mod worker;

pub mod etcd;
pub mod grpc;
pub mod sabotage;
pub mod tls;
