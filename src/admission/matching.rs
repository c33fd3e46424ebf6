//! Which calls a rule is about, and what it makes of them whatever else goes on.

use super::{Match, Refusal, RefusalKind, Rule, Subject};
use crate::etcd::key_range::{End, KeyRange};
use bytes::Bytes;
use std::cmp::Ordering;

impl Match {
    /// Whether a call to `cluster` is one of those meant.
    pub(super) fn matches(&self, subject: &Subject, cluster: &str) -> bool {
        let Self { prefixes, namespaces, classes, shapes, methods, clients, addresses, clusters } =
            self;
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        any(classes, |class| *class == subject.class)
            && any(shapes, |shape| *shape == subject.shape)
            && any(methods, |method| Some(*method) == subject.method)
            && any(clusters, |name| name == cluster)
            && any(clients, |name| name.matches(&subject.client.name))
            && any(addresses, |net| net.contains(&subject.client.address))
            && any(prefixes, |prefix| {
                let mut keys = subject.keys.iter().chain(&subject.others);
                keys.any(|keys| touches(keys, prefix.as_bytes()))
            })
            && any(namespaces, |name| {
                subject.place.namespace.as_ref().is_some_and(|found| name.matches(&text(found)))
            })
    }
}

impl Rule {
    /// Why no call like this passes, however few there are.
    pub(super) fn forbids(&self, subject: &Subject) -> Option<Refusal> {
        let refusal = |kind, reason, remedy| {
            Some(Refusal { kind, rule: self.name.as_str().into(), reason, remedy, pushback: None })
        };
        if self.deny {
            return refusal(RefusalKind::Forbidden, "calls like this are denied".into(), DENY);
        }
        if self.read_only && subject.is_write() {
            return refusal(RefusalKind::Forbidden, "it lets nothing be written".into(), READ);
        }
        let max = self.quota.value_size.filter(|max| subject.value_size > *max)?;
        let reason = format!("a value of {} bytes; {max} are let", subject.value_size);
        refusal(RefusalKind::Size, reason, "raise its quota.value_size")
    }
}

const DENY: &str = "take its deny out or set it to observe";
const READ: &str = "take its read_only out or set it to observe";

/// An empty list is not looked at.
fn any<T>(list: &[T], matches: impl Fn(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(matches)
}

/// Whether `keys` holds `prefix` itself or a key below it. Nothing is copied for it: every call
/// meets this for every rule.
pub(super) fn touches(keys: &KeyRange, prefix: &[u8]) -> bool {
    let begins_before = compare(&keys.start, prefix, AFTER_SLASH).is_lt();
    let ends_after = match &keys.end {
        End::Key(end) => compare(end, prefix, b'/').is_gt(),
        End::Infinite => true,
    };
    keys.contains(prefix) || begins_before && ends_after && !keys.is_empty()
}

/// What ends the keys that begin with a slash.
const AFTER_SLASH: u8 = b'/' + 1;

/// `key` by the order of keys, seen from `prefix` with `next` behind it.
fn compare(key: &[u8], prefix: &[u8], next: u8) -> Ordering {
    let (head, tail) = key.split_at(key.len().min(prefix.len()));
    head.cmp(prefix).then_with(|| tail.cmp(&[next]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_itself_and_what_lies_below_it() {
        let range = |start: &'static str, end: &'static str| KeyRange::of(start.into(), end.into());
        for (keys, expected) in [
            (range("/a/b", ""), true),
            (range("/a/b/", ""), true),
            (range("/a/b/c", ""), true),
            (range("/a/b.d/c", ""), false),
            (range("/a/b-c", ""), false),
            (range("/a/b0", ""), false),
            (range("/a/bc", ""), false),
            (range("/a/", ""), false),
            (range("/a/b/", "/a/b0"), true),
            (range("/a/b/x", "/a/b/y"), true),
            (range("/a/b.", "/a/b/"), false),
            (range("/a/b.", "/a/b/\0"), true),
            (range("/a/b0", "/a/c"), false),
            (range("/a/", "/a0"), true),
            (range("/a", "/a/b"), false),
            (range("/", "\0"), true),
            (range("/a/c", "\0"), false),
            (range("/a/b/z", "/a/b/a"), false),
        ] {
            assert_eq!(touches(&keys, b"/a/b"), expected, "{keys}");
        }
    }
}
