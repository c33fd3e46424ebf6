//! All tables as plain text.

use super::{
    By, Window, protections, screen,
    source::Snapshot,
    table::{Filter, Kind, Tab, Table},
};
use comfy_table::{CellAlignment, presets::NOTHING};

/// Rows of each table.
const ROWS: usize = 20;

pub(super) fn text(snapshot: &Snapshot, window: Window, by: By) -> String {
    let head = screen::summary(snapshot, window, by);
    let tables = Tab::ALL.map(|tab| {
        let table = Table::new(snapshot, tab, &Filter::default(), by);
        format!("\n{}\n{}", tab.title(), plain(&table))
    });
    let panel: String =
        protections::panel(&snapshot.protection).into_iter().map(|line| line + "\n").collect();
    format!("{head}\n{panel}{}", tables.concat())
}

fn plain(table: &Table) -> String {
    let Table { columns, rows } = table;
    if rows.is_empty() {
        return "  none\n".to_owned();
    }
    let mut text = comfy_table::Table::new();
    text.load_style(NOTHING).set_header(columns.iter().map(|column| column.head));
    text.add_rows(rows.iter().take(ROWS).map(|row| &row.cells));
    for (column, shown) in text.column_iter_mut().zip(columns) {
        if shown.kind == Kind::Number {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let more = match rows.len().saturating_sub(ROWS) {
        0 => String::new(),
        more => format!("  and {more} more\n"),
    };
    format!("{}\n{more}", text.trim_fmt())
}
