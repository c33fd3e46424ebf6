//! Intervals of keys.

use bytes::Bytes;
use std::fmt;

/// All keys from `start` on and before `end`, in byte order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyRange {
    pub start: Bytes,
    pub end: End,
}

/// Where an interval ends; the order is the order of the key space.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// Before this key.
    Key(Bytes),
    /// After the last key.
    Infinite,
}

impl KeyRange {
    /// The interval that `key` and `range_end` of a request mean: an empty `range_end` is the one
    /// key, one zero byte is everything from `key` on.
    ///
    /// etcd refuses an empty key in most requests; here it is the least key, and the caller's
    /// matter.
    pub fn of(key: Bytes, range_end: Bytes) -> Self {
        match &range_end[..] {
            [] => Self::single(key),
            [0] => Self { start: key, end: End::Infinite },
            _ => Self { start: key, end: End::Key(range_end) },
        }
    }

    /// The same for a watch, where an empty key means the least one.
    pub fn for_watch(key: Bytes, range_end: Bytes) -> Self {
        let key = if key.is_empty() { Bytes::from_static(b"\0") } else { key };
        Self::of(key, range_end)
    }

    /// One key.
    pub fn single(key: Bytes) -> Self {
        let end = [&key[..], b"\0"].concat();
        Self { start: key, end: End::Key(end.into()) }
    }

    /// Every key that begins with `prefix`. The empty prefix is the whole key space.
    pub fn prefix(prefix: Bytes) -> Self {
        if prefix.is_empty() {
            return Self { start: Bytes::from_static(b"\0"), end: End::Infinite };
        }
        let end = match prefix.iter().rposition(|&byte| byte != 0xff) {
            Some(last) => {
                let mut end = prefix[..=last].to_vec();
                end[last] += 1;
                End::Key(end.into())
            }
            None => End::Infinite,
        };
        Self { start: prefix, end }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.start <= key && self.end.is_after(key)
    }

    /// Whether no key can lie in it. etcd answers such a range with nothing and refuses to watch it.
    pub fn is_empty(&self) -> bool {
        !self.end.is_after(&self.start)
    }

    /// The one key of a range that cannot hold more.
    pub fn as_single(&self) -> Option<&Bytes> {
        match &self.end {
            End::Key(end) if end.strip_prefix(&self.start[..]) == Some(b"\0") => Some(&self.start),
            _ => None,
        }
    }

    /// What lies in both; may be empty.
    pub fn intersection(&self, other: &Self) -> Self {
        Self {
            start: self.start.clone().max(other.start.clone()),
            end: self.end.clone().min(other.end.clone()),
        }
    }

    /// The `range_end` that says this interval in a request whose `key` is `start`.
    pub fn range_end(&self) -> Bytes {
        match &self.end {
            _ if self.as_single().is_some() => Bytes::new(),
            End::Key(end) => end.clone(),
            End::Infinite => Bytes::from_static(b"\0"),
        }
    }
}

impl End {
    /// The key it is before.
    pub fn key(&self) -> Option<&Bytes> {
        match self {
            Self::Key(end) => Some(end),
            Self::Infinite => None,
        }
    }

    /// Whether `key` lies before the end.
    pub fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(end) => key < &end[..],
            Self::Infinite => true,
        }
    }
}

/// `"/a"` for one key, `["/a", "/b")`, or `["/a", ...)` to the end of the key space. Bytes that are
/// not printable ASCII are escaped.
impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.start.escape_ascii();
        match &self.end {
            _ if self.as_single().is_some() => write!(f, "\"{start}\""),
            End::Key(end) => write!(f, "[\"{start}\", \"{}\")", end.escape_ascii()),
            End::Infinite => write!(f, "[\"{start}\", ...)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn range(key: &'static [u8], range_end: &'static [u8]) -> KeyRange {
        KeyRange::of(Bytes::from_static(key), Bytes::from_static(range_end))
    }

    #[test]
    fn an_empty_range_end_is_one_key() {
        let one = range(b"/a", b"");
        assert!(one.contains(b"/a") && !one.contains(b"/a\0") && !one.contains(b"/"));
        assert_eq!(one.as_single().map(|key| &key[..]), Some(&b"/a"[..]));
    }

    #[test]
    fn a_zero_byte_reaches_to_the_end() {
        let rest = range(b"/a", b"\0");
        assert!(rest.contains(b"/a") && rest.contains(b"\xff\xff") && !rest.contains(b"/"));
    }

    #[test]
    fn a_range_end_before_the_key_holds_nothing() {
        assert!(range(b"/b", b"/a").is_empty());
        assert!(range(b"/b", b"/b").is_empty());
        assert!(!range(b"/b", b"/b\0").is_empty());
    }

    #[test]
    fn watching_the_empty_key_watches_from_the_least_key() {
        let everything = KeyRange::for_watch(Bytes::new(), Bytes::from_static(b"\0"));
        assert_eq!(everything, KeyRange::prefix(Bytes::new()));
    }

    #[test]
    fn prints_ranges_with_binary_keys_escaped() {
        assert_eq!(range(b"/a", b"").to_string(), r#""/a""#);
        assert_eq!(range(b"/a/", b"/a0").to_string(), r#"["/a/", "/a0")"#);
        assert_eq!(range(b"\0\xff", b"\0").to_string(), r#"["\x00\xff", ...)"#);
    }

    /// Few distinct bytes, so that keys collide and share prefixes.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0), Just(b'/'), Just(b'a'), Just(0xfe), Just(0xff)], 1..5)
    }

    proptest! {
        #[test]
        fn a_prefix_holds_exactly_the_keys_that_begin_with_it(prefix in key(), key in key()) {
            let range = KeyRange::prefix(prefix.clone().into());
            prop_assert_eq!(range.contains(&key), key.starts_with(&prefix));
        }

        #[test]
        fn a_single_holds_exactly_its_key(own in key(), other in key()) {
            let range = KeyRange::single(own.clone().into());
            prop_assert!(range.contains(&own));
            prop_assert_eq!(range.contains(&other), own == other);
        }

        #[test]
        fn an_intersection_holds_what_both_hold(a in key(), b in key(), c in key(), d in key(), key in key()) {
            let (one, two) = (KeyRange::of(a.into(), b.into()), KeyRange::of(c.into(), d.into()));
            let both = one.intersection(&two);
            prop_assert_eq!(both.contains(&key), one.contains(&key) && two.contains(&key));
        }

        #[test]
        fn a_request_made_from_a_range_means_that_range(key in key(), range_end in key()) {
            let range = KeyRange::of(key.into(), range_end.into());
            prop_assert_eq!(&KeyRange::of(range.start.clone(), range.range_end()), &range);
        }
    }
}
