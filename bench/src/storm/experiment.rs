use crate::{target::Target, workload::Objects};
use serde::{Serialize, Serializer};
use std::fmt;

/// One thing that is measured of each target in each round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Experiment {
    Storm(Storm),
    HotKey(HotKey),
}

/// Lists without a limit beside small writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Storm {
    pub(crate) objects: Objects,
    pub(crate) load: Load,
    pub(crate) keys: Keys,
}

/// How lists come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Load {
    /// So many listers, each of which waits for its answer and asks again.
    Closed { listers: usize },
    /// So many a second, however long they take.
    Open { per_second: f64 },
}

/// Whether one answer could serve several listers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Keys {
    /// All send the same request.
    Common,
    /// Each sends one of its own, which selects the same objects.
    Own,
}

/// 1,000 reads in flight of what everybody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HotKey {
    /// One key, which is written ten times a second.
    Point,
    /// The bare name of the resource with a limit of one, as kube-apiserver asks for the current
    /// revision.
    Revision,
}

impl Storm {
    /// The most lists in flight. Those of an open loop that are meant to begin while so many are out
    /// wait for a connection, and are the later for it.
    pub(crate) fn in_flight(&self) -> usize {
        match (self.load, self.objects) {
            (Load::Closed { listers }, _) => listers,
            (Load::Open { .. }, Objects::Of2KiB) => 64,
            (Load::Open { .. }, Objects::Of10KiB) => 16,
        }
    }

    /// etcd was seen to hold 4 times the bytes of each list in flight, and a proxy that buffers as
    /// much again.
    pub(crate) fn memory_mib(&self, target: Target) -> u64 {
        let held = if target == Target::GrpcProxy { 10 } else { 5 };
        let list_mib = (self.objects.value_bytes() * Objects::KEYS) as u64 >> 20;
        (self.in_flight() as u64 + 1) * list_mib * held
    }
}

impl fmt::Display for Experiment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storm(storm) => storm.fmt(f),
            Self::HotKey(HotKey::Point) => f.write_str("hotkey-point"),
            Self::HotKey(HotKey::Revision) => f.write_str("hotkey-revision"),
        }
    }
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.objects {
            Objects::Of2KiB => "storm20",
            Objects::Of10KiB => "storm100",
        })?;
        match self.load {
            Load::Closed { listers } => write!(f, "-{listers}")?,
            Load::Open { per_second } => write!(f, "-{per_second}/s")?,
        }
        f.write_str(match self.keys {
            Keys::Common => "-common",
            Keys::Own => "-own",
        })
    }
}

impl Serialize for Experiment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
