//! The tables, as rows of text.

mod load;

use super::{
    By,
    format::{bytes, count, milliseconds, span},
    source::{Calls, Cluster, ClusterMirror, Listener, Member, Snapshot},
};
use crate::attribution::{Caller, Demand, Prefix};
use std::{
    cmp::Reverse,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Clusters,
    Requests,
    Prefixes,
    Clients,
    Shapes,
    Objects,
    Memory,
    Watches,
    Protections,
    Events,
    Routes,
}

impl Tab {
    pub(super) const ALL: [Self; 11] = [
        Self::Clusters,
        Self::Requests,
        Self::Prefixes,
        Self::Clients,
        Self::Shapes,
        Self::Objects,
        Self::Memory,
        Self::Watches,
        Self::Protections,
        Self::Events,
        Self::Routes,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Clusters => "Clusters",
            Self::Prefixes => "Prefixes",
            Self::Clients => "Clients",
            Self::Shapes => "Shapes",
            Self::Objects => "Objects",
            Self::Memory => "Memory",
            Self::Watches => "Watches",
            Self::Protections => "Protections",
            Self::Requests => "Requests",
            Self::Events => "Events",
            Self::Routes => "Routes",
        }
    }
}

/// What a table is narrowed to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) prefix: Option<Prefix>,
    pub(super) client: Option<Caller>,
}

impl Filter {
    fn admits(&self, demand: &Demand) -> bool {
        self.prefix.as_ref().is_none_or(|prefix| *prefix == prefix_of(demand))
            && self.client.as_ref().is_none_or(|client| *client == client_of(demand))
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) head: &'static str,
    /// What it needs at least.
    pub(super) width: u16,
    pub(super) kind: Kind,
    /// What is higher gives way first where there is little room.
    pub(super) rank: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Takes a share of the room that is left.
    Name,
    Word,
    /// Stands on the right.
    Number,
}

const fn name(head: &'static str, width: u16, rank: u8) -> Column {
    Column { head, width, kind: Kind::Name, rank }
}

const fn word(head: &'static str, width: u16, rank: u8) -> Column {
    Column { head, width, kind: Kind::Word, rank }
}

const fn number(head: &'static str, width: u16, rank: u8) -> Column {
    Column { head, width, kind: Kind::Number, rank }
}

/// Where a key leads from a row.
#[derive(Debug, Clone)]
pub(super) enum Enter {
    Nowhere,
    Table(Tab, Filter),
    /// Asks for the mode of this protection.
    Switch(String),
}

#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) cells: Vec<String>,
    pub(super) enter: Enter,
}

#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Row>,
}

impl Table {
    pub(super) fn new(snapshot: &Snapshot, tab: Tab, filter: &Filter, by: By) -> Self {
        match tab {
            Tab::Clusters => clusters(snapshot),
            Tab::Prefixes => load::prefixes(snapshot, by),
            Tab::Clients => load::clients(snapshot, filter, by),
            Tab::Shapes => load::shapes(snapshot, filter, by),
            Tab::Objects => load::objects(snapshot, by),
            Tab::Memory => memory(snapshot, by),
            Tab::Watches => watches(snapshot, by),
            Tab::Protections => protections(snapshot),
            Tab::Requests => requests(snapshot, by),
            Tab::Events => events(snapshot),
            Tab::Routes => routes(snapshot),
        }
    }
}

fn clusters(snapshot: &Snapshot) -> Table {
    let columns = vec![
        word("CLUSTER", 8, 1),
        name("MEMBER", 22, 0),
        word("STATE", 9, 0),
        word("LEADER", 6, 3),
        number("LATENCY", 9, 2),
        number("DB / QUOTA", 19, 4),
        word("VERSION", 7, 5),
        word("ALARMS", 7, 6),
    ];
    let row = |name: &str, member: &Member| Row {
        cells: vec![
            name.to_owned(),
            member.endpoint.clone(),
            member.state.clone(),
            if member.leader { "leader".into() } else { String::new() },
            milliseconds(member.latency_ms),
            database(member),
            member.version.clone(),
            member.alarms.join(", "),
        ],
        enter: Enter::Nowhere,
    };
    let rows = snapshot.status.clusters.iter().flat_map(|(name, Cluster { members })| {
        members.iter().map(move |member| row(name, member))
    });
    Table { columns, rows: rows.collect() }
}

