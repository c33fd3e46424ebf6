//! Logs, traces, the metrics of the process itself, and what its service manager is told.

pub mod audit;
mod config;
mod log;
pub mod notify;
mod process;
mod recent;
mod traces;

pub use config::{LogConfig, LogFormat, TracingConfig};
pub use log::Log;
pub use process::{Process, Usage, usage};
pub use recent::{Happening, recent};
pub use traces::{CallSpan, Traces};
