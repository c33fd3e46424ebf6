//! The operator's port: metrics, liveness, readiness, status, who loads etcd, and what
//! protects it.

mod checks;
mod config;
mod mirror;
mod protection;
mod server;
mod status;
mod top;

pub use config::Config;
pub use server::{Admin, View, metrics_text};
