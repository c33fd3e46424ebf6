//! What protections do, in few lines.

use super::{
    format::{bytes, count},
    source::{Gate, Protection, Queue, Standing},
};
use std::cmp::Reverse;

/// Protections that are named: those that did most.
const ACTING: usize = 3;

/// Clusters whose queues are shown: those where most waits.
const CLUSTERS: usize = 3;

/// One line on all, one on those that did something, one for each cluster.
pub(super) fn panel(protection: &Protection) -> Vec<String> {
    let mut lines = vec![state(protection)];
    lines.extend(acting(&protection.protections));
    let mut gates: Vec<_> = protection.clusters.iter().collect();
    gates.sort_by_key(|gate| Reverse(gate.queues.iter().map(|queue| queue.waiting).sum::<u64>()));
    lines.extend(gates.iter().take(CLUSTERS).map(|gate| queues(gate)));
    if let Some(more @ 1..) = gates.len().checked_sub(CLUSTERS) {
        lines.push(format!("and {more} more, where less waits"));
    }
    lines
}

/// How far protections go, what was switched by hand, and memory.
fn state(protection: &Protection) -> String {
    let Protection { mode, memory, protections, .. } = protection;
    let switched: Vec<_> = protections
        .iter()
        .filter(|standing| standing.switched)
        .map(|standing| format!("{} {}", standing.protection, standing.mode))
        .collect();
    let switched = match switched.is_empty() {
        true => String::new(),
        false => format!("; switched by hand: {}", switched.join(", ")),
    };
    let (used, limit) = (bytes(memory.used), bytes(memory.limit));
    format!("protections {mode}; memory {used} of {limit}{switched}")
}

/// What delayed or refused most since the start, or would have.
fn acting(standings: &[Standing]) -> Option<String> {
    let weight = |standing: &Standing| {
        let Standing { delayed, refused, would_delay, would_refuse, .. } = standing;
        (refused + delayed, would_refuse + would_delay)
    };
    let mut acting: Vec<_> =
        standings.iter().filter(|standing| weight(standing) != (0, 0)).collect();
    acting.sort_by_key(|standing| Reverse(weight(standing)));
    let texts: Vec<_> = acting.iter().take(ACTING).map(|standing| done(standing)).collect();
    (!texts.is_empty()).then(|| format!("most: {}", texts.join("; ")))
}

/// `queues delayed 12, refused 3`
fn done(standing: &Standing) -> String {
    let figures = [
        (standing.delayed, "delayed"),
        (standing.refused, "refused"),
        (standing.would_delay, "would delay"),
        (standing.would_refuse, "would refuse"),
    ];
    let texts = figures.iter().filter(|(number, _)| *number > 0);
    let texts: Vec<_> =
        texts.map(|(number, what)| format!("{what} {}", count(*number as f64))).collect();
    format!("{} {}", standing.protection, texts.join(", "))
}

/// `queues of main: reads 3/512, writes 0/512, lists 4/4 and 17 wait; space 43 %`
fn queues(gate: &Gate) -> String {
    let queue = |queue: &Queue| {
        let name = queue.queue.rsplit('.').next().unwrap_or_default();
        let waiting = match queue.waiting {
            0 => String::new(),
            waiting => format!(" and {} wait", count(waiting as f64)),
        };
        format!("{name} {}/{}{waiting}", queue.running, queue.limit)
    };
    let queues: Vec<_> = gate.queues.iter().map(queue).collect();
    let space = match gate.space_percent {
        0 => String::new(),
        percent => format!("; space {percent} %"),
    };
    format!("queues of {}: {}{space}", gate.name, queues.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::source::Memory;

    fn standing(protection: &str, figures: [u64; 4], switched: bool) -> Standing {
        let [delayed, refused, would_delay, would_refuse] = figures;
        let (protection, mode) = (protection.into(), "observe".into());
        Standing { protection, mode, switched, delayed, refused, would_delay, would_refuse }
    }

    fn gate(name: &str, waiting: u64, space_percent: u32) -> Gate {
        let queue =
            |queue: &str, waiting| Queue { queue: queue.into(), running: 4, waiting, limit: 8 };
        let queues = vec![queue("queues.reads", 0), queue("queues.lists", waiting)];
        Gate { name: name.into(), space_percent, queues }
    }

    #[test]
    fn what_did_most_and_where_most_waits_come_first() {
        let protection = Protection {
            mode: "enforce".into(),
            memory: Memory { used: 12 << 20, limit: 1 << 30 },
            protections: vec![
                standing("all", [0; 4], false),
                standing("rules.a", [0, 0, 0, 9_000], true),
                standing("rules.b", [1, 0, 0, 0], false),
                standing("queues", [1_200, 3, 0, 0], false),
                standing("rules.c", [0, 2, 0, 0], true),
            ],
            clusters: vec![gate("a", 0, 43), gate("b", 17, 0), gate("c", 0, 0), gate("d", 0, 0)],
        };
        let expected = [
            "protections enforce; memory 12.0 MiB of 1.00 GiB; switched by hand: rules.a observe, rules.c observe",
            "most: queues delayed 1.20k, refused 3; rules.c refused 2; rules.b delayed 1",
            "queues of b: reads 4/8, lists 4/8 and 17 wait",
            "queues of a: reads 4/8, lists 4/8; space 43 %",
            "queues of c: reads 4/8, lists 4/8",
            "and 1 more, where less waits",
        ];
        assert_eq!(panel(&protection), expected);
    }

    #[test]
    fn nothing_is_said_of_what_did_nothing() {
        let protections = vec![standing("all", [0; 4], false)];
        let protection = Protection { mode: "off".into(), protections, ..Protection::default() };
        assert_eq!(panel(&protection), ["protections off; memory 0 B of 0 B"]);
    }
}
