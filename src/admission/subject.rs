//! What a call is about, as far as any protection looks at it.

use super::{Class, Shape};
use crate::etcd::{key_range::KeyRange, method::Method};
use bytes::Bytes;
use std::{net::IpAddr, sync::Arc};

/// Who calls, as rules and statistics see it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Client {
    /// Common name of the certificate it showed, else its address.
    pub name: Arc<str>,
    pub address: IpAddr,
}

impl Client {
    /// `name` is the common name of the certificate that it showed.
    pub fn new(address: IpAddr, name: Option<&str>) -> Self {
        let address = address.to_canonical();
        let name = name.map_or_else(|| address.to_string().into(), Arc::from);
        Self { name, address }
    }
}

/// A call, as far as any protection looks at it.
#[derive(Debug, Clone)]
pub struct Subject {
    pub method: Option<Method>,
    pub shape: Shape,
    pub class: Class,
    /// The keys it reads or writes; a transaction's first. `None` for what carries no key.
    pub keys: Option<KeyRange>,
    /// A transaction's other keys; Kubernetes' have none.
    pub others: Vec<KeyRange>,
    pub place: Place,
    pub client: Arc<Client>,
    /// Bytes of the largest value it writes.
    pub value_size: u64,
}

/// Where in the key space of Kubernetes a request is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// The prefix that all objects of a resource share, without a slash at its end:
    /// `/registry/pods`, `/registry/cilium.io/ciliumnodes`. Empty where there is no key.
    pub collection: Bytes,
    /// Set when all keys lie in one.
    pub namespace: Option<Bytes>,
}

impl Subject {
    /// The same with the other keys of `all`, of which the first is known.
    pub fn with_others(mut self, all: impl Iterator<Item = KeyRange>) -> Self {
        self.others = all.filter(|keys| Some(keys) != self.keys.as_ref()).collect();
        if self.others.iter().any(|keys| Place::of(keys).namespace != self.place.namespace) {
            self.place.namespace = None;
        }
        self
    }

    /// Whether it may put a key that was not there: a put by itself may.
    pub fn may_create(&self) -> bool {
        matches!(self.shape, Shape::Create | Shape::Put | Shape::Txn)
    }

    pub fn is_write(&self) -> bool {
        matches!(
            self.shape,
            Shape::Put
                | Shape::Create
                | Shape::Update
                | Shape::Delete
                | Shape::DeleteRange
                | Shape::Txn
        )
    }
}

impl Place {
    /// The collection that a key belongs to.
    pub fn collection_of(key: &[u8]) -> &[u8] {
        &key[..collection_length(key)]
    }

    pub fn of(keys: &KeyRange) -> Self {
        let start = &keys.start;
        let length = collection_length(start);
        let collection = start.slice(..length);
        let namespace = start.get(length + 1..).and_then(|rest| {
            let end = rest.iter().position(|&byte| byte == b'/')?;
            let whole = KeyRange::prefix(start.slice(..length + 1 + end + 1));
            let inside = keys.end <= whole.end && end > 0;
            inside.then(|| start.slice(length + 1..length + 1 + end))
        });
        Self { collection, namespace }
    }
}

/// How much of `key` names its resource. A group has a dot in its name and its resources one
/// segment further down, as have `services`.
fn collection_length(key: &[u8]) -> usize {
    let mut slashes = key.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let segments = if key.first() == Some(&b'/') { 2 } else { 1 };
    // The end of the segment that names the resource or its group.
    let Some(end) = slashes.nth(segments) else { return key.len() };
    let start = key[..end].iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
    let segment = &key[start..end];
    let nested = segment == b"services" || segment.contains(&b'.');
    if nested && end + 1 < key.len() { slashes.next().unwrap_or(key.len()) } else { end }
}

#[cfg(test)]
impl Subject {
    /// A put of this key.
    pub(crate) fn fixture(key: &'static str) -> Self {
        let keys = KeyRange::single(key.into());
        Self {
            method: None,
            shape: Shape::Put,
            class: Class::Write,
            place: Place::of(&keys),
            keys: Some(keys),
            others: Vec::new(),
            client: Arc::new(Client { name: "fixture".into(), address: [127, 0, 0, 1].into() }),
            value_size: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{Config, Limit, Per, Plan, Protection, Rate, Rule};
    use std::time::Duration;

    fn place(start: &'static str, end: &'static str) -> (String, Option<String>) {
        let place = Place::of(&KeyRange::of(start.into(), end.into()));
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        (text(&place.collection), place.namespace.as_ref().map(text))
    }

    /// A rule that was to let each client read twice let one read twice from each of its addresses.
    #[tokio::test]
    async fn who_shares_a_certificate_shares_a_limit() {
        let requests = Some(Rate { count: 2, period: Duration::from_secs(3_600) });
        let (burst, wait_max) = (Duration::from_secs(3_600), Duration::ZERO);
        let per = vec![Per::Client];
        let limit = Limit { requests, burst, wait_max, per, ..Rule::fixture().limit };
        let rules = vec![Rule { limit, ..Rule::fixture() }];
        let config = Config { rules, ..Config::fixture() };
        let protection = Protection::new(config, &mut Default::default());
        let gate = protection.gate(&"main".into());
        let from = |name, last| {
            let client = Arc::new(Client::new([10, 0, 0, last].into(), name));
            Subject { client, ..Subject::fixture("/a") }
        };
        let passes = async |subject| protection.plan(&gate, &subject, None).await.is_ok();
        let named = [1, 2, 3].map(|last| from(Some("inventory"), last));
        assert!(named.iter().all(|subject| Plan::flow(subject) == Plan::flow(&named[0])));
        let mut passed = Vec::new();
        for subject in named.into_iter().chain([4, 5, 4, 4].map(|last| from(None, last))) {
            passed.push(passes(subject).await);
        }
        assert_eq!(passed, [true, true, false, true, true, true, false]);
    }

    #[test]
    fn a_key_names_its_resource_and_namespace() {
        for (key, collection, namespace) in [
            ("/registry/pods/default/a", "/registry/pods", Some("default")),
            ("/registry/minions/node-1", "/registry/minions", None),
            ("/registry/pods", "/registry/pods", None),
            ("/registry/services/specs/default/a", "/registry/services/specs", Some("default")),
            ("/registry/cilium.io/ciliumnodes/n", "/registry/cilium.io/ciliumnodes", None),
            ("/registry/argoproj.io/workflows/a/b", "/registry/argoproj.io/workflows", Some("a")),
            ("compact_rev_key", "compact_rev_key", None),
            ("", "", None),
            ("/", "/", None),
        ] {
            let expected = (collection.to_owned(), namespace.map(str::to_owned));
            assert_eq!(place(key, ""), expected, "{key}");
        }
    }

    #[test]
    fn a_range_lies_in_a_namespace_only_as_a_whole() {
        let whole = ("/registry/pods".to_owned(), None);
        assert_eq!(place("/registry/pods/", "/registry/pods0"), whole);
        // Where the next page of the whole resource begins.
        assert_eq!(place("/registry/pods/default/a\0", "/registry/pods0"), whole);
        let inside = ("/registry/pods".to_owned(), Some("default".to_owned()));
        assert_eq!(place("/registry/pods/default/", "/registry/pods/default0"), inside);
        assert_eq!(place("/registry/pods/default/a\0", "/registry/pods/default0"), inside);
    }
}
