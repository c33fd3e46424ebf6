use super::table::{self, Table};
use crate::result::Results;
use std::fmt::{self, Write};

pub(super) fn text(results: &Results) -> String {
    let mut text = String::new();
    write_all(&mut text, results).expect("a string takes everything");
    text
}

fn write_all(out: &mut String, results: &Results) -> fmt::Result {
    for line in results.environment.lines() {
        writeln!(out, "- {line}")?;
    }
    let doubts = table::doubts(results);
    for line in results.notes.iter().chain(&results.failures).chain(&doubts) {
        writeln!(out, "- {line}")?;
    }
    let measured =
        || results.scenarios.iter().filter(|s| results.of(&s.name, None).next().is_some());
    writeln!(out, "\n## At a glance")?;
    for scenario in measured() {
        write_table(out, &table::headlines(results, scenario))?;
    }
    for scenario in measured() {
        writeln!(out, "\n## {}\n\n{}", scenario.title, scenario.story)?;
        for table in table::details(results, scenario) {
            writeln!(out, "\n### {}: {}", scenario.name, table.title)?;
            write_table(out, &table)?;
        }
        let wrongs = table::wrongs(results, scenario);
        if !wrongs.is_empty() {
            writeln!(out, "\n### {}: errors\n", scenario.name)?;
        }
        for line in wrongs {
            writeln!(out, "- {line}")?;
        }
    }
    Ok(())
}

fn write_table(out: &mut String, table: &Table) -> fmt::Result {
    writeln!(out, "\n| {} |", table.columns.join(" | "))?;
    writeln!(out, "|{}", "---|".repeat(table.columns.len()))?;
    for row in &table.rows {
        writeln!(out, "| {} |", row.join(" | "))?;
    }
    Ok(())
}
