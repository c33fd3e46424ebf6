//! Grants: whether each lets somebody do something.

use super::{Checks, protection::of_mode};
use crate::{
    access::{Config, Grant, Verb},
    config::{decode::item, file},
    routing,
};

/// In place of all verbs.
const ALL: &str = "all";

impl Checks<'_> {
    pub(super) fn access(&mut self, file: Option<file::Access>) -> Option<Config> {
        let file::Access { mode, grants } = file?;
        if grants.is_empty() {
            self.expected("access.grants", "at least one grant", "none, which refuses every call");
        }
        let grants = grants.into_iter().enumerate();
        let grants = grants.map(|(index, file)| self.grant(&item("access.grants", index), &file));
        Some(Config { mode: of_mode(mode), grants: grants.collect() })
    }

    fn grant(&mut self, path: &str, file: &file::Grant) -> Grant {
        let at = |key: &str| format!("{path}.{key}");
        let file::Grant { clients, addresses, verbs, prefixes } = file;
        if clients.is_empty() && addresses.is_empty() {
            let what = "clients or addresses; clients: [\"*\"] is everybody";
            self.expected(path, what, "neither");
        }
        let verbs = self.verbs(&at("verbs"), verbs);
        let with_keys: Vec<_> =
            verbs.iter().filter(|verb| verb.has_keys()).map(|verb| verb.as_str()).collect();
        match (with_keys.is_empty(), prefixes.is_empty()) {
            (false, true) => {
                let what = format!("the keys to {}; \"\" is every key", with_keys.join(", "));
                self.expected(&at("prefixes"), what, "none");
            }
            // What is no verb was reported already.
            (true, false) if !verbs.is_empty() => {
                let what = "none, since its verbs are about no keys";
                self.expected(&at("prefixes"), what, prefixes.join(", "));
            }
            _ => {}
        }
        Grant {
            clients: self.patterns(&at("clients"), clients),
            addresses: addresses.iter().map(|network| network.0).collect(),
            verbs,
            prefixes: self.granted(&at("prefixes"), prefixes),
        }
    }

    fn verbs(&mut self, path: &str, given: &[String]) -> Vec<Verb> {
        if given.is_empty() {
            self.expected(path, "at least one verb, or all", "none");
        }
        if given.iter().any(|name| name == ALL) {
            return Verb::ALL.into();
        }
        let known = Verb::ALL.map(|verb| (verb.as_str(), verb));
        self.known(path, "verb", given, &known)
    }

    /// As routes take them, and every key.
    fn granted(&mut self, path: &str, given: &[String]) -> Vec<String> {
        let mut prefixes = Vec::new();
        for (index, prefix) in given.iter().enumerate() {
            match routing::normalize(&prefix.clone().into()) {
                Ok(_) => prefixes.push(prefix.strip_suffix('/').unwrap_or(prefix).to_owned()),
                Err(routing::Error::WholeKeySpace(_)) if prefix.is_empty() => {
                    prefixes.push(String::new());
                }
                Err(routing::Error::WholeKeySpace(_)) => {
                    let what = "a prefix with a name, or \"\" for every key";
                    self.expected(&item(path, index), what, format_args!("{prefix:?}"));
                }
                Err(error) => self.problem(&item(path, index), error.to_string()),
            }
        }
        prefixes
    }
}
