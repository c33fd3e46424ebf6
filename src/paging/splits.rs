//! Where to cut lists, learnt from those that were read.

use super::Keys;
use crate::etcd::key_range::{End, KeyRange};
use bytes::Bytes;
use parking_lot::RwLock;
use std::{
    collections::BTreeSet,
    ops::Bound::{Excluded, Unbounded},
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
        match split {
            Some(split) => {
                let range = KeyRange { start: rest.start.clone(), end: End::Key(split.clone()) };
                Cut { range, known: true }
            }
            None => Cut { range: rest.clone(), known: false },
        }
    }

    /// `range` was read whole and had these keys, where a page should have `page_bytes` and the last
    /// split that stays has so many `before` it. Tells how many it has now.
    pub fn learn(&self, range: &KeyRange, keys: &Keys, before: u64, page_bytes: u64) -> u64 {
        if keys.bytes > 2 * page_bytes {
            keys.marks.iter().for_each(|mark| self.add(mark));
        } else if before + keys.bytes < page_bytes / 2 {
            // It is read together with what is before it from now on.
            self.keys.write().remove(&range.start);
            return before + keys.bytes;
        }
        keys.bytes
    }

    /// What was read had these keys, and the list goes on at `next`. Tells how many bytes are before that.
    pub fn learn_part(&self, next: &Bytes, keys: &Keys, page_bytes: u64) -> u64 {
        if keys.bytes > 2 * page_bytes {
            keys.marks.iter().for_each(|mark| self.add(mark));
        }
        self.add(next);
        keys.bytes
    }

    fn add(&self, key: &Bytes) {
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

    /// What followed the last split was read whole, be it all the rest of a list.
    #[test]
    fn what_is_not_known_is_read_with_a_limit() {
        let splits = Splits::default();
        assert_eq!(splits.cut(&range("a", "z")), Cut { range: range("a", "z"), known: false });
        splits.add(&"m".into());
        assert_eq!(splits.cut(&range("a", "z")), Cut { range: range("a", "m"), known: true });
        assert_eq!(splits.cut(&range("m", "z")), Cut { range: range("m", "z"), known: false });
        assert_eq!(splits.cut(&range("n", "z")), Cut { range: range("n", "z"), known: false });
        assert_eq!(splits.cut(&range("a", "c")), Cut { range: range("a", "c"), known: false });
    }

    #[test]
    fn splits_move_with_what_is_between_them() {
        let splits = Splits::default();
        assert_eq!(splits.learn(&range("a", "z"), &keys(500, &["f", "m"]), 100, 100), 500);
        assert_eq!(splits.len(), 2);
        assert_eq!(splits.learn(&range("f", "m"), &keys(150, &["h"]), 90, 100), 150);
        assert_eq!(splits.len(), 2);
        assert_eq!(splits.learn(&range("m", "z"), &keys(10, &[]), 45, 100), 10);
        assert_eq!(splits.len(), 2);
        assert_eq!(splits.learn(&range("f", "m"), &keys(10, &[]), 30, 100), 40);
        assert_eq!(splits.cut(&range("a", "z")).range, range("a", "m"));
    }

    /// A list whose objects had become small, or had gone, was read whole the next time.
    #[test]
    fn small_pages_are_joined_up_to_a_page() {
        let splits = Splits::default();
        let all: Vec<Bytes> = (10..50).map(|number| Bytes::from(format!("{number}"))).collect();
        all.iter().for_each(|split| splits.add(split));
        let mut before = 100;
        for pair in all.windows(2) {
            let range = KeyRange { start: pair[0].clone(), end: End::Key(pair[1].clone()) };
            before = splits.learn(&range, &keys(11, &[]), before, 100);
        }
        // Four of them are not yet half a page.
        assert_eq!(splits.len(), 11);
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
