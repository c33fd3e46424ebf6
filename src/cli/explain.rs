//! `seawall explain`

mod protections;
mod trace;

use super::{
    Failure,
    args::{Explain, What},
    request::{self, Method, Request},
};
use crate::{
    access::{self, Verdict},
    admission::{Client, Mode, Protection},
    config::{Listener, Loaded},
    routing::{Located, Segment, Table, txn},
};
use prometheus_client::registry::Registry;
use std::{collections::BTreeSet, fs, path::Path};

/// A block of lines for each request and each listener.
pub(super) fn explain(args: &Explain) -> Result<String, Failure> {
    let loaded = args.source.reloader().load_with_origins()?;
    let protection = Protection::new(loaded.settings.protection.clone(), &mut Registry::default());
    if let Some(path) = &args.what.trace {
        return trace::summary(&loaded, &protection, path, &read(path)?);
    }
    let mut blocks = Vec::new();
    for (number, mut request) in (1..).zip(requests(&args.what)?) {
        if let Some(text) = request.wrong() {
            return Err(Failure::Usage(format!("request {number}: {text}")));
        }
        request.client = request.client.or_else(|| args.client.clone());
        request.address = request.address.or(args.address);
        for index in 0..loaded.settings.listeners.len() {
            blocks.push(explain_at(&loaded, &protection, index, &request)?);
        }
    }
    Ok(blocks.join("\n"))
}

fn requests(what: &What) -> Result<Vec<Request>, Failure> {
    // Clap sees to it that exactly one is given, and to the two values of a range.
    let What { key, prefix, range, requests, .. } = what;
    let key = key.iter().map(|key| Request::key(key));
    let prefix = prefix.iter().map(|prefix| Request::prefix(prefix));
    let range = range.iter().filter_map(|range| match &range[..] {
        [key, end] => Some(Request::range(key, end)),
        _ => None,
    });
    let mut all: Vec<Request> = key.chain(prefix).chain(range).collect();
    if let Some(path) = requests {
        all.extend(request::read(path, &read(path)?)?);
    }
    Ok(all)
}

fn read(path: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(path);
    text.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

fn explain_at(
    loaded: &Loaded,
    protection: &Protection,
    index: usize,
    request: &Request,
) -> Result<String, Failure> {
    let listener = &loaded.settings.listeners[index];
    let place = Place { loaded, index, table: &table(listener)? };
    let method = request.method.as_str();
    let (title, place) = match request.method {
        Method::Txn => (method.to_string(), place.of_txn(request)),
        _ => (format!("{method} {}", request.keys()), place.of_range(request)),
    };
    let subject = request.subject();
    let Client { name, address } = &*subject.client;
    let address = address.to_string();
    let client = if **name == *address { address } else { format!("{name} at {address}") };
    let listener = format!("{} ({})", listener.listener.name, listener.listener.address);
    let head = [("shape", subject.shape.as_str()), ("class", subject.class.as_str())];
    let head = head.into_iter().chain([("client", &client[..]), ("listener", &listener)]);
    let access = loaded.settings.access.as_ref().filter(|access| access.mode != Mode::Off);
    let judged = access.map(|access| judged(access, request, &subject.client));
    let refused = judged.as_ref().is_some_and(Result::is_err)
        && access.is_some_and(|access| access.mode == Mode::Enforce);
    let access = judged.map(|judged| line("access", judged.unwrap_or_else(|refused| refused)));
    let config = &loaded.settings.protection;
    let protections = match &place.cluster {
        _ if refused => vec![line("outcome", "refused: etcdserver: permission denied")],
        Some(cluster) => {
            let explanation = protection.explain(&subject, cluster);
            protections::lines(&explanation, config, request, &subject)
        }
        None => Vec::new(),
    };
    let lines = std::iter::once(title)
        .chain(head.map(|(name, value)| line(name, value)))
        .chain(access)
        .chain(place.lines)
        .chain(protections);
    Ok(lines.map(|line| line + "\n").collect())
}

/// Where the keys of a listener's requests live, by the names of clusters.
fn table(listener: &Listener) -> Result<Table<String>, Failure> {
    let routes = listener.routes.iter();
    let routes = routes.map(|route| (route.prefix.clone(), route.cluster.clone()));
    Table::new(listener.default.clone(), routes).map_err(|error| Failure::Usage(error.to_string()))
}

/// The grants that let a request; the first thing that none lets, if there is one.
fn judged(config: &access::Config, request: &Request, client: &Client) -> Result<String, String> {
    let mut by = BTreeSet::new();
    for need in request.needs() {
        match config.judge(client, &need) {
            Verdict::By(number) => by.insert(format!("access.grants[{number}]")),
            Verdict::Refused => {
                let keys = need.keys.map(|keys| format!(" {keys}")).unwrap_or_default();
                let observing = if config.mode == Mode::Observe { " (observe)" } else { "" };
                let verb = need.verb.as_str();
                return Err(format!("no grant lets this client {verb}{keys}{observing}"));
            }
        };
    }
    match by.is_empty() {
        true => Ok("let, since it touches no keys".into()),
        false => Ok(format!("let by {}", Vec::from_iter(by).join(", "))),
    }
}

/// A name and what there is to say of it.
fn line(name: &str, value: impl AsRef<str>) -> String {
    format!("  {name:<8}  {}", value.as_ref())
}

struct Place<'a> {
    loaded: &'a Loaded,
    /// Of the listener.
    index: usize,
    table: &'a Table<String>,
}

