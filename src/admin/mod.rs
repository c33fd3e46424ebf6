//! The operator's port: metrics, readiness, status.

mod config;

pub use config::Config;
