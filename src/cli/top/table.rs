//! The tables, as rows of text.

use super::{
    By,
    format::{bytes, count, milliseconds, percent},
    source::{Cluster, Member, Snapshot},
};
use crate::attribution::{Caller, Demand, Load, Prefix, Ranked};
use std::{cmp::Reverse, collections::HashMap};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Clusters,
    Prefixes,
    Clients,
    Shapes,
    Objects,
    Memory,
    Protections,
}

impl Tab {
    pub(super) const ALL: [Self; 7] = [
        Self::Clusters,
        Self::Prefixes,
        Self::Clients,
        Self::Shapes,
        Self::Objects,
        Self::Memory,
        Self::Protections,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Clusters => "Clusters",
            Self::Prefixes => "Prefixes",
            Self::Clients => "Clients",
            Self::Shapes => "Shapes",
            Self::Objects => "Largest objects",
            Self::Memory => "Memory",
            Self::Protections => "Protections",
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

/// Of what has a [`Load`].
const LOAD: [Column; 6] = [
    number("COST", 7, 1),
    number("SHARE", 7, 2),
    number("REQUESTS", 8, 3),
    number("BYTES", 9, 4),
    number("KEYS", 7, 5),
    number("ERROR", 7, 8),
];

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
            Tab::Prefixes => prefixes(snapshot, by),
            Tab::Clients => clients(snapshot, filter, by),
            Tab::Shapes => shapes(snapshot, filter, by),
            Tab::Objects => objects(snapshot, by),
            Tab::Memory => memory(snapshot, by),
            Tab::Protections => protections(snapshot),
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

fn prefixes(snapshot: &Snapshot, by: By) -> Table {
    let mut columns = vec![name("PREFIX", 16, 0)];
    columns.extend(LOAD);
    columns.push(word("CLUSTER", 8, 6));
    let rows = sorted(&snapshot.ranking.prefixes, by).into_iter().map(|ranked| {
        let mut cells = vec![named(&ranked.name.prefix)];
        cells.extend(load(ranked));
        cells.push(ranked.name.cluster.clone());
        let filter = Filter { prefix: Some(ranked.name.clone()), client: None };
        Row { cells, enter: Enter::Table(Tab::Clients, filter) }
    });
    Table { columns, rows: rows.collect() }
}

/// Those of one prefix are put together from its shapes, which alone tell both.
fn clients(snapshot: &Snapshot, filter: &Filter, by: By) -> Table {
    let mut columns = vec![name("CLIENT", 16, 0)];
    columns.extend(LOAD);
    let known = match filter.prefix {
        None => snapshot.ranking.clients.clone(),
        Some(_) => together(&snapshot.ranking.shapes, filter),
    };
    let rows = sorted(&known, by).into_iter().map(|ranked| {
        let mut cells = vec![ranked.name.to_string()];
        cells.extend(load(ranked));
        let filter = Filter { client: Some(ranked.name.clone()), ..filter.clone() };
        Row { cells, enter: Enter::Table(Tab::Shapes, filter) }
    });
    Table { columns, rows: rows.collect() }
}

fn shapes(snapshot: &Snapshot, filter: &Filter, by: By) -> Table {
    let mut columns = vec![word("SHAPE", 16, 0), name("PREFIX", 14, 1), name("CLIENT", 14, 6)];
    columns.extend(LOAD);
    columns.push(word("CLUSTER", 8, 7));
    let shown = sorted(&snapshot.ranking.shapes, by).into_iter();
    let rows = shown.filter(|ranked| filter.admits(&ranked.name)).map(|ranked| {
        let Demand { cluster, prefix, shape, .. } = &ranked.name;
        let client = client_of(&ranked.name).to_string();
        let mut cells = vec![shape.clone(), named(prefix), client];
        cells.extend(load(ranked));
        cells.push(cluster.clone());
        Row { cells, enter: Enter::Nowhere }
    });
    Table { columns, rows: rows.collect() }
}

fn objects(snapshot: &Snapshot, by: By) -> Table {
    let columns = vec![
        name("OBJECT", 20, 0),
        number("SIZE", 9, 0),
        number("SEEN", 7, 1),
        word("CLUSTER", 8, 2),
    ];
    let mut objects: Vec<_> = snapshot.ranking.objects.iter().collect();
    objects.sort_by_key(|object| {
        let key = if by == By::Requests { object.requests } else { object.bytes };
        Reverse(key)
    });
    let rows = objects.into_iter().map(|object| Row {
        cells: vec![
            named(&object.name),
            bytes(object.bytes),
            count(object.requests as f64),
            object.cluster.clone(),
        ],
        enter: Enter::Nowhere,
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
        enter: Enter::Switch(standing.protection.clone()),
    });
    Table { columns, rows: rows.collect() }
}

fn sorted<N>(ranked: &[Ranked<N>], by: By) -> Vec<&Ranked<N>> {
    let key = |ranked: &Ranked<N>| match by {
        By::Cost => ranked.load.cost,
        By::Requests => ranked.load.requests as f64,
        By::Bytes => ranked.load.bytes as f64,
    };
    let mut sorted: Vec<_> = ranked.iter().collect();
    sorted.sort_by(|a, b| key(b).total_cmp(&key(a)));
    sorted
}

/// The cells of [`LOAD`].
fn load<N>(ranked: &Ranked<N>) -> [String; LOAD.len()] {
    let Load { cost, requests, bytes: size, keys } = ranked.load;
    [
        count(cost),
        percent(ranked.share),
        count(requests as f64),
        bytes(size),
        count(keys as f64),
        if ranked.error > 0.0 { format!("+{}", count(ranked.error)) } else { String::new() },
    ]
}

fn together(shapes: &[Ranked<Demand>], filter: &Filter) -> Vec<Ranked<Caller>> {
    let mut clients: HashMap<Caller, Ranked<Caller>> = HashMap::new();
    for ranked in shapes.iter().filter(|ranked| filter.admits(&ranked.name)) {
        let name = client_of(&ranked.name);
        let none = Ranked { name: name.clone(), load: Load::default(), share: 0.0, error: 0.0 };
        let sum = clients.entry(name).or_insert(none);
        sum.load += ranked.load;
        sum.share += ranked.share;
        sum.error += ranked.error;
    }
    clients.into_values().collect()
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
