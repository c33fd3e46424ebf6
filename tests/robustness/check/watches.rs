//! Watches, by etcd's own names for what it promises of them.

use super::Case;
use crate::history::{Event, Owner, Request, Told, Watch};
use std::collections::HashSet;

/// Only what was asked for is told.
pub(super) fn filter(case: &Case) -> Vec<String> {
    each(case, |watch| {
        let mut events = events(watch);
        let foreign = events.find(|event| !wants(watch, event));
        foreign.map(|event| format!("{event:?}"))
    })
}

/// Events come in the order in which they happened.
pub(super) fn ordered(case: &Case) -> Vec<String> {
    each(case, |watch| {
        let revisions: Vec<_> = events(watch).map(Event::revision).collect();
        let back = revisions.windows(2).find(|pair| pair[1] < pair[0]);
        back.map(|pair| format!("{} comes after {}", pair[1], pair[0]))
    })
}

/// No event is told twice.
pub(super) fn unique(case: &Case) -> Vec<String> {
    each(case, |watch| {
        let mut seen = HashSet::new();
        let again = events(watch).find(|event| !seen.insert((event.revision(), &event.kv.key)));
        again.map(|event| format!("again: {event:?}"))
    })
}

/// What happened at one revision comes in one response.
pub(super) fn atomic(case: &Case) -> Vec<String> {
    each(case, |watch| {
        let told: Vec<_> = watch.told.iter().filter(|told| !told.events.is_empty()).collect();
        let split = told.windows(2).find(|pair| last(pair[0]) == pair[1].events[0].revision());
        split.map(|pair| format!("{} comes in two responses", last(pair[0])))
    })
}

/// What progress says was told, was told: nothing up to there follows.
pub(super) fn bookmarkable(case: &Case) -> Vec<String> {
    each(case, |watch| {
        let (mut progress, mut newest) = (0, 0);
        for told in &watch.told {
            if let Some(late) = told.events.iter().find(|event| event.revision() <= progress) {
                return Some(format!("{late:?} comes after progress to {progress}"));
            }
            newest = newest.max(told.events.last().map_or(0, Event::revision));
            if told.events.is_empty() {
                if told.header.revision < progress.max(newest) {
                    let revision = told.header.revision;
                    return Some(format!("progress to {revision} after {progress}, {newest}"));
                }
                progress = told.header.revision;
            }
        }
        None
    })
}

/// It begins with the first event from its start on.
pub(super) fn resumable(case: &Case) -> Vec<String> {
    each(case, |watch| {
        let first = events(watch).next()?;
        let truth = case.truth(watch.owner);
        let mut since = truth.between(watch.start_revision, first.revision());
        let (_, expected) = since.find(|(_, event)| wants(watch, event))?;
        let same = (expected.revision(), &expected.kv.key) == (first.revision(), &first.kv.key);
        (!same).then(|| format!("{first:?} comes first, and not {expected:?}"))
    })
}

/// Everything up to where it is was told, as it happened.
pub(super) fn reliable(case: &Case) -> Vec<String> {
    each(case, |watch| {
        let reached = watch.told.iter().map(|told| match told.events.is_empty() {
            true => told.header.revision,
            false => last(told),
        });
        let truth = case.truth(watch.owner);
        let happened = truth.between(watch.start_revision, reached.max()?);
        let happened: Vec<_> =
            happened.map(|(_, event)| event).filter(|event| wants(watch, event)).collect();
        let told: Vec<_> = events(watch).collect();
        let same =
            |(one, other): (&&Event, &&Event)| one.kv == other.kv && one.deleted == other.deleted;
        let differs = told.iter().zip(&happened).position(|pair| !same(pair));
        match differs {
            Some(at) => Some(format!("{:?} happened, told was {:?}", happened[at], told[at])),
            None if told.len() != happened.len() => {
                let missed = happened.get(told.len());
                Some(format!(
                    "of {} events {} were told; missed {missed:?}",
                    happened.len(),
                    told.len()
                ))
            }
            None => None,
        }
    })
}

/// What was there before is told where that was asked for, unless it may have been compacted, and
/// only there.
pub(super) fn prev_kv(case: &Case) -> Vec<String> {
    each(case, |watch| {
        let truth = case.truth(watch.owner);
        let compacted = compacted(case, watch.owner);
        let wrong = events(watch).find(|event| {
            let before = truth.get(&event.kv.key, event.revision() - 1);
            match &event.prev {
                Some(prev) => !watch.prev_kv || before != Some(prev),
                None => watch.prev_kv && before.is_some() && event.revision() > compacted,
            }
        });
        wrong.map(|event| format!("{event:?}"))
    })
}

