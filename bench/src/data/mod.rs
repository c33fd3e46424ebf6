//! What etcd holds before anything is measured: objects as Kubernetes keeps them, the same for the
//! same seed.

mod fill;
mod random;
mod resource;

pub(crate) use fill::{Emptiness, fill};
pub(crate) use resource::Resource;

use bytes::{Bytes, BytesMut};
use random::Random;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many objects there are of each resource, and where.
#[derive(Clone, Debug)]
pub(crate) struct DataSet {
    /// Before the name of each resource, as kube-apiserver's `--etcd-prefix`.
    root: String,
    seed: u64,
    amounts: BTreeMap<Resource, Amount>,
    /// What values are cut from.
    filler: Bytes,
}

/// A number of objects of one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", deny_unknown_fields)]
pub(crate) struct Amount {
    pub(crate) count: usize,
    /// The size of each value. Without it sizes are distributed as those of the resource are.
    pub(crate) bytes: Option<usize>,
}

/// As it stands in a scenario: `pods: 1000`, or `pods: {count: 1000, bytes: 10240}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Count(usize),
    Sized {
        count: usize,
        #[serde(default)]
        bytes: Option<usize>,
    },
}

impl From<Written> for Amount {
    fn from(written: Written) -> Self {
        match written {
            Written::Count(count) => Self { count, bytes: None },
            Written::Sized { count, bytes } => Self { count, bytes },
        }
    }
}

/// Every value begins with the time at which it was written, in digits, 0 for what was there before.
pub(crate) const STAMP_BYTES: usize = 20;

const BYTES_MIN: usize = 300;
/// Below etcd's limit of a request.
const BYTES_MAX: usize = 1 << 20;
const NAMESPACES: u64 = 100;

impl DataSet {
    pub(crate) fn new(root: &str, seed: u64, amounts: BTreeMap<Resource, Amount>) -> Self {
        let mut random = Random::new(seed, "filler", 0);
        let words = (0..BYTES_MAX / 8).flat_map(|_| random.next().to_le_bytes());
        Self { root: root.to_owned(), seed, amounts, filler: words.collect() }
    }

    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    pub(crate) fn amounts(&self) -> &BTreeMap<Resource, Amount> {
        &self.amounts
    }

    pub(crate) fn count(&self, resource: Resource) -> usize {
        self.amounts.get(&resource).map_or(0, |amount| amount.count)
    }

    /// Length of all values together.
    pub(crate) fn bytes(&self, resource: Resource) -> usize {
        (0..self.count(resource)).map(|index| self.value_bytes(resource, index)).sum()
    }

    /// What all keys of the resource begin with.
    pub(crate) fn prefix(&self, resource: Resource) -> String {
        format!("{}/{}/", self.root, resource.path())
    }

    /// The first key after all that begin with the prefix.
    pub(crate) fn range_end(&self, resource: Resource) -> Bytes {
        format!("{}/{}0", self.root, resource.path()).into()
    }

    /// The name of the resource alone, which is never written and always asked for.
    pub(crate) fn bare(&self, resource: Resource) -> Bytes {
        format!("{}/{}", self.root, resource.path()).into()
    }

    pub(crate) fn key(&self, resource: Resource, index: usize) -> Bytes {
        let mut random = Random::new(self.seed, resource.path(), index as u64);
        let name = resource.name(index, &mut random);
        format!("{}{name}", self.prefix(resource)).into()
    }

    pub(crate) fn value_bytes(&self, resource: Resource, index: usize) -> usize {
        let fixed = self.amounts.get(&resource).and_then(|amount| amount.bytes);
        let bytes = fixed.unwrap_or_else(|| {
            let mut random = Random::new(!self.seed, resource.path(), index as u64);
            resource.bytes(&mut random)
        });
        bytes.clamp(BYTES_MIN, BYTES_MAX)
    }

    /// The value of an object, written so many nanoseconds after the clock of the sample began.
    pub(crate) fn value(&self, resource: Resource, index: usize, stamp: u128) -> Bytes {
        let bytes = self.value_bytes(resource, index);
        let mut value = BytesMut::with_capacity(bytes);
        value.extend_from_slice(format!("{stamp:020}").as_bytes());
        value.extend_from_slice(&self.filler[..bytes - STAMP_BYTES]);
        value.freeze()
    }
}

/// When a value was written, if it was while something was measured.
pub(crate) fn stamp(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value.get(..STAMP_BYTES)?).ok()?;
    digits.parse().ok().filter(|stamp| *stamp > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn pods(seed: u64, amount: Amount) -> DataSet {
        DataSet::new("/registry", seed, [(Resource::Pods, amount)].into())
    }

    const ANY: Amount = Amount { count: 2000, bytes: None };

    #[test]
    fn the_same_seed_gives_the_same_objects_and_all_keys_differ() {
        let (one, same, other) = (pods(1, ANY), pods(1, ANY), pods(2, ANY));
        let all = |set: &DataSet| -> Vec<_> {
            let object =
                |index| (set.key(Resource::Pods, index), set.value(Resource::Pods, index, 0));
            (0..ANY.count).map(object).collect()
        };
        assert_eq!(all(&one), all(&same));
        assert_ne!(all(&one), all(&other));
        let keys: BTreeSet<_> = all(&one).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys.len(), ANY.count);
        let (prefix, end) = (one.prefix(Resource::Pods), one.range_end(Resource::Pods));
        assert!(keys.iter().all(|key| key.starts_with(prefix.as_bytes()) && *key < end));
    }

    #[test]
    fn sizes_are_spread_around_the_median_unless_they_are_given() {
        let set = pods(1, ANY);
        let mut sizes: Vec<_> = (0..2000).map(|n| set.value_bytes(Resource::Pods, n)).collect();
        sizes.sort_unstable();
        assert!((4_000..6_000).contains(&sizes[1000]), "{}", sizes[1000]);
        assert!(sizes[1980] > 2 * sizes[1000]);
        let fixed = pods(1, Amount { count: 3, bytes: Some(10_240) });
        assert_eq!(fixed.value(Resource::Pods, 2, 0).len(), 10_240);
        assert_eq!(fixed.bytes(Resource::Pods), 30_720);
    }

    #[test]
    fn a_value_tells_when_it_was_written() {
        let set = pods(1, ANY);
        assert_eq!(stamp(&set.value(Resource::Pods, 0, 1_234_567)), Some(1_234_567));
        assert_eq!(stamp(&set.value(Resource::Pods, 0, 0)), None);
        assert_eq!(stamp(b"short"), None);
    }
}
