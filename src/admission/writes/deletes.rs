//! Deletes of many keys at once.

use super::{ASKED_MAX, Asking, Changes, refuse};
use crate::{
    admission::{
        Class, Client, Denied, Flow, Gate, Mode, Plan, Protection, RefusalKind, Subject, Uncounted,
        rules::RunningRule,
    },
    etcd::key_range::KeyRange,
    telemetry::audit::{self, audit},
};
use std::{fmt, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Ranges that are remembered as too wide, and for how long: who tries again at once is told the same
/// without another count.
pub(super) const WIDE_MAX: u64 = 1_000;
const WIDE_FOR: Duration = Duration::from_secs(1);

const OVERRIDE: &str = "delete less at once, send the metadata seawall-override: deletes, name the \
                        client in protection.deletes.clients, or switch deletes off";
const RULE_OVERRIDE: &str = "delete less at once, send the metadata seawall-override: deletes, or raise \
                             its quota.delete_keys";

impl Protection {
    pub(super) async fn check_deletes(
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

    /// Keys that a call may delete by ranges; `None` if nothing bounds them.
    pub(in crate::admission) fn delete_keys_max(
        &self,
        subject: &Subject,
        plan: &Plan,
    ) -> Option<u64> {
        let bounds = self.bounds(subject, plan);
        let holding = bounds.iter().find(|bound| bound.mode == Mode::Enforce && !bound.allowed);
        holding.map(|bound| bound.keys_max)
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