/// Where a request goes.
struct Found {
    lines: Vec<String>,
    /// If it is one alone.
    cluster: Option<String>,
}

impl Place<'_> {
    fn of_range(&self, request: &Request) -> Found {
        let range = request.keys();
        match self.table.locate(&range) {
            Located::One(cluster) => Found::at(self.rule(&range.start), cluster),
            Located::Several(segments) => {
                let part = |Segment { range, cluster }: &Segment<'_, String>| {
                    format!("    {cluster:<16}  {range}")
                };
                let head = line("clusters", "several, since the range spans them:");
                let parts = segments.iter().map(part);
                let outcome = match request.method {
                    Method::Range => {
                        "asked of each and merged in the order of keys, as they are now, when its \
                         turn at the default cluster comes"
                    }
                    _ => "refused, since it must lie in one cluster",
                };
                let outcome = line("outcome", outcome);
                let lines = std::iter::once(head).chain(parts).chain([outcome]).collect();
                Found { lines, cluster: None }
            }
        }
    }

    fn of_txn(&self, request: &Request) -> Found {
        let request = request.txn_request();
        match txn::locate_txn(self.table, &request) {
            Ok(cluster) => {
                let first = txn::keys(&request).next();
                let rule = first.map_or_else(|| self.default_rule(), |keys| self.rule(&keys.start));
                Found::at(rule, cluster)
            }
            Err(spans) => Found { lines: vec![line("refused", spans.to_string())], cluster: None },
        }
    }

    /// The route that decides about `key`, and where it was given.
    fn rule(&self, key: &[u8]) -> String {
        let Some(route) = self.table.route(key) else { return self.default_rule() };
        let routes = &self.loaded.settings.listeners[self.index].routes;
        let position = routes.iter().position(|known| *known.prefix.as_bytes() == *route.prefix);
        let path =
            format!("listeners[{}].routes[{}].prefix", self.index, position.unwrap_or_default());
        let origin = self.loaded.origins.of(&path);
        line("route", format!("{} ({origin})", route.prefix.escape_ascii()))
    }

    fn default_rule(&self) -> String {
        let origin = self.loaded.origins.of(&format!("listeners[{}].default", self.index));
        line("route", format!("none, so the default cluster ({origin})"))
    }
}

impl Found {
    fn at(rule: String, cluster: &str) -> Self {
        Self { lines: vec![rule, line("cluster", cluster)], cluster: Some(cluster.to_owned()) }
    }
}
