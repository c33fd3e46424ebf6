//! The effective configuration, as a file that says the same, with the origin of each value.

mod access;
mod protection;

use super::{
    Listener, Origin, Origins, Route, Settings,
    decode::{child, item},
    units,
};
use crate::{admin, drain, listener, telemetry, tls, upstream};
use std::{fmt::Display, path::Path, time::Duration};

/// `key: value  # origin`, line by line. Read as a file it gives the same settings.
pub fn effective(settings: &Settings, origins: &Origins) -> String {
    let mut page = Page { origins, path: String::new(), indent: 0, dash: false, lines: Vec::new() };
    page.settings(settings);
    page.print()
}

struct Page<'a> {
    origins: &'a Origins,
    /// The key path that is being printed.
    path: String,
    indent: usize,
    /// The next line begins an item of a list.
    dash: bool,
    /// Text and comment.
    lines: Vec<(String, String)>,
}

/// Settings are taken apart without `..`, so that none can be forgotten.
impl Page<'_> {
    fn settings(&mut self, settings: &Settings) {
        let Settings {
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
        } = settings;
        self.items("listeners", listeners, Self::listener);
        self.section("clusters", |page| {
            for cluster in clusters {
                page.section(&cluster.name, |page| page.cluster(cluster));
            }
        });
        match access {
            Some(access) => self.section("access", |page| page.access(access)),
            None => self.value("access", "", "everybody may do everything"),
        }
        self.section("protection", |page| page.protection(protection));
        self.section("mirror", |page| page.mirror(protection.mirror, mirror));
        self.section("attribution", |page| page.attribution(attribution));
        self.section("admin", |page| page.admin(admin.as_ref()));
        self.value("workers", workers, "one for each core, at most 8");
        self.section("drain", |page| {
            let drain::Config { delay, grace } = drain;
            page.duration("delay", *delay);
            page.duration("grace", *grace);
        });
        self.section("log", |page| {
            let telemetry::LogConfig { level, format, audit_file } = log;
            page.value("level", quoted(level), "");
            page.value("format", log_format(*format), "");
            page.file("audit_file", audit_file.as_deref(), "in the log alone");
        });
        match tracing {
            Some(tracing) => self.section("tracing", |page| {
                let telemetry::TracingConfig { endpoint, sample_one_in } = tracing;
                page.value("endpoint", quoted(endpoint), "");
                page.value("sample_one_in", sample_one_in, "");
            }),
            None => self.value("tracing", "", "calls are not traced"),
        }
    }

    fn listener(&mut self, listener: &Listener) {
        let Listener { listener, advertise, default, routes } = listener;
        let listener::Config {
            name,
            address,
            tls,
            connections_max,
            streams_per_connection_max,
            stream_window,
            connection_window,
            request_bytes_max,
            keepalive_interval,
            keepalive_timeout,
        } = listener;
        self.value("name", name, "");
        self.value("address", address, "");
        match tls {
            Some(tls) => self.section("tls", |page| page.server_tls(tls)),
            None => self.value("tls", "", "plaintext"),
        }
        let urls = advertise.iter().map(|url| quoted(url));
        self.values("advertise", urls, "the address that each client connected to");
        self.value("default", default, "the only cluster");
        self.items("routes", routes, |page, route| {
            let Route { prefix, cluster } = route;
            page.value("prefix", quoted(prefix), "");
            page.value("cluster", cluster, "");
        });
        self.value("connections_max", connections_max, "");
        self.value("streams_per_connection_max", streams_per_connection_max, "");
        self.size("stream_window", u64::from(*stream_window));
        self.size("connection_window", u64::from(*connection_window));
        self.size("request_size_max", *request_bytes_max as u64);
        self.duration("keepalive_interval", *keepalive_interval);
        self.duration("keepalive_timeout", *keepalive_timeout);
    }

    fn server_tls(&mut self, tls: &tls::AcceptorConfig) {
        let tls::AcceptorConfig {
            cert_file,
            key_file,
            trusted_ca_file,
            client_cert_auth,
            min_version,
            handshake_timeout,
            reload_interval,
        } = tls;
        self.file("cert_file", Some(cert_file), "");
        self.file("key_file", Some(key_file), "");
        self.file("trusted_ca_file", trusted_ca_file.as_deref(), "clients show no certificate");
        self.value("client_cert_auth", client_cert_auth, "whether trusted_ca_file is given");
        self.value("min_version", tls_version(*min_version), "");
        self.duration("handshake_timeout", *handshake_timeout);
        self.duration("reload_interval", *reload_interval);
    }

    fn cluster(&mut self, cluster: &upstream::Config) {
        let upstream::Config {
            name: _,
            endpoints,
            tls,
            connect_timeout,
            backoff_min,
            backoff_max,
            keepalive_interval,
            keepalive_timeout,
            probe,
            retry,
            lanes,
        } = cluster;
        self.values("endpoints", endpoints.iter().map(|url| quoted(&url.to_string())), "");
        self.section("tls", |page| page.cluster_tls(tls));
        self.duration("connect_timeout", *connect_timeout);
        self.duration("backoff_min", *backoff_min);
        self.duration("backoff_max", *backoff_max);
        self.duration("keepalive_interval", *keepalive_interval);
        self.duration("keepalive_timeout", *keepalive_timeout);
        self.section("probe", |page| {
            let upstream::ProbeConfig { interval, timeout, failures } = probe;
            page.duration("interval", *interval);
            page.duration("timeout", *timeout);
            page.value("failures", failures, "");
        });
        self.section("retry", |page| {
            let upstream::RetryConfig { budget_percent } = retry;
            page.value("budget", units::Percent(*budget_percent), "");
        });
        self.section("lanes", |page| {
            let upstream::Lanes { watch, light, heavy } = lanes;
            page.section("watch", |page| page.lane(watch));
            page.section("light", |page| page.lane(light));
            page.section("heavy", |page| page.lane(heavy));
        });
    }

    fn cluster_tls(&mut self, tls: &upstream::TlsConfig) {
        let upstream::TlsConfig { ca_file, cert_file, key_file, server_name, reload_interval } =
            tls;
        self.file("ca_file", ca_file.as_deref(), "the system's authorities");
        self.file("cert_file", cert_file.as_deref(), "none is shown");
        self.file("key_file", key_file.as_deref(), "");
        let server_name = server_name.as_deref().map(quoted).unwrap_or_default();
        self.value("server_name", server_name, "the host of each endpoint");
        self.duration("reload_interval", *reload_interval);
    }

    fn lane(&mut self, lane: &upstream::LaneConfig) {
        let upstream::LaneConfig {
            connections_max,
            streams_spread,
            streams_max,
            stream_window,
            connection_window,
        } = lane;
        self.value("connections_max", connections_max, "");
        self.value("streams_spread", streams_spread, "");
        self.value("streams_max", streams_max, "");
        self.size("stream_window", u64::from(*stream_window));
        self.size("connection_window", u64::from(*connection_window));
    }

    fn admin(&mut self, admin: Option<&admin::Config>) {
        match admin {
            None => self.value("address", "off", ""),
            Some(admin::Config { address, tls, token_file, livez_after }) => {
                self.value("address", address, "");
                match tls {
                    Some(tls) => self.section("tls", |page| page.server_tls(tls)),
                    None => self.value("tls", "", "plaintext"),
                }
                let without = "only this machine switches anything";
                self.file("token_file", token_file.as_deref(), without);
                self.duration("livez_after", *livez_after);
            }
        }
    }
}

