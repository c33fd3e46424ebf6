//! The lists as they are shown.

use super::{
    largest,
    names::{Key, Use},
    sketch::Weighed,
};
use crate::admission::Client;
use serde::{Deserialize, Serialize};
use std::{fmt, ops::AddAssign, sync::Arc};

/// Who loads etcd, over the last minute and the last hour.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Top {
    pub minute: Ranking,
    pub hour: Ranking,
}

/// The lists of one window, the heaviest of each first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ranking {
    /// How long the window is.
    pub seconds: u64,
    /// All calls, exactly.
    pub total: Load,
    pub prefixes: Vec<Ranked<Prefix>>,
    pub clients: Vec<Ranked<Caller>>,
    /// Who asks what of which prefix.
    pub shapes: Vec<Ranked<Demand>>,
    /// The largest that were written or read, the largest first.
    pub objects: Vec<Object>,
}

/// What calls have cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    pub cost: f64,
    pub requests: u64,
    /// Of requests and answers.
    pub bytes: u64,
    pub keys: u64,
}

impl AddAssign for Load {
    fn add_assign(&mut self, more: Self) {
        self.cost += more.cost;
        self.requests += more.requests;
        self.bytes += more.bytes;
        self.keys += more.keys;
    }
}

/// A name with its load: at least this much, since it was counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ranked<N> {
    #[serde(flatten)]
    pub name: N,
    #[serde(flatten)]
    pub load: Load,
    /// Part of the total cost, from 0 to 1.
    pub share: f64,
    /// By how much the cost may be higher. 0 unless there are more names than entries.
    pub error: f64,
}

/// All objects of a resource, such as `/registry/pods`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Prefix {
    pub cluster: String,
    /// Empty for calls without a key.
    #[serde(rename = "name")]
    pub prefix: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Caller {
    /// Common name of its certificate, else its address.
    #[serde(rename = "name")]
    pub client: String,
    pub address: String,
}

/// Unlike its name alone, this tells apart those who share a certificate.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, address } = self;
        if client == address { f.write_str(client) } else { write!(f, "{client} ({address})") }
    }
}

/// Who asks what of which prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Demand {
    pub cluster: String,
    pub prefix: String,
    pub client: String,
    pub address: String,
    pub shape: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    pub cluster: String,
    pub name: String,
    /// Largest size seen.
    pub bytes: u64,
    /// How often it was seen.
    pub requests: u64,
}

impl<N> Ranked<N> {
    pub(super) fn new<K>(weighed: &Weighed<K>, total: f64) -> Self
    where
        N: for<'a> From<&'a K>,
    {
        let Weighed { key, load, error } = weighed;
        let share = if total > 0.0 { load.cost / total } else { 0.0 };
        Self { name: key.into(), load: *load, share, error: *error }
    }
}

impl From<&Key> for Prefix {
    fn from(key: &Key) -> Self {
        Self { cluster: key.cluster.to_string(), prefix: text(&key.key) }
    }
}

impl From<&Arc<Client>> for Caller {
    fn from(client: &Arc<Client>) -> Self {
        Self { client: client.name.to_string(), address: client.address.to_string() }
    }
}

impl From<&Use> for Demand {
    fn from(used: &Use) -> Self {
        let Prefix { cluster, prefix } = (&used.prefix).into();
        let Caller { client, address } = (&used.client).into();
        Self { cluster, prefix, client, address, shape: used.shape.as_str().to_owned() }
    }
}

impl From<largest::Sized<Key>> for Object {
    fn from(sized: largest::Sized<Key>) -> Self {
        let Prefix { cluster, prefix: name } = (&sized.key).into();
        Self { cluster, name, bytes: sized.size, requests: sized.seen }
    }
}

fn text(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}
