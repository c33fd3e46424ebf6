//! The operator's port: metrics, liveness, readiness and status.

mod checks;
mod config;
mod server;
mod status;

pub use config::Config;
pub use server::{Admin, View, metrics_text};
