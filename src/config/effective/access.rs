//! Who may do what, as a file that says the same.

use super::{Page, protection::of_mode, quoted};
use crate::{
    access::{Config, Grant},
    config::units,
};

/// Settings are taken apart without `..`, so that none can be forgotten.
impl Page<'_> {
    pub(super) fn access(&mut self, config: &Config) {
        let Config { mode, grants } = config;
        self.value("mode", of_mode(*mode), "");
        self.items("grants", grants, Self::grant);
    }

    fn grant(&mut self, grant: &Grant) {
        let Grant { clients, addresses, verbs, prefixes } = grant;
        self.patterns("clients", clients, "any");
        let addresses =
            addresses.iter().map(|network| quoted(&units::Network(*network).to_string()));
        self.values("addresses", addresses, "any");
        self.values("verbs", verbs.iter().map(|verb| verb.as_str().into()), "");
        self.values("prefixes", prefixes.iter().map(|prefix| quoted(prefix)), "none");
    }
}
