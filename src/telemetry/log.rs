use super::{LogConfig, LogFormat, recent::Recent};
use anyhow::Context;
use std::io::{self, IsTerminal};
use tracing_subscriber::{
    EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// The process' log, on standard error.
#[derive(Debug, Clone)]
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Log {
    /// Starts to log. The first call in a process counts.
    ///
    /// # Errors
    ///
    /// When the level is not one.
    pub fn start(config: &LogConfig) -> anyhow::Result<Self> {
        let (filter, handle) = reload::Layer::new(parse(&config.level)?);
        let registry = tracing_subscriber::registry().with(filter).with(Recent);
        // A second subscriber in one process is a test's second Seawall, which shares the first's.
        let _ = match config.format {
            LogFormat::Json => {
                let layer = fmt::layer().json().flatten_event(true).with_current_span(false);
                registry.with(layer.with_writer(io::stderr)).try_init()
            }
            LogFormat::Text => {
                let layer = fmt::layer().with_ansi(io::stderr().is_terminal());
                registry.with(layer.with_writer(io::stderr)).try_init()
            }
        };
        Ok(Self { filter: handle })
    }

    /// Logs at another level from now on.
    ///
    /// # Errors
    ///
    /// When the level is not one; the old one stays.
    pub fn set_level(&self, level: &str) -> anyhow::Result<()> {
        self.filter.reload(parse(level)?).context("log level")
    }
}

fn parse(level: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(level).with_context(|| format!("log level {level:?}"))
}
