//! Calls by cluster and class, as JSON.

use super::View;
use crate::{admission::Class, pipeline::Totals};
use serde::Serialize;

/// What `/calls` shows of one class at one cluster, since the start.
#[derive(Debug, Serialize)]
pub(super) struct Calls {
    #[serde(flatten)]
    totals: Totals,
    /// How often protections that only observe would have refused such a call.
    would_refuse: u64,
}

pub(super) fn calls(view: &View) -> Vec<Calls> {
    let gates = view.protection.gates();
    let would_refuse = |totals: &Totals| {
        let gate = gates.iter().find(|gate| *gate.cluster == *totals.cluster)?;
        let class = Class::ALL.into_iter().find(|class| class.as_str() == totals.class)?;
        Some(gate.would_have_refused(class))
    };
    let totals = view.calls.totals().into_iter();
    totals
        .map(|totals| Calls { would_refuse: would_refuse(&totals).unwrap_or_default(), totals })
        .collect()
}
