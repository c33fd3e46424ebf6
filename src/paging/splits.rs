//! Where to cut lists, learnt from those that were read.

use super::Keys;
use crate::etcd::key_range::{End, KeyRange};
use bytes::Bytes;
use parking_lot::RwLock;
use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
};

/// Keys of a cluster that lists are cut at, about one page apart. Whatever they are, what is cut at
/// them is exact; those that have come to stand badly are moved.
#[derive(Debug)]
pub struct Splits {
    keys: RwLock<Keyed>,
    /// More are not remembered: 100,000 of common length are 10 MB, and stand for 25 GB of values.
    keys_max: usize,
}

/// Splits, and whether what is between each and the one before it was read: who lists one namespace,
/// and then another, knows nothing of those between them.
type Keyed = BTreeMap<Bytes, bool>;

/// The next range of a list that is being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub range: KeyRange,
    /// Whether it was read before up to its end, which is a split: then it is about one page. Else it
    /// may be anything, and is read with a limit.
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
        let split = after.next().filter(|(key, _)| rest.contains(key));
        match split {
            Some((split, known)) => {
                let range = KeyRange { start: rest.start.clone(), end: End::Key(split.clone()) };
                Cut { range, known: *known }
            }
            None => Cut { range: rest.clone(), known: false },
        }
    }

    /// `range` was read whole and had these keys, where a page should have `page_bytes` and the last
    /// split that stays has so many `before` it. Tells how many it has now.
    pub fn learn(&self, range: &KeyRange, keys: &Keys, before: u64, page_bytes: u64) -> u64 {
        let mut splits = self.keys.write();
        let marks = marks(keys, page_bytes);
        if !marks.is_empty() {
            self.add(&mut splits, [&range.start].into_iter().chain(marks));
        }
        was_read(&mut splits, range);
        if before + keys.bytes < page_bytes / 2 {
            // It is read together with what is before it from now on.
            remove(&mut splits, &range.start);
            return before + keys.bytes;
        }
        keys.bytes
    }

    /// `range` had these keys, and the list goes on behind it. Tells how many bytes are before that.
    pub fn learn_part(&self, range: &KeyRange, keys: &Keys, page_bytes: u64) -> u64 {
        let mut splits = self.keys.write();
        let start = [&range.start].into_iter();
        self.add(&mut splits, start.chain(marks(keys, page_bytes)).chain(range.end.key()));
        was_read(&mut splits, range);
        keys.bytes
    }

    /// What is read between two others stays so on both sides of a new one.
    fn add<'a>(&self, splits: &mut Keyed, keys: impl Iterator<Item = &'a Bytes>) {
        for key in keys {
            if splits.len() < self.keys_max && !splits.contains_key(key) {
                let known = behind(splits, key).is_some_and(|known| *known);
                splits.insert(copied(key), known);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.keys.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where to cut what has become too large, or was read with a limit for much.
fn marks(keys: &Keys, page_bytes: u64) -> &[Bytes] {
    if keys.bytes > 2 * page_bytes { &keys.marks } else { &[] }
}

/// Whether what is before the first split behind `key` was read.
fn behind<'a>(splits: &'a mut Keyed, key: &Bytes) -> Option<&'a mut bool> {
    let mut behind = splits.range_mut::<Bytes, _>((Excluded(key), Unbounded));
    behind.next().map(|(_, known)| known)
}

fn was_read(splits: &mut Keyed, range: &KeyRange) {
    // Of what is before a start that is no split, nothing is known.
    if splits.contains_key(&range.start) {
        splits
            .range_mut::<Bytes, _>((Excluded(&range.start), Unbounded))
            .take_while(|(key, _)| range.contains(key) || range.end.key() == Some(key))
            .for_each(|(_, known)| *known = true);
    }
}

fn remove(splits: &mut Keyed, key: &Bytes) {
    let before = splits.remove(key).unwrap_or(true);
    if let Some(known) = behind(splits, key) {
        *known &= before;
    }
}

/// A key of its own, lest the whole page it lies in be kept for it.
fn copied(key: &Bytes) -> Bytes {
    Bytes::copy_from_slice(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::btree_map, prelude::*};

    fn range(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange::of(start.into(), end.into())
    }

    fn keys(bytes: u64, marks: &[&'static str]) -> Keys {
        let marks = marks.iter().map(|mark| Bytes::from(*mark)).collect();
        Keys { bytes, marks, ..Keys::default() }
    }

    /// Splits that were all learnt from one list.
    fn splits(keys: impl IntoIterator<Item = &'static str>) -> Splits {
        let splits = Splits::default();
        splits.keys.write().extend(keys.into_iter().map(|key| (key.into(), true)));
        splits
    }

    /// What followed the last split was read whole, be it all the rest of a list.
    #[test]
    fn what_is_not_known_is_read_with_a_limit() {
        assert_eq!(
            Splits::default().cut(&range("a", "z")),
            Cut { range: range("a", "z"), known: false }
        );
        let splits = splits(["m"]);
        assert_eq!(splits.cut(&range("a", "z")), Cut { range: range("a", "m"), known: true });
        assert_eq!(splits.cut(&range("m", "z")), Cut { range: range("m", "z"), known: false });
        assert_eq!(splits.cut(&range("n", "z")), Cut { range: range("n", "z"), known: false });
        assert_eq!(splits.cut(&range("a", "c")), Cut { range: range("a", "c"), known: false });
    }

    /// All that was before the namespace that was listed first was read whole, however much.
    #[test]
    fn what_is_between_lists_is_not_known() {
        let splits = Splits::default();
        splits.learn_part(&range("f", "h"), &keys(100, &[]), 100);
        splits.learn(&range("h", "k"), &keys(90, &[]), 100, 100);
        splits.learn(&range("p", "r"), &keys(500, &["q"]), 100, 100);
        let mut rest = range("a", "z");
        let mut cuts = vec![];
        loop {
            let cut = splits.cut(&rest);
            cuts.push((cut.range.clone(), cut.known));
            match cut.range.end {
                reached if reached == rest.end => break,
                End::Key(start) => rest.start = start,
                End::Infinite => panic!("beyond the end"),
            }
        }
        let expected = [
            (range("a", "f"), false),
            (range("f", "h"), true),
            (range("h", "p"), false),
            (range("p", "q"), true),
            (range("q", "z"), false),
        ];
        assert_eq!(cuts, expected);
        // Reading it makes it known, up to where it was read.
        splits.learn_part(&range("h", "j"), &keys(90, &[]), 100);
        assert!(splits.cut(&range("h", "z")).known);
        assert!(!splits.cut(&range("j", "z")).known);
        splits.learn(&range("j", "p"), &keys(90, &[]), 90, 100);
        assert_eq!(splits.cut(&range("j", "z")), Cut { range: range("j", "p"), known: true });
        // What is in it is known as well.
        assert!(splits.cut(&range("k", "z")).known);
        assert!(!splits.cut(&range("e", "z")).known);
    }

    #[test]
    fn what_is_joined_is_known_where_all_of_it_is() {
        let splits = splits(["f", "k"]);
        splits.keys.write().insert("f".into(), false);
        assert_eq!(splits.learn(&range("f", "k"), &keys(10, &[]), 10, 100), 20);
        assert_eq!(splits.cut(&range("a", "z")), Cut { range: range("a", "k"), known: false });
    }

    #[test]
    fn splits_move_with_what_is_between_them() {
        let splits = splits(["f", "m"]);
        assert_eq!(splits.learn(&range("f", "m"), &keys(500, &["h", "k"]), 100, 100), 500);
        assert_eq!(splits.len(), 4);
        assert_eq!(splits.learn(&range("f", "h"), &keys(150, &["g"]), 90, 100), 150);
        assert_eq!(splits.len(), 4);
        assert_eq!(splits.learn(&range("h", "k"), &keys(10, &[]), 45, 100), 10);
        assert_eq!(splits.len(), 4);
        assert_eq!(splits.learn(&range("f", "h"), &keys(10, &[]), 30, 100), 40);
        assert_eq!(splits.cut(&range("a", "z")).range, range("a", "h"));
    }

    /// More are not remembered, and none is taken for known for want of what was before it.
    #[test]
    fn there_are_so_many_at_most() {
        let splits = Splits { keys_max: 2, ..Splits::default() };
        splits.learn_part(&range("b", "d"), &keys(100, &[]), 100);
        splits.learn_part(&range("f", "h"), &keys(100, &[]), 100);
        assert_eq!(splits.len(), 2);
        splits.learn(&range("c", "z"), &keys(500, &["e", "i"]), 100, 100);
        assert_eq!(splits.len(), 2);
        assert_eq!(splits.cut(&range("a", "z")), Cut { range: range("a", "b"), known: false });
    }

    /// A list whose objects had become small, or had gone, was read whole the next time.
    #[test]
    fn small_pages_are_joined_up_to_a_page() {
        let all: Vec<Bytes> = (10..50).map(|number| Bytes::from(format!("{number}"))).collect();
        let splits = Splits::default();
        splits.keys.write().extend(all.iter().map(|split| (split.clone(), true)));
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
            known in btree_map("[a-e]{1,3}", any::<bool>(), 0..20),
            start in "[a-e]{1,2}",
            end in "[a-f]{1,2}",
        ) {
            let splits = Splits::default();
            let keyed = known.iter().map(|(key, known)| (Bytes::from(key.clone()), *known));
            splits.keys.write().extend(keyed);
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
