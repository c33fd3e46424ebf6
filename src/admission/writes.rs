//! Protections of what is stored: its amount, and deletes of much of it.

use super::{
    Census, Class, Client, Denied, Flow, Gate, Growth, Mode, Place, Plan, Priority, Protection,
    Refusal, RefusalKind, Shape, SpaceConfig, Subject, Uncounted,
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
use moka::sync::Cache;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

/// The guards that are always there.
#[derive(Debug)]
pub(super) struct WriteGuards {
    space: Counters,
    deletes: Counters,
    read_only: Counters,
    /// Ranges that were too wide to be deleted: when they were counted, and how many keys there were.
    wide: Cache<Flow, (Instant, u64)>,
}

impl WriteGuards {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            space: metrics.protection("space"),
            deletes: metrics.protection("deletes"),
            read_only: metrics.protection("read_only"),
            wide: Cache::new(WIDE_MAX),
        }
    }
}

/// Ranges that are remembered as too wide, and for how long: who tries again at once is told the same
/// without another count.
const WIDE_MAX: u64 = 1_000;
const WIDE_FOR: Duration = Duration::from_secs(1);

/// A call waits for counts at most this long, and is then treated as if they had failed.
const COUNT_MAX: Duration = Duration::from_secs(5);

/// Ranges of one call that are counted, and keys that are looked for: as many as etcd takes in one
/// list of a transaction, unless told otherwise.
const ASKED_MAX: usize = 128;

/// What a write changes.
#[derive(Debug, Clone, Copy)]
pub struct Changes<'w> {
    /// A transaction's; other puts are known from their subject.
    pub puts: &'w [Put],
    /// Ranges that it deletes.
    pub deletes: &'w [KeyRange],
    /// The client insists on them.
    pub overridden: bool,
}

/// A key that is put, and the bytes of its value.
#[derive(Debug, Clone)]
pub struct Put {
    pub key: Bytes,
    pub size: u64,
}

impl Protection {
    /// Whether such a write may be made at all, which takes no time to tell.
    ///
    /// # Errors
    ///
    /// When it may not.
    pub fn check_write(&self, gate: &Gate, subject: &Subject, plan: &Plan) -> Result<(), Denied> {
        // Rules that come before the one that exempts hold all the same.
        if plan.exempt {
            return Ok(());
        }
        self.check_read_only(gate, subject)?;
        self.check_space(gate, subject, plan)
    }

    /// Whether there is room for a write, and whether it deletes too much; tells what grows by it. It
    /// may have to be counted at etcd, for which the call's turn is its own.
    ///
    /// # Errors
    ///
    /// When it may not be made.
    pub async fn guard(
        &self,
        gate: &Gate,
        subject: &Subject,
        plan: &Plan,
        changes: Changes<'_>,
        deadline: Option<Instant>,
        census: &dyn Census,
    ) -> Result<Vec<Growth>, Denied> {
        let asking = Asking::new(census, deadline);
        if !changes.deletes.is_empty() {
            self.check_deletes(gate, subject, plan, changes, &asking).await?;
        }
        let mut growth = Vec::new();
        if subject.may_create() {
            for running in plan.rules.iter().filter(|running| running.has_quota()) {
                running.check_quotas(gate, subject, changes.puts, &asking, &mut growth).await?;
            }
        }
        Ok(growth)
    }

