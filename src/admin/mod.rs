//! The operator's port: metrics, liveness, readiness, status and who loads etcd.

mod checks;
mod config;
mod server;
mod status;
mod top;

pub use config::Config;
pub use server::{Admin, View, metrics_text};
