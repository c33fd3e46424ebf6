//! Who loads etcd.

use super::{Column, Enter, Filter, Row, Tab, Table, client_of, name, named, number, word};
use crate::{
    attribution::{Caller, Demand, Load, Ranked},
    cli::{
        args::By,
        top::{
            format::{bytes, count, percent},
            source::Snapshot,
        },
    },
};
use std::{cmp::Reverse, collections::HashMap};

/// Of what has a [`Load`].
const LOAD: [Column; 6] = [
    number("COST", 7, 1),
    number("SHARE", 7, 2),
    number("REQUESTS", 8, 3),
    number("BYTES", 9, 4),
    number("KEYS", 7, 5),
    number("ERROR", 7, 8),
];

pub(super) fn prefixes(snapshot: &Snapshot, by: By) -> Table {
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
pub(super) fn clients(snapshot: &Snapshot, filter: &Filter, by: By) -> Table {
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

pub(super) fn shapes(snapshot: &Snapshot, filter: &Filter, by: By) -> Table {
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

pub(super) fn objects(snapshot: &Snapshot, by: By) -> Table {
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
