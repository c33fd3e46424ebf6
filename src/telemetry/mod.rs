//! Logs and the metrics of the process itself.

mod config;
mod log;
mod process;

pub use config::{LogConfig, LogFormat};
pub use log::Log;
pub use process::Process;
