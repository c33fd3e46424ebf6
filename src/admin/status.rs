//! The state of the process as JSON.

use super::View;
use crate::{
    rpc::Edge,
    upstream::{Cluster, Lane, Member},
};
use serde::Serialize;
use std::collections::BTreeMap;

/// What `/status` shows.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    uptime_seconds: u64,
    stopping: bool,
    listeners: Vec<ListenerStatus>,
    clusters: BTreeMap<String, ClusterStatus>,
}

#[derive(Debug, Serialize)]
struct ListenerStatus {
    name: String,
    address: String,
    default: String,
    routes: Vec<RouteStatus>,
}

#[derive(Debug, Serialize)]
struct RouteStatus {
    prefix: String,
    cluster: String,
}

#[derive(Debug, Serialize)]
struct ClusterStatus {
    healthy: bool,
    /// Hexadecimal, as etcdctl prints it.
    cluster_id: String,
    revision: i64,
    members: Vec<MemberStatus>,
}

#[derive(Debug, Serialize)]
struct MemberStatus {
    endpoint: String,
    id: String,
    state: &'static str,
    leader: bool,
    /// What an answer takes.
    latency_ms: f64,
    version: String,
    db_size_bytes: i64,
    db_size_in_use_bytes: i64,
    /// 0 where it is not known.
    db_quota_bytes: u64,
    alarms: Vec<String>,
    calls_waiting: usize,
    /// Connections, by kind of call.
    lanes: BTreeMap<&'static str, LaneStatus>,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct LaneStatus {
    connections: usize,
    calls: usize,
}

pub(super) fn status(view: &View) -> Status {
    let mut clusters = BTreeMap::new();
    for (_, _, edge) in &view.listeners {
        for cluster in &edge.topology().clusters {
            clusters.insert(cluster.name.to_string(), cluster_status(cluster));
        }
    }
    Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: view.started.elapsed().as_secs(),
        stopping: view.signals.leaving.is_cancelled(),
        listeners: view
            .listeners
            .iter()
            .map(|(name, address, edge)| listener_status(name, &address.to_string(), edge))
            .collect(),
        clusters,
    }
}

fn listener_status(name: &str, address: &str, edge: &Edge) -> ListenerStatus {
    let topology = edge.topology();
    let cluster = |index: usize| topology.clusters[index].name.to_string();
    let routes = topology.table.routes().iter().map(|route| RouteStatus {
        prefix: route.prefix.escape_ascii().to_string(),
        cluster: cluster(route.cluster),
    });
    ListenerStatus {
        name: name.to_owned(),
        address: address.to_owned(),
        default: cluster(0),
        routes: routes.collect(),
    }
}

fn cluster_status(cluster: &Cluster) -> ClusterStatus {
    let identity = cluster.identity();
    let members = cluster.members.iter().zip(identity.statuses).map(|(member, status)| {
        let status = status.unwrap_or_default();
        let quota = cluster.quota(&status);
        MemberStatus {
            endpoint: member.name.to_string(),
            id: format!("{:x}", member.id()),
            state: member.state().as_str(),
            leader: member.id() != 0 && member.id() == cluster.leader(),
            latency_ms: member.latency().as_secs_f64() * 1e3,
            version: status.version,
            db_size_bytes: status.db_size,
            db_size_in_use_bytes: status.db_size_in_use,
            db_quota_bytes: quota.unwrap_or(0),
            alarms: status.errors,
            calls_waiting: member.in_flight(),
            lanes: Lane::ALL.into_iter().map(|lane| lane_status(member, lane)).collect(),
            error: member.last_error().map(|error| error.to_string()),
        }
    });
    ClusterStatus {
        healthy: cluster.is_healthy(),
        cluster_id: format!("{:x}", identity.header.cluster_id),
        revision: identity.header.revision,
        members: members.collect(),
    }
}

fn lane_status(member: &Member, lane: Lane) -> (&'static str, LaneStatus) {
    let (connections, calls) = member.lane(lane);
    (lane.as_str(), LaneStatus { connections, calls })
}
