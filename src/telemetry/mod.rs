//! Logs, the metrics of the process itself, and what its service manager is told.

pub mod audit;
mod config;
mod log;
pub mod notify;
mod process;

pub use config::{LogConfig, LogFormat};
pub use log::Log;
pub use process::Process;
