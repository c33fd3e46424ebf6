use super::{
    LogConfig, LogFormat, audit,
    recent::{self, Recent},
};
use anyhow::Context;
use arc_swap::ArcSwap;
use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    sync::Arc,
};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::Targets,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

/// The process' log, on standard error, and the file of the audit.
#[derive(Debug, Clone)]
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    audit: Option<AuditFile>,
}

impl Log {
    /// Starts to log. The first call in a process counts.
    ///
    /// # Errors
    ///
    /// When the level is not one, or the file of the audit cannot be written.
    pub fn start(config: &LogConfig) -> anyhow::Result<Self> {
        let (filter, handle) = reload::Layer::new(parse(&config.level)?);
        let audit = config.audit_file.as_deref().map(AuditFile::open).transpose()?;
        let layer = match config.format {
            LogFormat::Json => {
                let layer = fmt::layer().json().flatten_event(true).with_current_span(false);
                layer.with_writer(io::stderr).boxed()
            }
            LogFormat::Text => {
                let layer = fmt::layer().with_ansi(io::stderr().is_terminal());
                layer.with_writer(io::stderr).boxed()
            }
        };
        // Whatever the level of the log is.
        let audited = audit.clone().map(|file| {
            let layer = fmt::layer().json().flatten_event(true).with_current_span(false);
            let only = Targets::new().with_target(audit::TARGET, LevelFilter::TRACE);
            layer.with_writer(file).with_filter(only)
        });
        let registry = tracing_subscriber::registry()
            .with(layer.with_filter(filter))
            .with(Recent.with_filter(recent::wanted()));
        // A second subscriber in one process is a test's second Seawall, which shares the first's.
        let _ = match audited {
            Some(audited) => registry.with(audited).try_init(),
            None => registry.try_init(),
        };
        Ok(Self { filter: handle, audit })
    }

    /// Logs at another level from now on.
    ///
    /// # Errors
    ///
    /// When the level is not one; the old one stays.
    pub fn set_level(&self, level: &str) -> anyhow::Result<()> {
        self.filter.reload(parse(level)?).context("log level")
    }

    /// Goes on in a new file where the one of the audit was moved away.
    ///
    /// # Errors
    ///
    /// When it cannot be written; the old one stays.
    pub fn reopen(&self) -> anyhow::Result<()> {
        self.audit.as_ref().map_or(Ok(()), AuditFile::reopen)
    }
}

fn parse(level: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(level).with_context(|| format!("log level {level:?}"))
}

/// A file that grows by whole lines.
#[derive(Debug, Clone)]
struct AuditFile {
    path: PathBuf,
    file: Arc<ArcSwap<File>>,
}

impl AuditFile {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let file = Arc::new(ArcSwap::from_pointee(append(path)?));
        Ok(Self { path: path.to_owned(), file })
    }

    fn reopen(&self) -> anyhow::Result<()> {
        self.file.store(Arc::new(append(&self.path)?));
        Ok(())
    }
}

fn append(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("log.audit_file {}", path.display()))
}

impl<'a> MakeWriter<'a> for AuditFile {
    type Writer = Arc<File>;

    fn make_writer(&'a self) -> Arc<File> {
        self.file.load_full()
    }
}