fn database(member: &Member) -> String {
    let Member { db_size_bytes: size, db_quota_bytes: quota, .. } = *member;
    match quota {
        0 => bytes(size),
        _ => format!("{} / {}", bytes(size), bytes(quota)),
    }
}

fn requests(snapshot: &Snapshot, by: By) -> Table {
    let columns = vec![
        word("CLASS", 11, 0),
        name("CLUSTER", 8, 4),
        number("A SECOND", 8, 1),
        number("MEAN", 9, 2),
        number("OPEN", 6, 5),
        number("REFUSED", 7, 3),
        number("FAILED", 7, 3),
        number("CALLS", 7, 6),
        number("BYTES", 9, 7),
        number("WOULD REFUSE", 12, 8),
    ];
    let mut calls: Vec<_> = snapshot.calls.iter().collect();
    let key = |calls: &Calls| match by {
        By::Cost => calls.late.per_second * calls.late.mean_ms,
        By::Requests => calls.late.per_second,
        By::Bytes => calls.bytes as f64,
    };
    calls.sort_by(|a, b| key(b).total_cmp(&key(a)));
    let rows = calls.into_iter().map(|calls| Row {
        cells: vec![
            calls.class.replace('_', " "),
            calls.cluster.clone(),
            count(calls.late.per_second),
            milliseconds(calls.late.mean_ms),
            count(calls.open as f64),
            count(calls.refused as f64),
            count(calls.failed as f64),
            count(calls.calls as f64),
            bytes(calls.bytes),
            count(calls.would_refuse as f64),
        ],
        enter: Enter::Nowhere,
    });
    Table { columns, rows: rows.collect() }
}

fn events(snapshot: &Snapshot) -> Table {
    let columns =
        vec![word("AGO", 7, 0), word("LEVEL", 5, 2), name("WHAT", 24, 0), name("DETAILS", 30, 1)];
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let rows = snapshot.events.iter().map(|event| {
        let ago = now.saturating_sub(Duration::from_millis(event.at));
        let times = match event.times {
            1 => String::new(),
            times => format!(" ({times} times)"),
        };
        Row {
            cells: vec![
                span(ago.as_secs()),
                event.level.to_lowercase(),
                format!("{}{times}", event.message),
                event.details.clone(),
            ],
            enter: Enter::Nowhere,
        }
    });
    Table { columns, rows: rows.collect() }
}

fn memory(snapshot: &Snapshot, by: By) -> Table {
    let columns = vec![
        name("COLLECTION", 16, 0),
        word("STATE", 8, 1),
        word("TIER", 6, 5),
        number("KEYS", 7, 3),
        number("MEMORY", 9, 2),
        number("HITS", 7, 2),
        number("PASSED", 7, 4),
        number("BEHIND", 6, 6),
        word("CLUSTER", 8, 7),
        name("WHY", 12, 8),
    ];
    let mut held: Vec<_> = snapshot
        .mirror
        .clusters
        .iter()
        .flat_map(|(name, mirror)| mirror.collections.iter().map(move |held| (name, mirror, held)))
        .collect();
    held.sort_by_key(|(_, _, held)| {
        Reverse(if by == By::Bytes { held.bytes } else { held.hits + held.misses })
    });
    let rows = held.into_iter().map(|(cluster, mirror, held)| Row {
        cells: vec![
            held.collection.clone(),
            held.state.clone(),
            held.tier.clone().unwrap_or_default(),
            count(held.keys as f64),
            bytes(held.bytes),
            count(held.hits as f64),
            count(held.misses as f64),
            count(mirror.behind as f64),
            cluster.clone(),
            held.why.clone().unwrap_or_default(),
        ],
        enter: Enter::Nowhere,
    });
    Table { columns, rows: rows.collect() }
}

