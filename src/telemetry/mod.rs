//! Logs and metrics.

mod config;

pub use config::{LogConfig, LogFormat};
