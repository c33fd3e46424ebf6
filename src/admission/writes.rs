//! Protections of what is stored: its amount, and deletes of much of it.

mod deletes;
mod quotas;

use super::{
    Census, Class, Denied, Flow, Gate, Growth, Mode, Plan, Priority, Protection, Refusal,
    RefusalKind, Shape, SpaceConfig, Subject, Uncounted,
    metrics::{Counters, Metrics},
};
use crate::etcd::key_range::KeyRange;
use bytes::Bytes;
use deletes::WIDE_MAX;
use moka::sync::Cache;
use std::{sync::Arc, time::Duration};
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
