//! Where to cut lists, learnt from those that were read.

use super::Keys;
use crate::etcd::key_range::{End, KeyRange};
use bytes::Bytes;
use parking_lot::RwLock;
use std::{
    collections::BTreeSet,
    ops::Bound::{Excluded, Included, Unbounded},
};

/// Keys of a cluster that lists are cut at, about one page apart. Whatever they are, what is cut at
/// them is exact; those that have come to stand badly are moved.
#[derive(Debug)]
pub struct Splits {
    keys: RwLock<BTreeSet<Bytes>>,
    /// More are not remembered: 100,000 of common length are 10 MB, and stand for 25 GB of values.
    keys_max: usize,
}

/// The next range of a list that is being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub range: KeyRange,
    /// Whether the end is a split: then what is in the range is about one page. Else it may be
    /// anything, and is read with a limit.
    pub known: bool,
}

const KEYS_MAX: usize = 100_000;

impl Default for Splits {
    fn default() -> Self {
        Self { keys: RwLock::default(), keys_max: KEYS_MAX }
    }
}

impl Splits {
    /// What to read first of `rest`.
    pub fn cut(&self, rest: &KeyRange) -> Cut {
        let keys = self.keys.read();
        let mut after = keys.range::<Bytes, _>((Excluded(&rest.start), Unbounded));
        let split = after.next().filter(|key| rest.contains(key));
        // After the last split of several, what follows is about a page as well.
        let last = split.is_none()
            && keys.range::<Bytes, _>((Unbounded, Included(&rest.start))).next_back()
                == Some(&rest.start);
        match split {
            Some(split) => {
                let range = KeyRange { start: rest.start.clone(), end: End::Key(split.clone()) };
                Cut { range, known: true }
            }
            None => Cut { range: rest.clone(), known: last },
        }
    }

    /// `range` was read whole and had these keys, where a page should have `page_bytes`.
    pub fn learn(&self, range: &KeyRange, keys: &Keys, page_bytes: u64) {
        let too_large = keys.bytes > 2 * page_bytes;
        let too_small = keys.bytes < page_bytes / 4;
        if !too_large && !too_small {
            return;
        }
        let mut splits = self.keys.write();
        if too_large {
            for mark in &keys.marks {
                if splits.len() < self.keys_max {
                    splits.insert(copied(mark));
                }
            }
        } else {
            // It is read together with what is before it from now on.
            splits.remove(&range.start);
        }
    }

    /// A list read with a limit goes on at `key`.
    pub fn add(&self, key: &Bytes) {
        let mut splits = self.keys.write();
        if splits.len() < self.keys_max {
            splits.insert(copied(key));
        }
    }

    pub fn len(&self) -> usize {
        self.keys.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A key of its own, lest the whole page it lies in be kept for it.
fn copied(key: &Bytes) -> Bytes {
    Bytes::copy_from_slice(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::btree_set, prelude::*};

    fn range(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange::of(start.into(), end.into())
    }

    fn keys(bytes: u64, marks: &[&'static str]) -> Keys {
        let marks = marks.iter().map(|mark| Bytes::from(*mark)).collect();
        Keys { bytes, marks, ..Keys::default() }
    }

    #[test]
    fn what_is_not_known_is_read_with_a_limit() {
        let splits = Splits::default();
        assert_eq!(splits.cut(&range("a", "z")), Cut { range: range("a", "z"), known: false });
        splits.add(&"m".into());
        assert_eq!(splits.cut(&range("a", "z")), Cut { range: range("a", "m"), known: true });
        assert_eq!(splits.cut(&range("m", "z")), Cut { range: range("m", "z"), known: true });
        assert_eq!(splits.cut(&range("n", "z")), Cut { range: range("n", "z"), known: false });
        assert_eq!(splits.cut(&range("a", "c")), Cut { range: range("a", "c"), known: false });
    }

    #[test]
    fn splits_move_with_what_is_between_them() {
        let splits = Splits::default();
        splits.learn(&range("a", "z"), &keys(500, &["f", "m"]), 100);
        assert_eq!(splits.len(), 2);
        splits.learn(&range("f", "m"), &keys(150, &["h"]), 100);
        assert_eq!(splits.len(), 2);
        splits.learn(&range("f", "m"), &keys(10, &[]), 100);
        assert_eq!(splits.cut(&range("a", "z")).range, range("a", "m"));
    }

    proptest! {
        /// Whatever is known, the ranges partition the list.
        #[test]
        fn cuts_partition_a_list(
            known in btree_set("[a-e]{1,3}", 0..20),
            start in "[a-e]{1,2}",
            end in "[a-f]{1,2}",
        ) {
            let splits = Splits::default();
            known.iter().for_each(|key| splits.add(&Bytes::from(key.clone())));
            let whole = KeyRange::of(start.into(), end.into());
            prop_assume!(!whole.is_empty());
            let mut rest = whole.clone();
            let mut ends = vec![];
            loop {
                let cut = splits.cut(&rest);
                prop_assert_eq!(&cut.range.start, &rest.start);
                prop_assert!(!cut.range.is_empty());
                ends.push(cut.range.end.clone());
                if cut.range.end == whole.end {
                    break;
                }
                let End::Key(next) = cut.range.end else { panic!("beyond the end") };
                prop_assert!(whole.contains(&next));
                rest = KeyRange { start: next, end: whole.end.clone() };
            }
            prop_assert!(ends.len() <= known.len() + 1);
        }
    }
}
