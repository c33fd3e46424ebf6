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

/// Where traces of calls go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracingConfig {
    /// URL of a collector that takes OTLP over gRPC.
    pub endpoint: String,
    /// One call in so many is traced, apart from those whose client traces them; at least 1.
    pub sample_one_in: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    /// One JSON object a line.
    Json,
}
