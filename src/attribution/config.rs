use super::TraceConfig;
use std::time::Duration;

/// What is remembered of who loads etcd, and what is logged of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Entries of each list that are told apart; what is beyond shares the last.
    pub entries: usize,
    /// Calls that took longer are logged; watches and other streams are not.
    pub slow: Duration,
    /// Calls that moved more bytes are logged.
    pub heavy_bytes: u64,
    /// Lines of that log a minute at most.
    pub log_per_minute: u32,
    /// Where each call is recorded, if it is.
    pub trace: Option<TraceConfig>,
}
