//! How many reads may be sent a second time.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// Repeats in hundredths: a call puts `percent` in, a repeat takes 100 out.
///
/// Repeats of a struggling cluster's reads are load on a struggling cluster, so they stay a fixed
/// share of the calls.
#[derive(Debug)]
pub(super) struct Budget {
    percent: i64,
    balance: AtomicI64,
}

/// Saved up at most, and there from the beginning: enough for the calls in flight on a member that
/// dies, too few to matter to one that struggles.
const BALANCE_MAX: i64 = 100 * 100;

impl Budget {
    pub(super) fn new(percent: u32) -> Self {
        let balance = if percent == 0 { 0 } else { BALANCE_MAX };
        Self { percent: percent.into(), balance: AtomicI64::new(balance) }
    }

    /// Counts a call.
    pub(super) fn deposit(&self) {
        if self.balance.load(Relaxed) < BALANCE_MAX {
            self.balance.fetch_add(self.percent, Relaxed);
        }
    }

    /// Takes one repeat out; false when there is none.
    pub(super) fn withdraw(&self) -> bool {
        self.balance
            .fetch_update(Relaxed, Relaxed, |balance| (balance >= 100).then_some(balance - 100))
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_stay_a_share_of_the_calls() {
        let budget = Budget::new(20);
        while budget.withdraw() {}
        for _ in 0..5 {
            assert!(!budget.withdraw());
            budget.deposit();
        }
        assert!(budget.withdraw());
        assert!(!budget.withdraw());
    }

    #[test]
    fn no_budget_means_no_repeat() {
        let budget = Budget::new(0);
        budget.deposit();
        assert!(!budget.withdraw());
    }
}
