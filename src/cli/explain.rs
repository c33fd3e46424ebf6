//! `seawall explain`

use super::{
    Failure,
    args::{Explain, What},
    request::{self, Method, Request},
};
use crate::{
    config::{Listener, Loaded},
    etcd::key_range::KeyRange,
    routing::{Located, Segment, Table, txn},
};
use std::{fs, path::Path};

/// A block of lines for each request and each listener.
pub(super) fn explain(args: &Explain) -> Result<String, Failure> {
    let loaded = args.source.reloader().load_with_origins()?;
    let mut blocks = Vec::new();
    for (number, request) in (1..).zip(requests(&args.what)?) {
        if let Some(text) = request.wrong() {
            return Err(Failure::Usage(format!("request {number}: {text}")));
        }
        for index in 0..loaded.settings.listeners.len() {
            blocks.push(explain_at(&loaded, index, &request)?);
        }
    }
    Ok(blocks.join("\n"))
}

fn requests(what: &What) -> Result<Vec<Request>, Failure> {
    // Clap sees to it that exactly one is given, and to the two values of a range.
    let What { key, prefix, range, requests } = what;
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

fn explain_at(loaded: &Loaded, index: usize, request: &Request) -> Result<String, Failure> {
    let Listener { listener, default, routes, .. } = &loaded.settings.listeners[index];
    let routes = routes.iter().map(|route| (route.prefix.clone(), route.cluster.clone()));
    let table =
        Table::new(default.clone(), routes).map_err(|error| Failure::Usage(error.to_string()))?;
    let place = Place { loaded, index, table: &table };
    let method = request.method.as_str();
    let (title, place) = match request.method {
        Method::Txn => (method.to_string(), place.of_txn(request)),
        _ => (format!("{method} {}", request.keys()), place.of_range(&request.keys())),
    };
    let class = request.class().as_str();
    let listener = format!("{} ({})", listener.name, listener.address);
    let head = [format!("  class     {class}"), format!("  listener  {listener}")];
    let lines = std::iter::once(title).chain(head).chain(place);
    Ok(lines.map(|line| line + "\n").collect())
}

struct Place<'a> {
    loaded: &'a Loaded,
    /// Of the listener.
    index: usize,
    table: &'a Table<String>,
}

impl Place<'_> {
    fn of_range(&self, range: &KeyRange) -> Vec<String> {
        match self.table.locate(range) {
            Located::One(cluster) => {
                vec![self.rule(&range.start), format!("  cluster   {cluster}")]
            }
            Located::Several(segments) => {
                let part = |Segment { range, cluster }: &Segment<'_, String>| {
                    format!("    {cluster:<16}  {range}")
                };
                let head = "  clusters  several, since the range spans them:".to_string();
                std::iter::once(head).chain(segments.iter().map(part)).collect()
            }
        }
    }

    fn of_txn(&self, request: &Request) -> Vec<String> {
        let request = request.txn_request();
        match txn::locate_txn(self.table, &request) {
            Ok(cluster) => {
                let first = txn::keys(&request).next();
                let rule = first.map_or_else(|| self.default_rule(), |keys| self.rule(&keys.start));
                vec![rule, format!("  cluster   {cluster}")]
            }
            Err(spans) => vec![format!("  refused   {spans}")],
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
        format!("  route     {} ({origin})", route.prefix.escape_ascii())
    }

    fn default_rule(&self) -> String {
        let origin = self.loaded.origins.of(&format!("listeners[{}].default", self.index));
        format!("  route     none, so the default cluster ({origin})")
    }
}
