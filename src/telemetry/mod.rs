//! Logs, the metrics of the process itself, and what its service manager is told.

mod config;
mod log;
pub mod notify;
mod process;
mod recent;

pub use config::{LogConfig, LogFormat};
pub use log::Log;
pub use process::{Process, Usage, usage};
pub use recent::{Happening, recent};
