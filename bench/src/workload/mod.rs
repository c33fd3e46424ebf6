//! What is asked of a target. Each workload is an [`Operation`] that checks its answers.

mod data;
mod get;
mod list;
mod objects;
mod put;
mod update;

pub(crate) use data::{Data, Needs, compact, fill};
pub(crate) use objects::Objects;
pub(crate) use put::Put;
pub(crate) use update::Update;

use crate::{
    client::Connection,
    measure::{Loop, Measurement, Operation, Processes, Until, measure},
};
use anyhow::Result;
use clap::ValueEnum;
use get::Get;
use serde::Serialize;
use std::{fmt, net::SocketAddr, time::Duration};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Workload {
    /// Range of one key of 2 KiB.
    Get,
    /// Put of 1 KiB.
    Put,
    /// Kubernetes' update: compare the mod_revision, then put, else range.
    Txn,
    /// Range of 10,000 keys of 10 KiB.
    List100,
    /// The same lists, two for each in flight, with etcd and peer started anew: for their memory.
    Mem100,
}

/// A workload with so many requests in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Experiment {
    pub(crate) workload: Workload,
    pub(crate) in_flight: usize,
}

/// How long an experiment takes of each target in a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Durations {
    pub(crate) warm_up: Duration,
    pub(crate) small: Duration,
    pub(crate) list: Duration,
}

const CONNECTIONS_MAX: usize = 4;
const LISTS_PER_LOOP_FOR_MEMORY: u64 = 2;

impl Workload {
    /// What is measured unless told otherwise.
    pub(crate) fn in_flight(self) -> &'static [usize] {
        match self {
            Self::Get | Self::Put | Self::Txn => &[1, 16, 64],
            Self::List100 => &[1, 4],
            Self::Mem100 => &[1, 4, 16],
        }
    }

    /// Each list in flight is up to 400 MB in etcd, and a peer that buffers holds 700 MB more.
    pub(crate) fn in_flight_max(self) -> usize {
        match self {
            Self::Get | Self::Put | Self::Txn => 10_000,
            Self::List100 | Self::Mem100 => 16,
        }
    }

    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Put | Self::Txn)
    }
}

impl Experiment {
    /// Measures the server at `target`, which may be etcd or stand in front of it.
    pub(crate) async fn measure(
        self,
        target: SocketAddr,
        data: &Data,
        durations: Durations,
        processes: &Processes,
    ) -> Result<Measurement> {
        let connections = self.connect(target).await?;
        let (warm_up, until) = durations.of(self.workload);
        match self.workload {
            Workload::Get => {
                let loops = self.loops(&connections, Get::new);
                measure(loops, warm_up, until, processes).await
            }
            Workload::Put => {
                let loops = self.loops(&connections, Put::new);
                measure(loops, warm_up, until, processes).await
            }
            Workload::Txn => {
                let mut loops = self.loops(&connections, Update::new);
                for each in &mut loops {
                    each.operation.create(&each.connection).await?;
                }
                measure(loops, warm_up, until, processes).await
            }
            Workload::List100 | Workload::Mem100 => {
                let loops = self.loops(&connections, |_| data.list());
                measure(loops, warm_up, until, processes).await
            }
        }
    }

    async fn connect(self, target: SocketAddr) -> Result<Vec<Connection>> {
        let mut connections = Vec::new();
        for _ in 0..self.in_flight.min(CONNECTIONS_MAX) {
            connections.push(Connection::open(target).await?);
        }
        Ok(connections)
    }

    fn loops<O: Operation>(
        self,
        connections: &[Connection],
        operation: impl Fn(usize) -> O,
    ) -> Vec<Loop<O>> {
        let connections = connections.iter().cycle().cloned();
        let new = |(index, connection)| Loop { connection, operation: operation(index) };
        (0..self.in_flight).zip(connections).map(new).collect()
    }
}

impl Durations {
    fn of(self, workload: Workload) -> (Option<Duration>, Until) {
        match workload {
            Workload::Get | Workload::Put | Workload::Txn => {
                (Some(self.warm_up), Until::Elapsed(self.small))
            }
            Workload::List100 => (Some(self.warm_up), Until::Elapsed(self.list)),
            Workload::Mem100 => (None, Until::Operations(LISTS_PER_LOOP_FOR_MEMORY)),
        }
    }
}

impl fmt::Display for Experiment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workload = self.workload.to_possible_value();
        let name = workload.as_ref().map_or("", |value| value.get_name());
        write!(f, "{name}-{}", self.in_flight)
    }
}
