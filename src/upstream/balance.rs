//! Which member gets the next call.

use super::Member;
use crate::etcd::method::Affinity;
use rand::Rng;
use std::sync::Arc;

/// Members of one cluster: each is a bit of a number.
pub const MEMBERS_MAX: usize = u64::BITS as usize;

/// Members that a call was refused by, as a bit each.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tried(u64);

impl Tried {
    pub(super) fn add(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    pub(super) fn has(self, index: usize) -> bool {
        self.0 & 1 << index != 0
    }
}

/// The member among those of the best state that suits `affinity`, else the cheaper of two picked
/// blindly: the best of all would draw everyone at once.
pub(super) fn pick(
    members: &[Arc<Member>],
    tried: Tried,
    affinity: Affinity,
    leader: u64,
) -> Option<usize> {
    let untried = || members.iter().enumerate().filter(move |(index, _)| !tried.has(*index));
    let best = untried().map(|(_, member)| member.state()).min()?;
    let is_leader = |index: usize| leader != 0 && members[index].id() == leader;
    let candidates: Candidates =
        untried().filter(|(_, member)| member.state() == best).map(|(index, _)| index).collect();
    match affinity {
        Affinity::Leader => {
            if let Some(leader) = candidates.iter().find(|&index| is_leader(index)) {
                return Some(leader);
            }
            candidates.cheaper_of_two(members)
        }
        Affinity::Follower => {
            let followers: Candidates =
                candidates.iter().filter(|&index| !is_leader(index)).collect();
            followers.cheaper_of_two(members).or_else(|| candidates.cheaper_of_two(members))
        }
        Affinity::Any => candidates.cheaper_of_two(members),
    }
}

/// A set of indices without an allocation.
#[derive(Debug, Clone, Copy)]
struct Candidates(u64);

impl FromIterator<usize> for Candidates {
    fn from_iter<I: IntoIterator<Item = usize>>(indices: I) -> Self {
        Self(indices.into_iter().fold(0, |set, index| set | 1 << index))
    }
}

impl Candidates {
    fn iter(self) -> impl Iterator<Item = usize> {
        (0..MEMBERS_MAX).filter(move |index| self.0 & 1 << index != 0)
    }

    fn cheaper_of_two(self, members: &[Arc<Member>]) -> Option<usize> {
        let count = self.0.count_ones() as usize;
        if count < 2 {
            return self.iter().next();
        }
        let mut rng = rand::rng();
        let first = rng.random_range(0..count);
        let second = (first + rng.random_range(1..count)) % count;
        let (first, second) = (self.iter().nth(first)?, self.iter().nth(second)?);
        let cheaper = members[first].cost() <= members[second].cost();
        Some(if cheaper { first } else { second })
    }
}
