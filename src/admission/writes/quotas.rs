//! How much may be stored.

use super::{ASKED_MAX, Asking, Put};
use crate::{
    admission::{
        Denied, Gate, Growth, Place, RefusalKind, Shape, Subject, matching::touches,
        rules::RunningRule, usage::Stored,
    },
    etcd::key_range::KeyRange,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What a call puts below one prefix, and what is more by it if all of that is new.
#[derive(Debug, Default)]
struct Addition {
    puts: Vec<Put>,
    added: Stored,
}

impl RunningRule {
    pub(super) fn has_quota(&self) -> bool {
        self.rule.quota.objects.is_some() || self.rule.quota.bytes.is_some()
    }

    /// Whether there is room for what a call puts below each of the rule's prefixes.
    pub(super) async fn check_quotas(
        &self,
        gate: &Gate,
        subject: &Subject,
        puts: &[Put],
        asking: &Asking<'_>,
        growth: &mut Vec<Growth>,
    ) -> Result<(), Denied> {
        for (prefix, addition) in self.additions(subject, puts) {
            growth.extend(self.check_quota((gate, subject), prefix, &addition, asking).await?);
        }
        Ok(())
    }

    async fn check_quota(
        &self,
        (gate, subject): (&Gate, &Subject),
        prefix: Bytes,
        addition: &Addition,
        asking: &Asking<'_>,
    ) -> Result<Option<Growth>, Denied> {
        let certain = subject.shape == Shape::Create;
        let range = KeyRange::prefix(prefix.clone());
        let usage = self.usages.get_with((Arc::clone(&gate.cluster), prefix), Arc::default);
        let exceeds = |stored: Stored| self.exceeds(stored, addition.added);
        // Where it takes too long, what was known before decides.
        asking.in_time(usage.count(&range, asking.census, exceeds)).await?;
        let stored = match usage.grow(addition.added, certain, exceeds) {
            Ok(growth) => return Ok(Some(growth)),
            Err(stored) => stored,
        };
        let added = match certain {
            true => addition.added,
            false => new_keys(&addition.puts, asking, |new| self.exceeds(stored, new)).await?,
        };
        if added.keys == 0 {
            return Ok(None);
        }
        if self.exceeds(stored, added) {
            self.refuse_full(&range, stored)?;
            gate.would_refuse(subject.class);
        }
        // While only observing it is stored all the same.
        Ok(usage.grow(added, certain, |_| false).ok())
    }

    fn exceeds(&self, stored: Stored, added: Stored) -> bool {
        let quota = &self.rule.quota;
        quota.objects.is_some_and(|max| stored.keys + added.keys > max)
            || quota.bytes.is_some_and(|max| stored.bytes + added.bytes > max)
    }

    fn refuse_full(&self, range: &KeyRange, stored: Stored) -> Result<(), Denied> {
        let (Stored { keys, bytes }, quota) = (stored, &self.rule.quota);
        let of = |max: Option<u64>| max.map_or_else(|| "any number".into(), |max| max.to_string());
        let reason = format!(
            "{range} holds {keys} keys of {} and about {bytes} bytes of {}",
            of(quota.objects),
            of(quota.bytes)
        );
        let remedy = "delete some or raise its quota";
        self.refuse(self.mode(), RefusalKind::Space, reason, remedy)
    }

    /// What a call adds, by what is counted together. A transaction runs one of its branches, and is
    /// taken to run all.
    fn additions(&self, subject: &Subject, puts: &[Put]) -> BTreeMap<Bytes, Addition> {
        let own = match (&subject.keys, subject.shape) {
            (_, Shape::Txn) => None,
            (keys, _) => {
                keys.as_ref().map(|keys| Put { key: keys.start.clone(), size: subject.value_size })
            }
        };
        let mut additions: BTreeMap<Bytes, Addition> = BTreeMap::new();
        for put in own.iter().chain(puts) {
            for territory in self.territories(&put.key) {
                let Addition { added, puts } = additions.entry(territory).or_default();
                added.keys += 1;
                added.bytes += put.size;
                puts.push(put.clone());
            }
        }
        additions
    }

    /// What is counted together with a key: its namespace, or what lies below each of the rule's
    /// prefixes that it lies below.
    fn territories(&self, key: &Bytes) -> BTreeSet<Bytes> {
        let key = KeyRange::single(key.clone());
        let Place { collection, namespace } = Place::of(&key);
        let territory = |prefix: &[u8]| match &namespace {
            Some(namespace) if self.rule.quota.per_namespace => {
                [&collection[..], b"/", namespace, b"/"].concat().into()
            }
            _ => [prefix, b"/"].concat().into(),
        };
        let prefixes = self.rule.when.prefixes.iter().map(String::as_bytes);
        prefixes.filter(|prefix| touches(&key, prefix)).map(territory).collect()
    }
}

/// Which of the keys that are put are not there: others only change. Looked for until `is_enough` of
/// them are found; what is not known is taken to be there, and what is too many to be new.
async fn new_keys(
    puts: &[Put],
    asking: &Asking<'_>,
    is_enough: impl Fn(Stored) -> bool,
) -> Result<Stored, Denied> {
    let mut new = Stored::default();
    for (number, Put { key, size }) in puts.iter().enumerate() {
        // Where more is stored than may be, nothing new is too much already.
        if new.keys > 0 && is_enough(new) {
            break;
        }
        let key = KeyRange::single(key.clone());
        if number >= ASKED_MAX || asking.count(&key).await? == Ok(0) {
            new.keys += 1;
            new.bytes += size;
        }
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{
        Census, Config, Match, Protection, Quota, Rule, Uncounted, metrics::Metrics,
    };
    use futures_util::{FutureExt, future::BoxFuture};

    fn running(prefixes: &[&str], per_namespace: bool) -> RunningRule {
        let prefixes = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
        let when = Match { prefixes, ..Match::default() };
        let quota = Quota { objects: Some(1), per_namespace, ..Quota::default() };
        let counters = Metrics::register(&mut Default::default()).protection("rules.fixture");
        RunningRule::new(Rule { when, quota, ..Rule::fixture() }, 1, counters)
    }

    #[test]
    fn a_key_counts_below_each_prefix_that_it_lies_below() {
        const PODS: [&str; 2] = ["/registry/pods", "/registry/podtemplates"];
        const NESTED: [&str; 2] = ["/registry", "/registry/pods"];
        for (prefixes, key, expected) in [
            (PODS, "/registry/pods/a/1", &["/registry/pods/"][..]),
            (PODS, "/registry/podtemplates/a/1", &["/registry/podtemplates/"]),
            (PODS, "/registry/podsecuritypolicy/1", &[]),
            (NESTED, "/registry/pods/a/1", &["/registry/", "/registry/pods/"]),
            (NESTED, "/registry/podtemplates/a/1", &["/registry/"]),
        ] {
            let found = running(&prefixes, false).territories(&key.into());
            assert!(found.iter().eq(expected), "{key}: {found:?}");
        }
        let found = running(&PODS, true).territories(&"/registry/pods/a/1".into());
        assert!(found.iter().eq(["/registry/pods/a/"]), "{found:?}");
    }
    /// An etcd that holds so many keys.
    struct Holds(u64);

    impl Census for Holds {
        fn count<'c>(&'c self, _range: &'c KeyRange) -> BoxFuture<'c, Result<u64, Uncounted>> {
            std::future::ready(Ok(self.0)).boxed()
        }

        fn mean_size(&self, _range: &KeyRange) -> Option<f64> {
            None
        }
    }

    /// Where two listeners have a cluster of their own each, both hold the same prefix, and what one
    /// held was taken for what the other does.
    #[tokio::test(start_paused = true)]
    async fn each_cluster_has_its_own_amount() {
        let protection = Protection::new(Config::fixture(), &mut Default::default());
        let pod = Subject { shape: Shape::Create, ..Subject::fixture("/registry/pods/a/1") };
        for full_first in [true, false] {
            let rule = running(&["/registry/pods"], false);
            let mut fits = [("full", 1), ("empty", 0)].map(async |(name, keys)| {
                let (gate, census) = (protection.gate(&name.into()), Holds(keys));
                let (asking, mut growth) = (Asking::new(&census, None), Vec::new());
                rule.check_quotas(&gate, &pod, &[], &asking, &mut growth).await.is_ok()
            });
            if !full_first {
                fits.reverse();
            }
            for (index, fits) in fits.into_iter().enumerate() {
                assert_eq!(fits.await, (index == 1) == full_first);
            }
        }
    }
}
