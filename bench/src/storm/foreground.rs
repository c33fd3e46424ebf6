//! What a cluster does all the time, and what a storm of lists must not harm.

use super::counter::{Acknowledged, Writer};
use crate::{
    client::{
        Connection, Failure,
        etcd::{self, LeaseGrantRequest, LeaseGrantResponse, RangeRequest, RangeResponse},
    },
    measure::{Figures, Loop, Operation, Pace, Precision, run_paced},
    workload::{Objects, Update},
};
use anyhow::{Context, Result};
use serde::Serialize;
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// 200 operations a second, and the ten of the counter.
const UPDATES_PER_SECOND: f64 = 170.0;
const CRITICAL_PER_SECOND: f64 = 30.0;
const COUNTS_PER_SECOND: f64 = 10.0;

/// So many may be out at once, three seconds' worth, before the client itself must wait.
const UPDATES_MAX: usize = 512;
const CRITICAL_MAX: usize = 90;
const CONNECTIONS: usize = 4;

/// What asks, between its phases.
pub(super) struct Foreground {
    updates: Vec<Loop<Update>>,
    critical: Vec<Loop<Critical>>,
    counter: Vec<Loop<Writer>>,
}

/// What came of a phase. Latencies count from the intended time, failures included.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ForegroundFigures {
    /// Updates and critical ones together.
    pub(crate) all: Figures,
    pub(crate) updates: Figures,
    pub(crate) critical: Figures,
    pub(crate) counter: Figures,
}

impl Foreground {
    /// Opens connections and creates the objects that are to be updated.
    pub(super) async fn prepare(
        target: SocketAddr,
        objects: Objects,
        acknowledged: Arc<Acknowledged>,
    ) -> Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(Connection::open(target).await?);
        }
        // Leases and elections have a connection of their own, as kube-apiserver's resources have.
        let (others, own) = connections.split_at(1);
        let mut updates = Vec::new();
        for (index, connection) in (0..UPDATES_MAX).zip(own.iter().cycle()) {
            let mut operation = Update::of([updated(index)]);
            operation.create(connection).await?;
            updates.push(Loop { connection: connection.clone(), operation });
        }
        let mut critical = Vec::new();
        for index in 0..CRITICAL_MAX {
            let operation = Critical::new(index, &others[0]).await?;
            critical.push(Loop { connection: others[0].clone(), operation });
        }
        let counter = count(target, objects, acknowledged).await?;
        Ok(Self { updates, critical, counter })
    }

    pub(super) async fn run(self, duration: Duration) -> Result<(Self, ForegroundFigures)> {
        let pace = |per_second| Pace { per_second, ..counting(duration) };
        let ((updates, mut all), (critical, critical_tally), (counter, counts)) = tokio::try_join!(
            run_paced(self.updates, pace(UPDATES_PER_SECOND)),
            run_paced(self.critical, pace(CRITICAL_PER_SECOND)),
            run_paced(self.counter, counting(duration)),
        )?;
        let updates_tally = all.clone();
        all.add(&critical_tally);
        let figures = ForegroundFigures {
            all: all.figures(),
            updates: updates_tally.figures(),
            critical: critical_tally.figures(),
            counter: counts.figures(),
        };
        Ok((Self { updates, critical, counter }, figures))
    }
}

/// The counter alone.
pub(super) async fn count(
    target: SocketAddr,
    objects: Objects,
    acknowledged: Arc<Acknowledged>,
) -> Result<Vec<Loop<Writer>>> {
    let connection = Connection::open(target).await?;
    let operation = Writer::open(&connection, objects, acknowledged).await.context("counting")?;
    Ok(vec![Loop { connection, operation }])
}

pub(super) fn counting(duration: Duration) -> Pace {
    let precision = Precision::Microseconds;
    Pace { per_second: COUNTS_PER_SECOND, duration, times_failures: true, precision }
}

/// Three objects, then a node's lease.
fn updated(index: usize) -> String {
    if index % 4 == 3 {
        format!("/registry/leases/kube-node-lease/node-{index:05}")
    } else {
        format!("/registry/configmaps/namespace-{:03}/object-{index:05}", index % 100)
    }
}

/// What must never wait behind lists.
enum Critical {
    /// The leader of a controller renews its lease.
    Renew(Update),
    /// For an object with a time to live.
    Grant,
    /// kube-apiserver asks whether etcd works.
    Health,
}

impl Critical {
    /// Of six, four are renewals.
    async fn new(index: usize, connection: &Connection) -> Result<Self> {
        Ok(match index % 6 {
            4 => Self::Grant,
            5 => Self::Health,
            _ => {
                let name = format!("/registry/leases/kube-system/controller-{index:03}");
                let mut update = Update::of([name]);
                update.create(connection).await?;
                Self::Renew(update)
            }
        })
    }
}

impl Operation for Critical {
    async fn perform(&mut self, connection: &Connection) -> Result<u64, Failure> {
        match self {
            Self::Renew(update) => update.perform(connection).await,
            Self::Grant => {
                // What kube-apiserver grants for events, which outlasts a run.
                let request = LeaseGrantRequest { ttl: 3660 };
                let answer: LeaseGrantResponse =
                    connection.unary(etcd::LEASE_GRANT, &request).await?;
                if answer.id == 0 { Err(Failure::Wrong("a lease without an id")) } else { Ok(0) }
            }
            Self::Health => {
                let request = RangeRequest::of_key("/registry/health");
                let answer: RangeResponse = connection.unary(etcd::RANGE, &request).await?;
                match etcd::revision(answer.header.as_ref()) {
                    0 => Err(Failure::Wrong("no revision")),
                    _ => Ok(0),
                }
            }
        }
    }
}
