//! Protections of what is stored: its amount, and deletes of much of it.

use super::{
    Census, Client, Denied, Gate, Growth, Mode, Plan, Priority, Protection, Refusal, RefusalKind,
    Shape, SpaceConfig, Subject,
    matching::touches,
    metrics::{Counters, Metrics},
    rules::RunningRule,
    usage::Stored,
};
use crate::{
    etcd::key_range::KeyRange,
    telemetry::audit::{self, audit},
};
use bytes::Bytes;
use std::sync::Arc;

/// The counters of the guards that are always there.
#[derive(Debug)]
pub(super) struct WriteGuards {
    space: Counters,
    deletes: Counters,
    read_only: Counters,
}

impl WriteGuards {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            space: metrics.protection("space"),
            deletes: metrics.protection("deletes"),
            read_only: metrics.protection("read_only"),
        }
    }
}

impl Protection {
    /// Whether a write may be stored, and what grows by it. `deletes` are the ranges it deletes,
    /// `overridden` says that the client insists on them.
    ///
    /// # Errors
    ///
    /// When it may not.
    pub async fn guard(
        &self,
        gate: &Gate,
        subject: &Subject,
        plan: &Plan,
        deletes: &[KeyRange],
        overridden: bool,
        census: &dyn Census,
    ) -> Result<Vec<Growth>, Denied> {
        // Rules that come before the one that exempts hold all the same.
        if !plan.exempt {
            self.check_read_only()?;
            self.check_space(gate, subject, plan)?;
            self.check_deletes(subject, plan, deletes, overridden, census).await?;
        }
        let mut growth = Vec::new();
        if subject.may_create() {
            for running in &plan.rules {
                running.check_quotas(subject, census, &mut growth).await?;
            }
        }
        Ok(growth)
    }

    fn check_read_only(&self) -> Result<(), Denied> {
        let current = self.current();
        refuse(current.modes.read_only, &current.writes.read_only, "read_only", || {
            (RefusalKind::Forbidden, "nothing may be written".into(), "switch read_only off")
        })
    }

    /// The slope before etcd refuses every put.
    fn check_space(&self, gate: &Gate, subject: &Subject, plan: &Plan) -> Result<(), Denied> {
        let current = self.current();
        let percent = gate.space_percent();
        let from = current.config.space.refuses_from(subject, plan);
        if from.is_none_or(|from| percent < from) {
            return Ok(());
        }
        refuse(current.modes.space, &current.writes.space, "space", || {
            let reason = format!("the database of {} is {percent}% full", gate.cluster);
            let remedy = "delete, compact and defragment, or raise etcd's quota";
            (RefusalKind::Space, reason, remedy)
        })
    }

    async fn check_deletes(
        &self,
        subject: &Subject,
        plan: &Plan,
        deletes: &[KeyRange],
        overridden: bool,
        census: &dyn Census,
    ) -> Result<(), Denied> {
        if deletes.is_empty() {
            return Ok(());
        }
        let by_rule = |mode| {
            let mut rules = plan.rules.iter().filter(|running| running.mode() == mode);
            rules.find_map(|running| Some((running.rule.quota.delete_keys?, mode)))
        };
        let (by_rule, watched) = (by_rule(Mode::Enforce), by_rule(Mode::Observe));
        let (mode, keys_max, allowed) = {
            let current = self.current();
            let config = &current.config.deletes;
            let default = (config.keys_max, current.modes.deletes);
            // A rule that is only watched does not stand in for a guard that holds.
            let watched = watched.filter(|_| default.1 != Mode::Enforce);
            let (keys_max, mode) = by_rule.or(watched).unwrap_or(default);
            let allowed = config.clients.iter().any(|name| name.matches(&subject.client.name));
            (mode, keys_max, allowed && by_rule.is_none())
        };
        if mode == Mode::Off {
            return Ok(());
        }
        let mut keys = 0;
        for range in deletes {
            // What etcd does not count now it will not delete either, and says so itself.
            keys += census.count(range).await.unwrap_or(0);
        }
        if keys <= keys_max {
            if watched.is_some_and(|(watched, _)| keys > watched) && !overridden {
                self.current().writes.deletes.of(Mode::Observe).refused.inc();
            }
            return Ok(());
        }
        if allowed || overridden {
            let outcome = if overridden { "overridden" } else { "allowed" };
            tell_wide_delete(&subject.client, deletes, keys, outcome);
            return Ok(());
        }
        let outcome = if mode == Mode::Enforce { "refused" } else { "observed" };
        tell_wide_delete(&subject.client, deletes, keys, outcome);
        refuse(mode, &self.current().writes.deletes, "deletes", || {
            let reason = format!("this deletes {keys} keys, and {keys_max} are let at once");
            (RefusalKind::Forbidden, reason, OVERRIDE)
        })
    }
}

