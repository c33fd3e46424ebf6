use std::path::PathBuf;

/// What is logged, and how it looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`) or a filter such as
    /// `info,seawall::upstream=debug`.
    pub level: String,
    pub format: LogFormat,
    /// Where the events of `audit` go as well, each as a line of JSON.
    pub audit_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    /// One JSON object a line.
    Json,
}