impl Page<'_> {
    /// `meaning` says more about a default than its value does.
    fn value(&mut self, key: &str, value: impl Display, meaning: &str) {
        let origin = self.origins.of(&child(&self.path, key));
        let comment = match origin {
            Origin::Default if !meaning.is_empty() => format!("default: {meaning}"),
            origin => origin.to_string(),
        };
        self.line(&format!("{key}: {value}"), comment);
    }

    fn values(&mut self, key: &str, values: impl Iterator<Item = String>, meaning: &str) {
        let values = values.collect::<Vec<_>>().join(", ");
        self.value(key, format_args!("[{values}]"), meaning);
    }

    fn duration(&mut self, key: &str, value: Duration) {
        self.value(key, units::Duration(value), "");
    }

    fn size(&mut self, key: &str, bytes: u64) {
        self.value(key, units::Size(bytes), "");
    }

    fn file(&mut self, key: &str, path: Option<&Path>, meaning: &str) {
        let path = path.map(|path| quoted(&path.to_string_lossy())).unwrap_or_default();
        self.value(key, path, meaning);
    }

    fn section(&mut self, key: &str, body: impl FnOnce(&mut Self)) {
        self.line(&format!("{key}:"), String::new());
        let path = child(&self.path, key);
        self.inside(path, body);
    }

    fn items<T>(&mut self, key: &str, items: &[T], body: impl Fn(&mut Self, &T)) {
        if items.is_empty() {
            return self.value(key, "[]", "");
        }
        self.line(&format!("{key}:"), String::new());
        for (index, value) in items.iter().enumerate() {
            let path = item(&child(&self.path, key), index);
            self.inside(path, |page| {
                page.dash = true;
                page.indent += 1;
                body(page, value);
                page.indent -= 1;
            });
        }
    }

    fn inside(&mut self, path: String, body: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.path, path);
        self.indent += 1;
        body(self);
        self.indent -= 1;
        self.path = outer;
    }

    fn line(&mut self, text: &str, comment: String) {
        let text = match std::mem::take(&mut self.dash) {
            true => format!("{}- {text}", "  ".repeat(self.indent - 1)),
            false => format!("{}{text}", "  ".repeat(self.indent)),
        };
        self.lines.push((text.trim_end().to_string(), comment));
    }

    /// Comments stand in one column, but for lines that are longer than most.
    fn print(self) -> String {
        let width = |line: &(String, String)| line.0.chars().count();
        let column = self.lines.iter().map(width).filter(|width| *width <= 60).max().unwrap_or(0);
        let print = |(text, comment): &(String, String)| match &comment[..] {
            "" => format!("{text}\n"),
            _ => format!("{text:<column$}  # {comment}\n"),
        };
        self.lines.iter().map(print).collect()
    }
}

/// Quoted where YAML would see more than a word.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-:=".contains(&byte);
    let first = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    match first && text.bytes().all(plain) && !text.ends_with(':') && text != "null" {
        true => text.to_string(),
        // A JSON string is a YAML string.
        false => serde_json::Value::from(text).to_string(),
    }
}

fn log_format(format: telemetry::LogFormat) -> &'static str {
    match format {
        telemetry::LogFormat::Text => "text",
        telemetry::LogFormat::Json => "json",
    }
}

fn tls_version(version: tls::TlsVersion) -> &'static str {
    match version {
        tls::TlsVersion::Tls12 => "1.2",
        tls::TlsVersion::Tls13 => "1.3",
    }
}