impl SpaceConfig {
    /// How full the database is from which on such a write is refused; `None` if it never is.
    pub(super) fn refuses_from(&self, subject: &Subject, plan: &Plan) -> Option<u32> {
        if !subject.may_create() {
            return None;
        }
        let low =
            subject.place.collection.ends_with(b"/events") || plan.priority == Some(Priority::Low);
        if low {
            return Some(self.refuse_low_percent);
        }
        // A put by itself may well be an update, and those flow.
        (subject.shape == Shape::Create).then_some(self.refuse_percent)
    }
}

const OVERRIDE: &str = "delete less at once, send the metadata seawall-override: deletes, name the \
                        client in protection.deletes.clients, or switch deletes off";

/// Counts a refusal, and refuses unless only observing.
fn refuse(
    mode: Mode,
    counters: &Counters,
    name: &str,
    why: impl FnOnce() -> (RefusalKind, String, &'static str),
) -> Result<(), Denied> {
    if mode == Mode::Off {
        return Ok(());
    }
    counters.of(mode).refused.inc();
    if mode == Mode::Observe {
        return Ok(());
    }
    let (kind, reason, remedy) = why();
    let rule = Arc::from(name);
    Err(Denied::Refused(Refusal { kind, rule, reason, remedy, pushback: None }))
}

fn tell_wide_delete(client: &Client, deletes: &[KeyRange], keys: u64, outcome: &str) {
    let ranges: Vec<_> = deletes.iter().map(KeyRange::to_string).collect();
    let (client, address) = (&*client.name, client.address);
    audit::of_client(|| {
        audit!("wide_delete", client, %address, ?ranges, keys, outcome, "a delete of many keys");
    });
}

impl RunningRule {
    /// Whether there is room for one more key below each of the rule's prefixes that it lies below.
    async fn check_quotas(
        &self,
        subject: &Subject,
        census: &dyn Census,
        growth: &mut Vec<Growth>,
    ) -> Result<(), Denied> {
        let quota = &self.rule.quota;
        if quota.objects.is_none() && quota.bytes.is_none() {
            return Ok(());
        }
        for prefix in self.territories(subject) {
            growth.extend(self.check_quota(subject, prefix, census).await?);
        }
        Ok(())
    }

    async fn check_quota(
        &self,
        subject: &Subject,
        prefix: Bytes,
        census: &dyn Census,
    ) -> Result<Option<Growth>, Denied> {
        let quota = &self.rule.quota;
        let range = KeyRange::prefix(prefix.clone());
        let usage = self.usages.get_with(prefix, Arc::default);
        let size = subject.value_size;
        let exceeds = |stored: Stored| {
            quota.objects.is_some_and(|max| stored.keys + 1 > max)
                || quota.bytes.is_some_and(|max| stored.bytes + size > max)
        };
        // etcd that cannot count will not create either.
        let Some(()) = usage.count(&range, census, exceeds).await else { return Ok(None) };
        let certain = subject.shape == Shape::Create;
        let Stored { keys, bytes } = match usage.grow(size, certain, exceeds) {
            Ok(growth) => return Ok(Some(growth)),
            Err(_) if is_update(subject, census).await => return Ok(None),
            Err(stored) => stored,
        };
        let of = |max: Option<u64>| max.map_or_else(|| "any number".into(), |max| max.to_string());
        let reason = format!(
            "{range} holds {keys} keys of {} and about {bytes} bytes of {}",
            of(quota.objects),
            of(quota.bytes)
        );
        let remedy = "delete some or raise its quota";
        self.refuse(self.mode(), RefusalKind::Space, reason, remedy)?;
        // While only observing it is stored all the same.
        Ok(usage.grow(size, certain, |_| false).ok())
    }

    /// What is counted together with the key that `subject` creates: its namespace, or what lies
    /// below each of the rule's prefixes that it lies below.
    fn territories(&self, subject: &Subject) -> Vec<Bytes> {
        let place = &subject.place;
        if let (Some(namespace), true) = (&place.namespace, self.rule.quota.per_namespace) {
            return vec![[&place.collection[..], b"/", namespace, b"/"].concat().into()];
        }
        let Some(keys) = &subject.keys else { return Vec::new() };
        let prefixes = self.rule.when.prefixes.iter().map(String::as_bytes);
        let touched = prefixes.filter(|prefix| touches(keys, prefix));
        touched.map(|prefix| [prefix, b"/"].concat().into()).collect()
    }
}

/// Whether a put by itself changes a key that is there. Others say themselves what they do.
async fn is_update(subject: &Subject, census: &dyn Census) -> bool {
    match &subject.keys {
        Some(key) if subject.shape == Shape::Put => census.count(key).await != Some(0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{Match, Quota, Rule};

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
            let found = running(&prefixes, false).territories(&Subject::fixture(key));
            assert_eq!(found, expected, "{key}");
        }
        let found = running(&PODS, true).territories(&Subject::fixture("/registry/pods/a/1"));
        assert_eq!(found, ["/registry/pods/a/"]);
    }
}