fn watches(snapshot: &Snapshot, by: By) -> Table {
    let columns = vec![
        name("CLUSTER", 8, 0),
        number("STREAMS", 7, 1),
        number("FROM MEMORY", 11, 0),
        number("EVENTS/S", 8, 2),
        number("GONE TO ETCD", 12, 3),
        number("COME BACK", 9, 4),
    ];
    let of = |cluster: &str, calls: &&Calls| calls.cluster == cluster && calls.class == "watch";
    let streams = |cluster: &str| {
        let calls = snapshot.calls.iter().filter(|calls| of(cluster, calls));
        calls.map(|calls| calls.open).sum::<u64>() as f64
    };
    let key = |cluster: &str, mirror: &ClusterMirror| match by {
        By::Requests => streams(cluster),
        By::Cost | By::Bytes => mirror.events_per_second,
    };
    let mut watched: Vec<_> = snapshot.mirror.clusters.iter().collect();
    watched.sort_by(|a, b| key(b.0, b.1).total_cmp(&key(a.0, a.1)));
    let rows = watched.into_iter().map(|(cluster, mirror)| Row {
        cells: vec![
            cluster.clone(),
            count(streams(cluster)),
            count(mirror.watchers as f64),
            count(mirror.events_per_second),
            count(mirror.watch_handovers as f64),
            count(mirror.watch_returns as f64),
        ],
        enter: Enter::Nowhere,
    });
    Table { columns, rows: rows.collect() }
}

/// As they are configured, whatever is sorted by.
fn routes(snapshot: &Snapshot) -> Table {
    let columns = vec![
        word("LISTENER", 10, 1),
        word("ADDRESS", 21, 2),
        name("KEYS", 20, 0),
        word("CLUSTER", 12, 0),
    ];
    let row = |listener: &Listener, keys: String, cluster: &str| Row {
        cells: vec![listener.name.clone(), listener.address.clone(), keys, cluster.to_owned()],
        enter: Enter::Nowhere,
    };
    let rows = snapshot.status.listeners.iter().flat_map(|listener| {
        let routes = listener.routes.iter();
        let routed = routes
            .map(|route| row(listener, format!("{} and below", route.prefix), &route.cluster));
        let others = if listener.routes.is_empty() { "all" } else { "all others" };
        routed.chain([row(listener, others.to_owned(), &listener.default)]).collect::<Vec<_>>()
    });
    Table { columns, rows: rows.collect() }
}

fn protections(snapshot: &Snapshot) -> Table {
    let columns = vec![
        name("PROTECTION", 16, 0),
        word("MODE", 8, 0),
        word("SET", 7, 4),
        number("REFUSED", 7, 1),
        number("DELAYED", 7, 2),
        number("WOULD REFUSE", 12, 3),
        number("WOULD DELAY", 11, 5),
    ];
    let rows = snapshot.protection.protections.iter().map(|standing| Row {
        cells: vec![
            standing.protection.clone(),
            standing.mode.clone(),
            if standing.switched { "by hand".into() } else { String::new() },
            count(standing.refused as f64),
            count(standing.delayed as f64),
            count(standing.would_refuse as f64),
            count(standing.would_delay as f64),
        ],
        enter: match &standing.protection[..] {
            // The bound of what is held is there to stay.
            "memory" => Enter::Nowhere,
            protection => Enter::Switch(protection.to_owned()),
        },
    });
    Table { columns, rows: rows.collect() }
}

fn prefix_of(demand: &Demand) -> Prefix {
    Prefix { cluster: demand.cluster.clone(), prefix: demand.prefix.clone() }
}

fn client_of(demand: &Demand) -> Caller {
    Caller { client: demand.client.clone(), address: demand.address.clone() }
}

/// Leases and the like have no key.
pub(super) fn named(key: &str) -> String {
    if key.is_empty() { "(no key)".to_owned() } else { key.to_owned() }
}
