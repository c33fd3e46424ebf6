//! Writes: what was acknowledged has happened, what was refused has not, and nothing happened twice.

use super::{Case, reads::values};
use crate::history::{Answer, Call, Change, EVENTS, Kv, Owner, Request};
use std::collections::HashMap;

/// Each acknowledged change is there, at the revision that was told.
pub(super) fn acknowledged(case: &Case) -> Vec<String> {
    let lost = case.history.calls.iter().filter_map(|call| {
        let header = call.answer.as_ref().ok()?.header();
        let lost = acknowledged_changes(call)
            .into_iter()
            .find(|(key, change)| !happened(case, call.owner, key, change, header.revision));
        lost.map(|(key, change)| format!("{change:?} of {key} did not happen: {call:?}"))
    });
    lost.collect()
}

fn acknowledged_changes(call: &Call) -> Vec<(&String, &Change)> {
    match (&call.request, &call.answer) {
        (Request::Write { key, change }, Ok(_))
        | (Request::Swap { key, change, .. }, Ok(Answer::Swapped { succeeded: true, .. })) => {
            vec![(key, change)]
        }
        (Request::WriteAll { changes }, Ok(_)) => {
            changes.iter().map(|(key, change)| (key, change)).collect()
        }
        _ => Vec::new(),
    }
}

fn happened(case: &Case, owner: Owner, key: &str, change: &Change, revision: i64) -> bool {
    let truth = case.truth(owner);
    match change {
        Change::Put { value, lease } => truth.get(key, revision).is_some_and(|kv: &Kv| {
            kv.mod_revision == revision && kv.value == *value && kv.lease == *lease
        }),
        // Also of what was not there before.
        Change::Delete => truth.get(key, revision).is_none(),
    }
}

/// Nothing that was asked for once has happened twice, and nothing that nobody asked for.
pub(super) fn unknown(case: &Case) -> Vec<String> {
    let asked: HashMap<&str, &Call> = case
        .history
        .calls
        .iter()
        .flat_map(|call| values(&call.request).map(move |value| (value, call)))
        .collect();
    let mut broken = Vec::new();
    for (owner, truth) in &case.truths {
        for (_, event) in truth.all().filter(|(_, event)| !event.deleted) {
            let puts = truth.puts_of(&event.kv.value);
            match asked.get(event.kv.value.as_str()) {
                None => broken.push(format!("nobody has asked {owner:?} for {event:?}")),
                Some(call) if puts.len() > 1 && puts[0] == event.revision() => {
                    broken.push(format!("it happened at {puts:?}: {call:?}"));
                }
                Some(_) => {}
            }
        }
    }
    broken
}

/// A swap that was told not to have been made was not made.
pub(super) fn refused(case: &Case) -> Vec<String> {
    let refused = case
        .history
        .calls
        .iter()
        .filter(|call| matches!(call.answer, Ok(Answer::Swapped { succeeded: false, .. })));
    let made = refused.filter_map(|call| {
        let revisions =
            values(&call.request).flat_map(|value| case.truth(call.owner).puts_of(value));
        let revisions: Vec<_> = revisions.collect();
        (!revisions.is_empty()).then(|| format!("it happened at {revisions:?}: {call:?}"))
    });
    made.collect()
}

/// A swap is made if and only if the key was as expected, and else shows how it was.
pub(super) fn swaps(case: &Case) -> Vec<String> {
    let wrong = case.history.calls.iter().filter_map(|call| {
        let Request::Swap { key, expected, .. } = &call.request else { return None };
        let Ok(Answer::Swapped { header, succeeded, current }) = &call.answer else { return None };
        let (truth, revision) = (case.truth(call.owner), header.revision);
        let seen = truth.get(key, if *succeeded { revision - 1 } else { revision });
        let same = seen.map_or(0, |kv| kv.mod_revision) == *expected;
        let shown = *succeeded || current.as_ref() == seen;
        (same != *succeeded || !shown).then(|| format!("it was {seen:?}: {call:?}"))
    });
    wrong.collect()
}

/// Each cluster has only the keys that it owns.
pub(super) fn routed(case: &Case) -> Vec<String> {
    let mut astray = Vec::new();
    for (owner, truth) in &case.truths {
        let wrong = truth.all().filter(|(_, event)| Owner::of(&event.kv.key) != *owner);
        astray.extend(wrong.map(|(_, event)| format!("{owner:?} has {event:?}, not {EVENTS}")));
    }
    astray
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::{Sample, swap, write};

    #[test]
    fn an_acknowledged_write_that_is_not_there_is_lost() {
        let sample = Sample::new().put("/a", "one", 2);
        let there = sample.clone().call(1..2, write("/a", "one"), Sample::written(2));
        assert_eq!(acknowledged(&there.case()), [""; 0]);
        let lost = sample.call(1..2, write("/a", "two"), Sample::written(2));
        assert_eq!(acknowledged(&lost.case()).len(), 1);
    }

    #[test]
    fn a_write_without_an_answer_may_happen_once() {
        let error = || Err("unavailable".to_owned());
        let sample = Sample::new().call(1..2, write("/a", "one"), error());
        assert_eq!(unknown(&sample.case()), [""; 0]);
        let once = sample.put("/a", "one", 2);
        assert_eq!(unknown(&once.case()), [""; 0]);
        let twice = once.put("/a", "one", 3);
        assert!(unknown(&twice.case())[0].contains("[2, 3]"));
        let foreign = Sample::new().put("/a", "whose", 2);
        assert!(unknown(&foreign.case())[0].contains("nobody has asked"));
    }

    #[test]
    fn a_swap_is_made_if_it_says_so() {
        let sample = Sample::new().put("/a", "one", 2).put("/a", "two", 3);
        let made = sample.clone().call(1..2, swap("/a", 2, "two"), Sample::swapped(3, true, None));
        assert_eq!((refused(&made.case()), swaps(&made.case())), (Vec::new(), Vec::new()));
        let seen = sample.kv("/a", 3);
        let denied = Sample::swapped(3, false, seen.clone());
        let denied = sample.clone().call(1..2, swap("/a", 2, "two"), denied);
        assert_eq!(refused(&denied.case()).len(), 1, "it was made all the same");
        let blind = sample.clone().call(1..2, swap("/a", 3, "x"), Sample::swapped(3, false, seen));
        assert_eq!(swaps(&blind.case()).len(), 1, "it was as expected");
        let wrong = sample.call(1..2, swap("/a", 1, "x"), Sample::swapped(3, false, None));
        assert_eq!(swaps(&wrong.case()).len(), 1, "it shows something else");
    }

    #[test]
    fn a_key_of_the_other_cluster_is_astray() {
        let sample = Sample::new().put("/a", "one", 2);
        assert_eq!(routed(&sample.case()), [""; 0]);
        assert_eq!(routed(&sample.put("/registry/events/x", "two", 3).case()).len(), 1);
    }
}
