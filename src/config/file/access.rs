//! The shape of `access`.

use super::Mode;
use crate::{access::Verb, config::units::Network};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What clients may do; nothing else passes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Access {
    /// `observe` counts and logs what would be refused, and refuses nothing.
    pub(in crate::config) mode: Mode,
    /// A call passes when, for all that it does, there is a grant that lets it.
    pub(in crate::config) grants: Vec<Grant>,
}

/// Lets some clients do something with some keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["verbs"]))]
pub(in crate::config) struct Grant {
    /// Common names of clients' certificates, or addresses of clients without one; `*` stands for any
    /// text and `?` for any character.
    pub(in crate::config) clients: Vec<String>,
    /// Addresses that clients connect from, such as `10.0.0.0/8` or `10.0.0.1`; beside `clients` both
    /// must hold.
    pub(in crate::config) addresses: Vec<Network>,
    /// What they may do: `read`, `write`, `watch`, `lease`, `compact`, `status`, `maintenance`,
    /// `cluster`, `auth`, or `all`.
    #[schemars(length(min = 1), schema_with = "verbs")]
    pub(in crate::config) verbs: Vec<String>,
    /// Keys that they may read, write or watch: `/registry/events` is that key and every key below it,
    /// `\"\"` is every key. A range has to lie below one of them as a whole.
    pub(in crate::config) prefixes: Vec<String>,
}

fn verbs(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<_> = Verb::ALL.iter().map(|verb| verb.as_str()).chain(["all"]).collect();
    json_schema!({"type": "array", "items": {"enum": names}})
}
