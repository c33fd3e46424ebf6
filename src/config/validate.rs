//! From the shapes of the file to configurations that need no more checks.
//!
//! Every problem is collected; what is made of a value with a problem is never used.

mod access;
mod clusters;
mod listeners;
mod mirror;
mod protection;
mod rules;

use super::{
    Settings,
    decode::LeftOut,
    file::{self, File},
    origin::{Error, Origins, Problem},
    units::{Duration, Size},
};
use crate::{admin, drain, telemetry};
use std::{fmt::Display, num::NonZero, ops::RangeInclusive, thread, time};

pub(super) use clusters::{name_after, same_members};

/// `origins` gains the places of what follows from other values.
pub(super) fn validate(
    file: File,
    origins: &mut Origins,
    left_out: &LeftOut,
) -> Result<Settings, Error> {
    let mut checks = Checks { origins, left_out, problems: Vec::new() };
    let File {
        listeners,
        clusters,
        access,
        protection,
        mirror,
        attribution,
        admin,
        workers,
        drain,
        log,
        tracing,
    } = file;
    let mut clusters = checks.clusters(clusters);
    let listeners = checks.listeners(listeners, &mut clusters);
    checks.members_apart(&clusters);
    let admin = checks.admin(admin, &listeners);
    let settings = Settings {
        access: checks.access(access),
        protection: checks.protection(protection, mirror.mode, &clusters),
        mirror: checks.mirror(mirror),
        attribution: checks.attribution(&attribution),
        listeners,
        clusters,
        admin,
        workers: checks.workers(workers),
        drain: drain::Config { delay: drain.delay.0, grace: drain.grace.0 },
        log: checks.log(log),
        tracing: tracing.map(|tracing| checks.tracing(&tracing)),
    };
    match checks.problems {
        problems if problems.is_empty() => Ok(settings),
        problems => Err(Error::new(problems)),
    }
}

/// Collects problems; `path` is always the key path of the value that is looked at.
struct Checks<'a> {
    origins: &'a mut Origins,
    left_out: &'a LeftOut,
    problems: Vec<Problem>,
}

impl Checks<'_> {
    /// What does not stand in the file as it is here is a problem that was found already.
    fn problem(&mut self, path: &str, text: impl Into<String>) {
        if !self.left_out.covers(path) {
            self.problems.push(Problem::new(self.origins, path, text));
        }
    }

    fn expected(&mut self, path: &str, what: impl Display, met: impl Display) {
        self.problem(path, format!("expected {what}, met {met}"));
    }

    fn duration(&mut self, path: &str, value: Duration, min: Duration) -> time::Duration {
        if value < min {
            self.expected(path, format_args!("at least {min}"), value);
        }
        value.0
    }

    fn size(&mut self, path: &str, value: Size, range: RangeInclusive<Size>) -> u64 {
        if !range.contains(&value) {
            let (least, most) = range.into_inner();
            self.expected(path, format_args!("a size from {least} to {most}"), value);
        }
        value.0
    }

    /// HTTP/2 starts with 64 KiB and cannot say more than 2 GiB.
    fn window(&mut self, path: &str, value: Size) -> u32 {
        let bytes = self.size(path, value, WINDOW_MIN..=Size(1 << 30));
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// A connection's window below a stream's would make that one a fiction.
    fn windows(&mut self, path: &str, stream: Size, connection: Size) -> (u32, u32) {
        let (of_stream, of_connection) =
            (format!("{path}.stream_window"), format!("{path}.connection_window"));
        if (WINDOW_MIN..stream).contains(&connection) {
            let least = format!("at least the stream_window of {stream}");
            self.expected(&of_connection, least, connection);
        }
        (self.window(&of_stream, stream), self.window(&of_connection, connection))
    }

    fn at_least_one(&mut self, path: &str, value: u32) -> u32 {
        if value == 0 {
            self.expected(path, "at least 1", value);
        }
        value
    }

    /// Names are labels of metrics and parts of key paths.
    fn name(&mut self, path: &str, name: &str) {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
            self.expected(
                path,
                "a name of at most 63 letters, digits, - and _",
                format_args!("{name:?}"),
            );
        }
    }

    fn admin(&mut self, file: file::Admin, listeners: &[super::Listener]) -> Option<admin::Config> {
        let file::Admin { address, tls, token_file, livez_after } = file;
        let livez_after = self.duration("admin.livez_after", livez_after, SECOND);
        let tls = tls.map(|tls| self.server_tls("admin.tls", tls));
        let address = address.0?;
        let taken =
            |other: &&super::Listener| other.listener.address == address && address.port() != 0;
        if let Some(other) = listeners.iter().find(taken) {
            let text = format!("{address} is the address of the listener {}", other.listener.name);
            self.problem("admin.address", text);
        }
        Some(admin::Config { address, tls, token_file, livez_after })
    }

    fn workers(&mut self, workers: u32) -> usize {
        if workers > WORKERS_MAX {
            self.expected("workers", format_args!("at most {WORKERS_MAX}"), workers);
        }
        match workers {
            // More threads would mean more connections to etcd before they mean more calls.
            0 => thread::available_parallelism().map_or(1, NonZero::get).min(8),
            _ => workers as usize,
        }
    }

    fn tracing(&mut self, file: &file::Tracing) -> telemetry::TracingConfig {
        let file::Tracing { endpoint, sample_one_in } = file;
        telemetry::TracingConfig {
            endpoint: endpoint.0.to_string(),
            sample_one_in: self.at_least_one("tracing.sample_one_in", *sample_one_in),
        }
    }

    /// A filter takes any word for the name of a module, so levels are looked at here.
    fn log(&mut self, file: file::Log) -> telemetry::LogConfig {
        let file::Log { level, format, audit_file } = file;
        let is_level =
            |part: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&part);
        let sound = level.split(',').all(|part| is_level(part) || part.contains('='))
            && tracing_subscriber::EnvFilter::try_new(&level).is_ok();
        if !sound {
            let what =
                "error, warn, info, debug, trace, or a filter such as info,seawall::upstream=debug";
            self.expected("log.level", what, format_args!("{level:?}"));
        }
        telemetry::LogConfig {
            level,
            format: match format {
                file::LogFormat::Text => telemetry::LogFormat::Text,
                file::LogFormat::Json => telemetry::LogFormat::Json,
            },
            audit_file,
        }
    }
}

const WORKERS_MAX: u32 = 256;

const WINDOW_MIN: Size = Size(64 << 10);

const SECOND: Duration = Duration(time::Duration::from_secs(1));

/// The shortest that a timer keeps.
const MILLISECOND: Duration = Duration(time::Duration::from_millis(1));
