//! What must be true of a history: pure functions, each named after the guarantee that it checks.

mod leases;
mod reads;
#[cfg(test)]
mod sample;
mod watches;
mod writes;

use crate::{
    history::{History, Moment, Owner},
    truth::Truth,
};
use std::{collections::BTreeMap, fmt};

/// What clients were told, and what has happened.
#[derive(Debug, Default)]
pub(crate) struct Case {
    pub(crate) history: History,
    pub(crate) truths: BTreeMap<Owner, Truth>,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

type Check = fn(&Case) -> Vec<String>;

/// Every rule by its name.
pub(crate) const RULES: &[(&str, Check)] = &[
    ("never invented", reads::never_invented),
    ("linearizable", reads::linearizable),
    ("serializable at a revision", reads::serializable),
    ("acknowledged write never lost", writes::acknowledged),
    ("unknown write at most once", writes::unknown),
    ("refused write never happens", writes::refused),
    ("swap follows its comparison", writes::swaps),
    ("routed key never on the wrong cluster", writes::routed),
    ("lease never early", leases::never_early),
    ("Filter", watches::filter),
    ("Ordered", watches::ordered),
    ("Unique", watches::unique),
    ("Atomic", watches::atomic),
    ("Bookmarkable", watches::bookmarkable),
    ("Resumable", watches::resumable),
    ("Reliable", watches::reliable),
    ("PrevKV", watches::prev_kv),
    ("IsCreate", watches::is_create),
];

impl Case {
    pub(crate) fn truth(&self, owner: Owner) -> &Truth {
        &self.truths[&owner]
    }

    /// All that is wrong with it.
    pub(crate) fn violations(&self) -> Vec<Violation> {
        let broken = |(rule, check): &(&'static str, Check)| {
            check(self).into_iter().map(|what| Violation { rule, what }).collect::<Vec<_>>()
        };
        RULES.iter().flat_map(broken).collect()
    }
}

/// The newest revision of a cluster that anybody had been shown by some moment.
struct Floor(Vec<(Moment, i64)>);

impl Floor {
    fn of(case: &Case, owner: Owner) -> Self {
        let calls = case.history.calls.iter().filter(|call| call.owner == owner);
        let answered = calls.filter_map(|call| {
            let answer = call.answer.as_ref().ok()?;
            Some((call.end, answer.header().revision))
        });
        let watches = case.history.watches.iter().filter(|watch| watch.owner == owner);
        let told = watches.flat_map(|watch| &watch.told);
        let told =
            told.flat_map(|told| told.events.iter().map(|event| (told.at, event.revision())));
        let mut shown: Vec<_> = answered.chain(told).collect();
        shown.sort_unstable();
        let mut newest = 0;
        for (_, revision) in &mut shown {
            newest = newest.max(*revision);
            *revision = newest;
        }
        Self(shown)
    }

    fn at(&self, moment: Moment) -> i64 {
        let before = self.0.partition_point(|(at, _)| *at < moment);
        before.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}
