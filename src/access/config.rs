use crate::admission::{Client, Mode, Pattern};
use crate::etcd::key_range::{End, KeyRange};
use ipnet::IpNet;

/// What clients may do; nothing else passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub mode: Mode,
    pub grants: Vec<Grant>,
}

/// Lets some clients do something with some keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Names that clients' certificates carry; empty: any.
    pub clients: Vec<Pattern>,
    /// Empty: any.
    pub addresses: Vec<IpNet>,
    pub verbs: Vec<Verb>,
    /// Whole segments, without a slash at the end; an empty one is every key.
    pub prefixes: Vec<String>,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Keys and values, be it by a compare or as what a write replaced.
    Read,
    Write,
    Watch,
    /// Granting, renewing and revoking of leases.
    Lease,
    Compact,
    /// What tells about the cluster and its members.
    Status,
    /// Snapshots, defragmentation, hashes, alarms, moving of the leader, downgrades.
    Maintenance,
    /// Changes of members.
    Cluster,
    /// Users and roles of etcd.
    Auth,
}

impl Verb {
    pub const ALL: [Self; 9] = [
        Self::Read,
        Self::Write,
        Self::Watch,
        Self::Lease,
        Self::Compact,
        Self::Status,
        Self::Maintenance,
        Self::Cluster,
        Self::Auth,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Watch => "watch",
            Self::Lease => "lease",
            Self::Compact => "compact",
            Self::Status => "status",
            Self::Maintenance => "maintenance",
            Self::Cluster => "cluster",
            Self::Auth => "auth",
        }
    }

    /// Whether it is done with keys that a call names.
    pub const fn has_keys(self) -> bool {
        matches!(self, Self::Read | Self::Write | Self::Watch)
    }
}

impl Grant {
    pub(super) fn is_for(&self, client: &Client) -> bool {
        let named = |name: &Pattern| name.matches(&client.name);
        let at = |network: &IpNet| network.contains(&client.address);
        (self.clients.is_empty() || self.clients.iter().any(named))
            && (self.addresses.is_empty() || self.addresses.iter().any(at))
    }

    /// Whether it lets `verb` be done; with `keys`, as far as that has any.
    pub(super) fn lets(&self, verb: Verb, keys: Option<&KeyRange>) -> bool {
        let holds = |keys| self.prefixes.iter().any(|prefix| is_below(keys, prefix.as_bytes()));
        self.verbs.contains(&verb) && keys.is_none_or(holds)
    }
}

/// Whether no key of `keys` is another one than `prefix` or lies elsewhere than below it.
fn is_below(keys: &KeyRange, prefix: &[u8]) -> bool {
    if prefix.is_empty() || keys.as_single().is_some_and(|key| key[..] == *prefix) {
        return true;
    }
    let begins = keys.start.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(b"/"));
    // What follows the last key that begins with the prefix and a slash.
    let behind = prefix.iter().chain(b"0");
    let ends = match &keys.end {
        End::Key(end) => end.iter().le(behind),
        End::Infinite => false,
    };
    begins && ends
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::{collection::vec, prelude::*};

    fn range(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange::of(start.into(), end.into())
    }

    #[test]
    fn only_what_lies_inside_as_a_whole_is_below_a_prefix() {
        for (keys, expected) in [
            (range("/a/b", ""), true),
            (range("/a/b/", ""), true),
            (range("/a/b/c", ""), true),
            (range("/a/b/", "/a/b0"), true),
            (range("/a/b/c", "/a/b/d"), true),
            (range("/a/b/c", "/a/b0"), true),
            (range("/a/bc", ""), false),
            (range("/a/b-", ""), false),
            (range("/a/", ""), false),
            (range("/a/b", "/a/b0"), false),
            (range("/a/b/", "/a/b1"), false),
            (range("/a/b/", "/a/b0\0"), false),
            (range("/a/", "/a0"), false),
            // The class of etcd's watches with an open end.
            (range("/a/b/", "\0"), false),
            (range("/a/b", "\0"), false),
            (range("\0", "\0"), false),
            (range("", "\0"), false),
            (range("", ""), false),
            // One that holds nothing is where it begins.
            (range("/a/b/d", "/a/b/c"), true),
            (range("/a/c", "/a/b/c"), false),
        ] {
            assert_eq!(is_below(&keys, b"/a/b"), expected, "{keys}");
            assert!(is_below(&keys, b""), "{keys}");
        }
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0), Just(b'/'), Just(b'0'), Just(b'a'), Just(0xff)], 0..5)
    }

    proptest! {
        #[test]
        fn no_key_of_a_range_that_is_let_is_outside(a in key(), b in key(), inside in key()) {
            let keys = KeyRange::of(Bytes::from(a), Bytes::from(b));
            if is_below(&keys, b"/a") && keys.contains(&inside) {
                prop_assert!(inside == b"/a" || inside.starts_with(b"/a/"), "{keys}");
            }
        }
    }
}