/// An event says rightly whether it made its key.
pub(super) fn is_create(case: &Case) -> Vec<String> {
    each(case, |watch| {
        let truth = case.truth(watch.owner);
        let wrong = events(watch).filter(|event| !event.deleted).find(|event| {
            let is_new = truth.get(&event.kv.key, event.revision() - 1).is_none();
            (event.kv.create_revision == event.revision()) != is_new
        });
        wrong.map(|event| format!("{event:?}"))
    })
}

fn each(case: &Case, check: impl Fn(&Watch) -> Option<String>) -> Vec<String> {
    let broken = case.history.watches.iter().filter_map(|watch| {
        let Watch { client, via, range, start_revision, .. } = watch;
        check(watch).map(|what| {
            format!("{what}: client {client} by {via:?}, {range:?} from {start_revision}")
        })
    });
    broken.collect()
}

fn events(watch: &Watch) -> impl Iterator<Item = &Event> {
    watch.told.iter().flat_map(|told| &told.events)
}

fn wants(watch: &Watch, event: &Event) -> bool {
    let kind = if event.deleted { watch.deletes } else { watch.puts };
    kind && watch.range.contains(&event.kv.key)
}

fn last(told: &Told) -> i64 {
    told.events.last().map_or(0, Event::revision)
}

/// Up to where a cluster may have been compacted: the default one by its clients, and with it others,
/// at revisions that only Seawall knows.
fn compacted(case: &Case, owner: Owner) -> i64 {
    let revisions = case.history.calls.iter().filter_map(|call| match call.request {
        Request::Compact { revision } if owner == Owner::Main => Some(revision + 1),
        Request::Compact { .. } => Some(i64::MAX),
        _ => None,
    });
    revisions.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::Sample;

    fn sample() -> Sample {
        Sample::new()
            .put("/a", "one", 2)
            .put("/b", "two", 3)
            .put("/c", "three", 3)
            .put("/a", "four", 4)
            .deleted("/b", 5, 0)
    }

    fn case(told: Vec<Told>) -> Case {
        sample().watch(2, told).case()
    }

    fn good() -> Vec<Told> {
        let sample = sample();
        vec![sample.told(&[2]), sample.told(&[3]), Sample::progress(3), sample.told(&[4, 5])]
    }

    type Check = fn(&Case) -> Vec<String>;

    const ALL: [Check; 8] =
        [filter, ordered, unique, atomic, bookmarkable, resumable, reliable, prev_kv];

    #[test]
    fn what_etcd_would_tell_is_right() {
        for check in ALL.into_iter().chain([is_create as Check]) {
            assert_eq!(check(&case(good())), [""; 0]);
        }
    }

    #[test]
    fn what_was_not_asked_for_is_found() {
        let mut case = case(good());
        case.history.watches[0].deletes = false;
        assert_eq!(filter(&case).len(), 1);
    }

    #[test]
    fn events_out_of_order_or_twice_are_found() {
        let sample = sample();
        let swapped = vec![sample.told(&[3]), sample.told(&[2])];
        assert_eq!(ordered(&case(swapped)).len(), 1);
        let twice = vec![sample.told(&[2]), sample.told(&[2])];
        assert_eq!(unique(&case(twice)).len(), 1);
    }

    #[test]
    fn a_revision_in_two_responses_is_found() {
        let mut told = good();
        let half = Told { events: told[1].events.split_off(1), ..told[1].clone() };
        told.insert(2, half);
        assert_eq!(atomic(&case(told)).len(), 1);
    }

    #[test]
    fn progress_that_overtakes_an_event_is_found() {
        let mut told = good();
        told.swap(1, 2);
        assert_eq!(bookmarkable(&case(told)).len(), 1);
        let back = vec![Sample::progress(4), Sample::progress(3)];
        assert_eq!(bookmarkable(&case(back)).len(), 1);
    }

    #[test]
    fn events_that_are_missing_are_found() {
        assert_eq!(resumable(&case(good().split_off(1))).len(), 1, "the first");
        let mut told = good();
        told.remove(1);
        assert_eq!(reliable(&case(told)).len(), 1, "one in the midst");
        let ahead = vec![Sample::progress(5)];
        assert_eq!(reliable(&case(ahead)).len(), 1, "all");
    }

    #[test]
    fn wrong_values_are_found() {
        let mut told = good();
        told[3].events[0].prev = None;
        assert_eq!(prev_kv(&case(told)).len(), 1);
        let mut told = good();
        told[0].events[0].kv.create_revision = 1;
        assert_eq!(is_create(&case(told.clone())).len(), 1);
        assert_eq!(reliable(&case(told)).len(), 1);
    }
}
