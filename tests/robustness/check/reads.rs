//! Reads, and the revisions that all answers name.

use super::{Case, Floor};
use crate::history::{Answer, Call, Change, Kv, Owner, Request};

/// Every answer comes from the cluster that owns the key, at a revision that this has had.
pub(super) fn never_invented(case: &Case) -> Vec<String> {
    let answered = case.history.calls.iter().filter_map(|call| {
        let header = call.answer.as_ref().ok()?.header();
        let truth = case.truth(call.owner);
        let real = header.cluster_id == truth.cluster_id
            && (1..=truth.revision).contains(&header.revision);
        (!real).then(|| {
            format!("{header:?} of {:?}, which is at {}: {call:?}", call.owner, truth.revision)
        })
    });
    answered.collect()
}

/// An answer shows what had been acknowledged when it was asked for, and nothing that came later
/// than itself; and it shows exactly the state of the revision that it names.
pub(super) fn linearizable(case: &Case) -> Vec<String> {
    let mut broken = Vec::new();
    for owner in Owner::ALL {
        let (floor, begun) = (Floor::of(case, owner), Begun::of(case, owner));
        for call in case.history.calls.iter().filter(|call| call.owner == owner) {
            let Ok(answer) = &call.answer else { continue };
            let revision = answer.header().revision;
            if !is_serializable(call) && revision < floor.at(call.start) {
                let known = floor.at(call.start);
                broken
                    .push(format!("{known} was known before, and this is at {revision}: {call:?}"));
            }
            if begun.by(revision) > call.end {
                broken.push(format!("it shows a write that was begun later: {call:?}"));
            }
            if pinned(call) == 0 {
                broken.extend(differs(case, call, revision));
            }
        }
    }
    broken
}

/// A read of a revision shows exactly its state, whenever it is made.
pub(super) fn serializable(case: &Case) -> Vec<String> {
    let pinned = case.history.calls.iter().filter(|call| pinned(call) > 0);
    pinned.filter_map(|call| differs(case, call, self::pinned(call))).collect()
}

/// How a read differs from the state of a revision.
fn differs(case: &Case, call: &Call, revision: i64) -> Option<String> {
    let Request::Range { range, limit, count_only, .. } = &call.request else { return None };
    let Ok(Answer::Range { kvs, count, more, .. }) = &call.answer else { return None };
    let state = case.truth(call.owner).range(range, revision);
    let limit = usize::try_from(*limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let shown: &[&Kv] = if *count_only { &[] } else { &state[..limit.min(state.len())] };
    let same = kvs.iter().eq(shown.iter().copied());
    let counted = *count == state.len() as i64 && (*count_only || *more == (state.len() > limit));
    (!same || !counted).then(|| format!("at {revision} there were {state:?}: {call:?}"))
}

fn pinned(call: &Call) -> i64 {
    match call.request {
        Request::Range { revision, .. } => revision,
        _ => 0,
    }
}

fn is_serializable(call: &Call) -> bool {
    // Leases are not kept by consensus: a member tells what it knows.
    matches!(
        call.request,
        Request::Range { serializable: true, .. }
            | Request::Grant { .. }
            | Request::KeepAlive { .. }
            | Request::Revoke { .. }
            | Request::Compact { .. }
    )
}

/// When the last write up to a revision was begun: no answer that ended before can show it.
struct Begun(Vec<(i64, u64)>);

impl Begun {
    fn of(case: &Case, owner: Owner) -> Self {
        let truth = case.truth(owner);
        let calls = case.history.calls.iter().filter(|call| call.owner == owner);
        let mut begun: Vec<_> = calls
            .flat_map(|call| {
                let values = values(&call.request);
                let revisions = values.flat_map(|value| truth.puts_of(value));
                revisions.map(|revision| (*revision, call.start)).collect::<Vec<_>>()
            })
            .collect();
        begun.sort_unstable();
        let mut latest = 0;
        for (_, start) in &mut begun {
            latest = latest.max(*start);
            *start = latest;
        }
        Self(begun)
    }

    fn by(&self, revision: i64) -> u64 {
        let known = self.0.partition_point(|(at, _)| *at <= revision);
        known.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

/// The values that a request puts.
pub(super) fn values(request: &Request) -> impl Iterator<Item = &str> {
    let changes: Vec<&Change> = match request {
        Request::Write { change, .. } | Request::Swap { change, .. } => vec![change],
        Request::WriteAll { changes } => changes.iter().map(|(_, change)| change).collect(),
        _ => Vec::new(),
    };
    changes.into_iter().filter_map(|change| match change {
        Change::Put { value, .. } => Some(value.as_str()),
        Change::Delete => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::{Sample, read, read_at, write};

    #[test]
    fn a_read_that_is_late_is_stale() {
        let sample = Sample::new().put("/a", "one", 2).put("/a", "two", 3).call(
            10..20,
            write("/a", "two"),
            Sample::written(3),
        );
        let fresh = sample.clone().read_call(30..40, read("/a"), 3);
        assert_eq!(linearizable(&fresh.case()), [""; 0]);
        // One that began before the write was acknowledged may show what was before it.
        let before = sample.clone().read_call(15..40, read("/a"), 2);
        assert_eq!(linearizable(&before.case()), [""; 0]);
        let stale = sample.read_call(30..40, read("/a"), 2);
        assert!(linearizable(&stale.case())[0].contains("3 was known before"));
    }

    #[test]
    fn a_read_of_a_write_to_come_is_invented() {
        let sample = Sample::new().put("/a", "one", 2).read_call(10..20, read("/a"), 2).call(
            30..40,
            write("/a", "one"),
            Sample::written(2),
        );
        assert!(linearizable(&sample.case())[0].contains("begun later"));
    }

    #[test]
    fn a_read_of_another_state_than_it_names_is_wrong() {
        let sample = Sample::new().put("/a", "one", 2).put("/b", "two", 3);
        let good = sample.clone().read_call(1..2, read_at("/a", 2), 3);
        assert_eq!(serializable(&good.case()), [""; 0]);
        let mut bad = good.case();
        bad.history.calls[0].request = read_at("/a", 1);
        assert!(serializable(&bad)[0].contains("at 1 there were []"));
        let mut bad = sample.read_call(1..2, read("/a"), 3).case();
        let Ok(Answer::Range { count, .. }) = &mut bad.history.calls[0].answer else {
            panic!("a range")
        };
        *count = 2;
        assert_eq!(linearizable(&bad).len(), 1);
    }

    #[test]
    fn the_header_of_another_cluster_is_invented() {
        let sample = Sample::new().put("/a", "one", 2).read_call(1..2, read("/a"), 2);
        assert_eq!(never_invented(&sample.case()), [""; 0]);
        let mut case = sample.case();
        case.truths.get_mut(&Owner::Main).expect("it is there").cluster_id = 9;
        assert_eq!(never_invented(&case).len(), 1);
    }
}