    fn check_read_only(&self, gate: &Gate, subject: &Subject) -> Result<(), Denied> {
        let current = self.current();
        let whom = (gate, subject.class);
        refuse(whom, current.modes.read_only, &current.writes.read_only, "read_only", || {
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
        let whom = (gate, subject.class);
        refuse(whom, current.modes.space, &current.writes.space, "space", || {
            let reason = format!("the database of {} is {percent}% full", gate.cluster);
            let remedy = "delete, compact and defragment, or raise etcd's quota";
            (RefusalKind::Space, reason, remedy)
        })
    }

    async fn check_deletes(
        &self,
        gate: &Gate,
        subject: &Subject,
        plan: &Plan,
        changes: Changes<'_>,
        asking: &Asking<'_>,
    ) -> Result<(), Denied> {
        let bounds = self.bounds(subject, plan);
        let Some(most) = bounds.iter().map(|bound| bound.keys_max).max() else { return Ok(()) };
        let Some(width) = self.width(gate, changes.deletes, most, asking).await? else {
            return Ok(());
        };
        for bound in bounds.iter().filter(|bound| width.is_above(bound.keys_max)) {
            let outcome = match bound.mode {
                _ if changes.overridden => "overridden",
                _ if bound.allowed => "allowed",
                Mode::Enforce => "refused",
                _ => "observed",
            };
            tell_wide_delete(&subject.client, changes.deletes, &width, bound, outcome);
            if !changes.overridden && !bound.allowed {
                self.refuse_wide((gate, subject.class), bound, &width)?;
            }
        }
        Ok(())
    }

    /// What bounds the deletes of a call: rules that observe, which change nothing and are looked at
    /// first, then the rule that holds, else the guard.
    fn bounds(&self, subject: &Subject, plan: &Plan) -> Vec<Bound> {
        let exact = |running: &Arc<RunningRule>| {
            let (keys_max, mode) = (running.rule.quota.delete_keys?, running.mode());
            Some(Bound { keys_max, mode, allowed: false, rule: Some(Arc::clone(running)) })
        };
        let (mut bounds, holding): (Vec<_>, Vec<_>) =
            plan.rules.iter().filter_map(exact).partition(|bound| bound.mode != Mode::Enforce);
        let current = self.current();
        let config = &current.config.deletes;
        let mode = if plan.exempt { Mode::Off } else { current.modes.deletes };
        match holding.into_iter().next() {
            Some(rule) => bounds.push(rule),
            None if mode == Mode::Off => {}
            None => {
                let allowed = config.clients.iter().any(|name| name.matches(&subject.client.name));
                bounds.push(Bound { keys_max: config.keys_max, mode, allowed, rule: None });
            }
        }
        bounds
    }

    /// How many keys are deleted, counted no further than beyond `most`. `None` when etcd will refuse
    /// that, and says so itself.
    async fn width(
        &self,
        gate: &Gate,
        deletes: &[KeyRange],
        most: u64,
        asking: &Asking<'_>,
    ) -> Result<Option<Width>, Denied> {
        if deletes.len() > ASKED_MAX {
            return Ok(Some(Width::Unknown(format!("it names {} ranges", deletes.len()))));
        }
        let mut keys = 0;
        for (number, range) in deletes.iter().enumerate() {
            match self.count_wide(gate, range, most, asking).await? {
                Ok(counted) => keys += counted,
                Err(Uncounted::Refused) => return Ok(None),
                Err(Uncounted::Failed(why)) => return Ok(Some(Width::Unknown(why))),
            }
            if keys > most && number + 1 < deletes.len() {
                return Ok(Some(Width::AtLeast(keys)));
            }
        }
        Ok(Some(Width::Keys(keys)))
    }

    /// The keys of one range, unless it was found to be too wide just now.
    async fn count_wide(
        &self,
        gate: &Gate,
        range: &KeyRange,
        most: u64,
        asking: &Asking<'_>,
    ) -> Result<Result<u64, Uncounted>, Denied> {
        let current = self.current.load_full();
        let (wide, flow) = (&current.writes.wide, Flow::of((&gate.cluster, range)));
        // What a client with a name at etcd may know of it only etcd knows.
        let shared = !asking.census.is_named();
        match wide.get(&flow) {
            Some((began, keys)) if shared && began.elapsed() < WIDE_FOR && keys > most => {
                return Ok(Ok(keys));
            }
            _ => {}
        }
        let began = Instant::now();
        let counted = asking.count(range).await?;
        if let Ok(keys) = counted
            && shared
            && keys > most
        {
            wide.insert(flow, (began, keys));
        }
        Ok(counted)
    }

    /// Counts a delete of too many keys, and refuses it unless only observing.
    fn refuse_wide(
        &self,
        whom: (&Gate, Class),
        bound: &Bound,
        width: &Width,
    ) -> Result<(), Denied> {
        let Bound { keys_max, mode, .. } = *bound;
        let reason = format!("{width}, and {keys_max} are let at once");
        match &bound.rule {
            Some(running) => {
                running.refuse(mode, RefusalKind::WideDelete, reason, RULE_OVERRIDE)?;
                whom.0.would_refuse(whom.1);
                Ok(())
            }
            None => refuse(whom, mode, &self.current().writes.deletes, "deletes", || {
                (RefusalKind::WideDelete, reason, OVERRIDE)
            }),
        }
    }
}

/// What bounds the keys that a call deletes by ranges.
#[derive(Debug)]
struct Bound {
    keys_max: u64,
    mode: Mode,
    /// Whether the client is named as one that may delete more.
    allowed: bool,
    /// Whose bound it is; else the guard's.
    rule: Option<Arc<RunningRule>>,
}

impl Bound {
    fn name(&self) -> &str {
        self.rule.as_ref().map_or("deletes", |running| &running.name)
    }
}

/// How many keys a call deletes, as far as it was counted.
#[derive(Debug)]
enum Width {
    Keys(u64),
    AtLeast(u64),
    /// And why not.
    Unknown(String),
}

impl Width {
    /// What could not be counted is taken for too much.
    fn is_above(&self, keys_max: u64) -> bool {
        self.keys().is_none_or(|keys| keys > keys_max)
    }

    fn keys(&self) -> Option<u64> {
        match self {
            Self::Keys(keys) | Self::AtLeast(keys) => Some(*keys),
            Self::Unknown(_) => None,
        }
    }
}

impl fmt::Display for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys(keys) => write!(f, "this deletes {keys} keys"),
            Self::AtLeast(keys) => write!(f, "this deletes {keys} keys or more"),
            Self::Unknown(why) => write!(f, "the keys that this deletes were not counted: {why}"),
        }
    }
}

