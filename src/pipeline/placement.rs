//! The clusters behind one listener and which of them owns what.

use super::{Call, Tokens};
use crate::{
    admission::Gate,
    etcd::key_range::KeyRange,
    mirror::Mirror,
    routing::{Located, Segment, Table},
    upstream::Cluster,
};
use std::{fmt, sync::Arc};
use tokio_util::sync::CancellationToken;

/// The clusters behind one listener. A reload puts another one in its place; calls keep the one
/// they began with.
#[derive(Debug)]
pub struct Topology {
    /// The default cluster first.
    pub clusters: Vec<Arc<Cluster>>,
    /// The way into each of them.
    pub gates: Vec<Arc<Gate>>,
    /// What is held of each of them.
    pub mirrors: Vec<Arc<Mirror>>,
    /// Indices into `clusters`.
    pub table: Table<usize>,
    /// URLs that `MemberList` shows; empty: the address each client connected to.
    pub advertise: Vec<String>,
    pub tokens: Tokens,
    /// Cancelled when another topology has taken this one's place, and when the process begins to stop:
    /// what would not end by itself ends then, so that clients open it anew where it belongs now.
    pub ended: CancellationToken,
}

/// A cluster of a topology, chosen for a call.
#[derive(Clone, Copy)]
pub struct Placed<'t> {
    pub index: usize,
    pub cluster: &'t Arc<Cluster>,
    topology: &'t Topology,
}

/// The client named a cluster that is not behind this listener.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no etcd cluster {name:?} behind this listener; there is {known}")]
pub struct UnknownCluster {
    name: String,
    known: String,
}

impl Topology {
    /// Whether all keys lie in one cluster.
    pub fn is_single(&self) -> bool {
        self.clusters.len() == 1
    }

    pub fn at(&self, index: usize) -> Placed<'_> {
        Placed { index, cluster: &self.clusters[index], topology: self }
    }

    pub fn default(&self) -> Placed<'_> {
        self.at(0)
    }

    /// All but the default cluster.
    pub fn secondaries(&self) -> impl Iterator<Item = Placed<'_>> {
        (1..self.clusters.len()).map(|index| self.at(index))
    }

    /// The cluster that owns `key`.
    pub fn owner(&self, key: &[u8]) -> Placed<'_> {
        self.at(*self.table.locate_key(key))
    }

    /// The cluster that owns `range`, or the parts of it that several own.
    pub fn owners(&self, range: &KeyRange) -> Result<Placed<'_>, Vec<Segment<'_, usize>>> {
        match self.table.locate(range) {
            Located::One(index) => Ok(self.at(*index)),
            Located::Several(segments) => Err(segments),
        }
    }

    /// The cluster for a call without keys: the one it names, else the default.
    ///
    /// # Errors
    ///
    /// When it names one that is not here.
    pub fn named(&self, call: &Call) -> Result<Placed<'_>, UnknownCluster> {
        let Some(name) = &call.cluster else { return Ok(self.default()) };
        let index = self.clusters.iter().position(|cluster| *cluster.name == **name);
        index.map(|index| self.at(index)).ok_or_else(|| {
            let known: Vec<_> = self.clusters.iter().map(|cluster| &*cluster.name).collect();
            UnknownCluster { name: name.clone(), known: known.join(", ") }
        })
    }
}

impl<'t> Placed<'t> {
    pub fn tokens(&self) -> &'t Tokens {
        &self.topology.tokens
    }

    pub fn mirror(&self) -> &'t Arc<Mirror> {
        &self.topology.mirrors[self.index]
    }

    pub fn gate(&self) -> &'t Arc<Gate> {
        &self.topology.gates[self.index]
    }
}

impl fmt::Debug for Placed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cluster.name)
    }
}
