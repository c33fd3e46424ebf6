//! The operator's port: metrics, liveness, readiness, status, who loads etcd, what protects it, and
//! a page that shows all of it as it happens.

mod access;
mod calls;
mod checks;
mod config;
mod live;
mod mirror;
mod page;
mod protection;
mod refusals;
mod server;
mod status;
mod top;

pub use access::{SWITCH, Token, TokenError};
pub use config::Config;
pub use server::{Admin, View, metrics_text};