/// What one call may ask of etcd, and until when.
struct Asking<'c> {
    census: &'c dyn Census,
    until: Instant,
    deadline: Option<Instant>,
}

impl<'c> Asking<'c> {
    fn new(census: &'c dyn Census, deadline: Option<Instant>) -> Self {
        let limit = Instant::now() + COUNT_MAX;
        let until = deadline.map_or(limit, |deadline| deadline.min(limit));
        Self { census, until, deadline }
    }

    /// `None` when it takes too long.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<Option<T>, Denied> {
        match timeout_at(self.until, work).await {
            Ok(done) => Ok(Some(done)),
            Err(_) if self.deadline.is_some_and(|last| last <= self.until) => Err(Denied::Expired),
            Err(_) => Ok(None),
        }
    }

    async fn count(&self, range: &KeyRange) -> Result<Result<u64, Uncounted>, Denied> {
        let slow = || Err(Uncounted::Failed("it took too long".into()));
        Ok(self.in_time(self.census.count(range)).await?.unwrap_or_else(slow))
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
const RULE_OVERRIDE: &str = "delete less at once, send the metadata seawall-override: deletes, or raise \
                             its quota.delete_keys";

/// Counts a refusal, and refuses unless only observing.
fn refuse(
    (gate, class): (&Gate, Class),
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
        gate.would_refuse(class);
        return Ok(());
    }
    let (kind, reason, remedy) = why();
    let rule = Arc::from(name);
    Err(Denied::Refused(Refusal { kind, rule, reason, remedy, pushback: None }))
}

fn tell_wide_delete(
    client: &Client,
    deletes: &[KeyRange],
    width: &Width,
    bound: &Bound,
    outcome: &str,
) {
    // Beyond these a line tells no more by being longer.
    let ranges: Vec<_> = deletes.iter().take(ASKED_MAX).map(KeyRange::to_string).collect();
    let (client, address) = (&*client.name, client.address);
    let (keys, rule) = (width.keys(), bound.name());
    audit::of_client(|| {
        audit!("wide_delete", client, %address, ?ranges, keys, rule, outcome, "a delete of many keys");
    });
}

/// What a call puts below one prefix, and what is more by it if all of that is new.
#[derive(Debug, Default)]
struct Addition {
    puts: Vec<Put>,
    added: Stored,
}

impl RunningRule {
    fn has_quota(&self) -> bool {
        self.rule.quota.objects.is_some() || self.rule.quota.bytes.is_some()
    }

    /// Whether there is room for what a call puts below each of the rule's prefixes.
    async fn check_quotas(
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
        let usage = self.usages.get_with(prefix, Arc::default);
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
            let found = running(&prefixes, false).territories(&key.into());
            assert!(found.iter().eq(expected), "{key}: {found:?}");
        }
        let found = running(&PODS, true).territories(&"/registry/pods/a/1".into());
        assert!(found.iter().eq(["/registry/pods/a/"]), "{found:?}");
    }
}
