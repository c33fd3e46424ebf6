//! Leases: no key goes before the time its lease was last promised.

use super::Case;
use crate::history::{Answer, Moment, Owner, Request};

/// A key with a lease stays for the lease's time after each renewal that was acknowledged.
///
/// Where the lease was granted, one renewal is enough. Its copy at another cluster is renewed beside
/// that, and may miss some: there, a key may not go while renewals go on.
pub(super) fn never_early(case: &Case) -> Vec<String> {
    let mut early = Vec::new();
    for (owner, truth) in &case.truths {
        for (at, event) in truth.all().filter(|(_, event)| event.deleted) {
            let before = truth.get(&event.kv.key, event.revision() - 1);
            let Some(kv) = before.filter(|kv| kv.lease != 0) else { continue };
            let known = Promises::of(case, kv.lease, at);
            let misses = if *owner == Owner::Main { 1 } else { RENEWALS_MISSED };
            if let Some(until) = known.until(misses)
                && at < until
            {
                early.push(format!("{event:?} came at {at}, promised until {until}: {kv:?}"));
            }
        }
    }
    early
}

/// So many renewals in one lease's time, and its copy lives.
const RENEWALS_MISSED: usize = 6;

/// Ends of the time that was promised for a lease, the latest first.
struct Promises(Vec<Moment>);

impl Promises {
    /// As known at some moment; nothing is promised after the lease was given up.
    fn of(case: &Case, lease: i64, at: Moment) -> Self {
        let mut ends = Vec::new();
        for call in case.history.calls.iter().filter(|call| call.start < at) {
            match (&call.request, &call.answer) {
                (Request::Revoke { lease: revoked }, _) if *revoked == lease => {
                    return Self(Vec::new());
                }
                (_, Ok(Answer::Lease { lease: known, ttl, .. }))
                    if *known == lease && call.end < at =>
                {
                    let ttl = u64::try_from(*ttl).unwrap_or(0);
                    ends.push(call.start + ttl * 1_000_000_000);
                }
                _ => {}
            }
        }
        ends.sort_unstable_by(|one, other| other.cmp(one));
        Self(ends)
    }

    /// Until when a lease lives of whose renewals all but the first so many may have been missed.
    fn until(&self, promises: usize) -> Option<Moment> {
        self.0.get(promises - 1).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::{SECOND, Sample};

    fn leased(gone: Moment) -> Sample {
        Sample::new()
            .call(0..1, Request::Grant { ttl: 5 }, Sample::lease(7, 5))
            .put_leased("/a", "one", 2, 7)
            .call(4 * SECOND..4 * SECOND + 1, Request::KeepAlive { lease: 7 }, Sample::lease(7, 5))
            .deleted("/a", 3, gone)
    }

    #[test]
    fn a_key_that_goes_before_its_time_is_early() {
        assert_eq!(never_early(&leased(9 * SECOND).case()), [""; 0]);
        assert_eq!(never_early(&leased(8 * SECOND).case()).len(), 1);
    }

    #[test]
    fn a_lease_that_is_given_up_promises_nothing() {
        let revoked = leased(8 * SECOND).call(
            5 * SECOND..6 * SECOND,
            Request::Revoke { lease: 7 },
            Sample::lease(7, 0),
        );
        assert_eq!(never_early(&revoked.case()), [""; 0]);
    }

    #[test]
    fn a_copy_may_miss_a_renewal_and_not_all() {
        let copy = |renewals: u64| {
            let mut sample =
                Sample::new().of(Owner::Events).put_leased("/registry/events/a", "one", 2, 7);
            for n in 0..renewals {
                let at = n * SECOND / 2;
                sample =
                    sample.call(at..at + 1, Request::KeepAlive { lease: 7 }, Sample::lease(7, 5));
            }
            sample.deleted("/registry/events/a", 3, renewals * SECOND / 2)
        };
        assert_eq!(never_early(&copy(3).case()), [""; 0]);
        assert_eq!(never_early(&copy(10).case()).len(), 1);
    }
}
