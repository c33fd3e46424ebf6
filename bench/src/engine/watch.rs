//! Watchers: how late events come to them, and whether each comes once.

use super::{account::Account, truth::Fact};
use crate::{
    client::{
        Connection, Dial, Failure, Stream,
        etcd::{self, WatchCreateRequest, WatchRequest, WatchResponse},
    },
    data::stamp,
    measure::{Apart, Figures, Outcome, Tally},
    operation::{Ground, Pages},
    result::Part,
    scenario::Watchers,
};
use anyhow::{Context, Result};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

/// All who watch under one name.
pub(super) struct Audience {
    shared: Arc<Shared>,
    /// Of the last break.
    breaks: watch::Sender<Option<Instant>>,
}

struct Shared {
    watchers: Watchers,
    ground: Arc<Ground>,
    /// Locked for moments, by streams on one thread and by whoever reads figures.
    heard: Mutex<Heard>,
    /// That nobody is to rest any more.
    hurry: AtomicBool,
}

/// What was heard in a phase, and what each watcher has heard so far.
struct Heard {
    events: Tally,
    relists: Tally,
    count: u64,
    bytes: u64,
    accounts: Vec<Account>,
    violations: BTreeMap<String, u64>,
}

const PAUSE_AFTER_LOSS: Duration = Duration::from_millis(100);
const CREATED_MAX: Duration = Duration::from_secs(30);

impl Audience {
    /// Opens all watches from `revision` on, and returns once all are created.
    pub(super) async fn open(
        watchers: &Watchers,
        apart: &Apart,
        dial: &Dial,
        ground: &Arc<Ground>,
        revision: i64,
    ) -> Result<Self> {
        let account = Account::new(revision + 1);
        let shared = Arc::new(Shared {
            watchers: watchers.clone(),
            ground: Arc::clone(ground),
            heard: Mutex::new(Heard {
                events: Tally::new(ground.epoch),
                relists: Tally::new(ground.epoch),
                count: 0,
                bytes: 0,
                accounts: vec![account; watchers.count],
                violations: BTreeMap::new(),
            }),
            hurry: AtomicBool::new(false),
        });
        let (breaks, broken) = watch::channel(None);
        let (ready, mut created) = tokio::sync::mpsc::channel(watchers.streams);
        for n in 0..watchers.streams {
            let places =
                watchers.count * n / watchers.streams..watchers.count * (n + 1) / watchers.streams;
            let follower = Follower {
                shared: Arc::clone(&shared),
                dial: dial.clone(),
                n,
                places,
                broken: broken.clone(),
                broken_at: None,
            };
            apart.spawn(follower.follow(ready.clone()));
        }
        drop(ready);
        let all = async {
            for _ in 0..watchers.streams {
                created.recv().await.context("a stream of watchers ended")?;
            }
            anyhow::Ok(())
        };
        let opening = || format!("opening {} watchers", watchers.count);
        timeout(CREATED_MAX, all).await.with_context(opening)?.with_context(opening)?;
        Ok(Self { shared, breaks })
    }

    pub(super) fn break_connections(&self) {
        self.breaks.send_replace(Some(Instant::now()));
    }

    /// What was heard since the last call. Seconds of the next count from `epoch`.
    pub(super) fn parts(&self, epoch: Instant, lasted: Duration) -> Vec<Part> {
        let mut heard = self.shared.heard.lock();
        let (count, bytes) = (std::mem::take(&mut heard.count), std::mem::take(&mut heard.bytes));
        let mut events = std::mem::replace(&mut heard.events, Tally::new(epoch));
        let mut relists = std::mem::replace(&mut heard.relists, Tally::new(epoch));
        drop(heard);
        events.add_rate(count, bytes, lasted);
        let name = &self.shared.watchers.name;
        let mut parts = vec![Part { name: name.clone(), figures: events.figures() }];
        let relisted: Figures = relists.figures();
        if self.shared.watchers.relist_limit.is_some() {
            relists.add_rate(relisted.operations, 0, lasted);
            parts.push(Part { name: self.shared.watchers.relists(), figures: relists.figures() });
        }
        parts
    }

    /// Waits until everybody has heard the last event, as long as it takes them to hear anything.
    pub(super) async fn settle(&self, facts: &[Fact]) {
        const PATIENCE: Duration = Duration::from_secs(15);
        const LOOK: Duration = Duration::from_millis(50);
        self.shared.hurry.store(true, Ordering::SeqCst);
        let prefix = self.shared.prefix();
        let last = facts.iter().rev().find(|fact| fact.key.starts_with(&prefix));
        let last = last.map_or(0, |fact| fact.revision);
        let all = async {
            while self.shared.heard.lock().accounts.iter().any(|account| account.next <= last) {
                sleep(LOOK).await;
            }
        };
        // Whoever has not heard it by then has lost it.
        timeout(PATIENCE, all).await.ok();
    }

    /// What they should have heard and did not, or heard otherwise.
    pub(super) fn violations(&self, facts: &[Fact]) -> BTreeMap<String, u64> {
        let prefix = self.shared.prefix();
        let facts: Vec<_> = facts.iter().filter(|fact| fact.key.starts_with(&prefix)).collect();
        let heard = self.shared.heard.lock();
        let mut violations = heard.violations.clone();
        for account in &heard.accounts {
            if let Some((what, count)) = account.differs(&facts) {
                *violations.entry(format!("{}: {what}", self.shared.watchers.name)).or_default() +=
                    count;
            }
        }
        violations
    }
}

impl Shared {
    fn prefix(&self) -> Vec<u8> {
        self.ground.data.prefix(self.watchers.of).into_bytes()
    }

    fn hear(&self, place: usize, response: &WatchResponse) -> Result<(), Failure> {
        let mut heard = self.heard.lock();
        let heard = &mut *heard;
        let account = &mut heard.accounts[place];
        let mut newest = account.next - 1;
        for event in &response.events {
            let (Some(kv), Some(fact)) = (&event.kv, Fact::of(event)) else {
                return Err(Failure::Wrong("an event without a key"));
            };
            if fact.revision < account.next || fact.revision < newest {
                *heard.violations.entry("an event out of its order".to_owned()).or_default() += 1;
            }
            newest = newest.max(fact.revision);
            account.hear(&fact);
            heard.count += 1;
            heard.bytes += kv.value.len() as u64;
            if let Some(stamp) = stamp(&kv.value) {
                let intended = self.ground.epoch + Duration::from_nanos(stamp);
                let took = Instant::now().saturating_duration_since(intended);
                let result = Ok(kv.value.len() as u64);
                heard.events.record(&Outcome { intended, took, result: &result, is_timed: true });
            }
        }
        // Events of one revision come in one message, so what follows is of a later one.
        account.next = account.next.max(newest + 1);
        Ok(())
    }

    fn failed(&self, failure: Failure) {
        let now = Instant::now();
        let outcome =
            Outcome { intended: now, took: Duration::ZERO, result: &Err(failure), is_timed: false };
        self.heard.lock().events.record(&outcome);
    }
}

/// One stream, and those who share it.
struct Follower {
    shared: Arc<Shared>,
    dial: Dial,
    n: usize,
    places: Range<usize>,
    broken: watch::Receiver<Option<Instant>>,
    /// Since when they wait to be current again.
    broken_at: Option<Instant>,
}

impl Follower {
    /// Ends with the thread it runs on.
    async fn follow(mut self, ready: tokio::sync::mpsc::Sender<()>) {
        let mut ready = Some(ready);
        loop {
            let failure = match self.listen(&mut ready).await {
                Ok(never) => match never {},
                Err(failure) => failure,
            };
            self.n += 1;
            // What the scenario broke is no failure of anyone's.
            if self.broken_at.is_none() {
                self.broken_at = Some(Instant::now());
                self.shared.failed(failure);
            }
            sleep(PAUSE_AFTER_LOSS).await;
        }
    }

    async fn listen(
        &mut self,
        ready: &mut Option<tokio::sync::mpsc::Sender<()>>,
    ) -> Result<std::convert::Infallible, Failure> {
        let connection = self.dial.open(self.n).await;
        let connection = connection.map_err(|_| Failure::Lost("no connection".to_owned()))?;
        if self.broken_at.is_some() && self.shared.watchers.relist_limit.is_some() {
            self.relist(&connection).await?;
        }
        let mut stream = connection.stream(etcd::WATCH).await?;
        let mut ids = HashMap::new();
        for place in self.places.clone() {
            let create_request = Some(self.create(place));
            stream.send(&WatchRequest { create_request, cancel_request: None })?;
            // As clientv3 does it: one after the other.
            while !ids.values().any(|known| *known == place) {
                self.message(&mut stream, &mut ids, Some(place)).await?;
            }
        }
        if let Some(ready) = ready.take() {
            // Nobody counts any more if it was given up meanwhile.
            ready.send(()).await.ok();
        }
        self.caught_up();
        let mut broken = self.broken.clone();
        broken.borrow_and_update();
        loop {
            tokio::select! {
                heard = self.message(&mut stream, &mut ids, None) => heard?,
                Ok(()) = broken.changed() => {
                    self.broken_at = *broken.borrow();
                    connection.cut();
                    return Err(Failure::Lost("broken by the scenario".to_owned()));
                }
            }
            let rests = self.shared.watchers.rests.0;
            if !rests.is_zero() && !self.shared.hurry.load(Ordering::SeqCst) {
                sleep(rests).await;
            }
        }
    }

    fn create(&self, place: usize) -> WatchCreateRequest {
        let all = self.shared.ground.all(self.shared.watchers.of);
        WatchCreateRequest {
            key: all.key,
            range_end: all.range_end,
            start_revision: self.shared.heard.lock().accounts[place].next,
            prev_kv: false,
        }
    }

    async fn message(
        &self,
        stream: &mut Stream,
        ids: &mut HashMap<i64, usize>,
        creating: Option<usize>,
    ) -> Result<(), Failure> {
        let response: WatchResponse = stream.next().await?;
        if response.canceled {
            return Err(match response.compact_revision {
                0 => Failure::Lost("a watcher was cancelled".to_owned()),
                compacted => {
                    self.compacted(compacted);
                    Failure::Lost("what a watcher was to hear was compacted".to_owned())
                }
            });
        }
        if response.created {
            let place = creating.ok_or(Failure::Wrong("a watcher that nobody asked for"))?;
            ids.insert(response.watch_id, place);
        }
        match ids.get(&response.watch_id) {
            Some(&place) => self.shared.hear(place, &response),
            None => Err(Failure::Wrong("an event for a watcher that nobody asked for")),
        }
    }

    /// Nobody can hear what is gone.
    fn compacted(&self, revision: i64) {
        let mut heard = self.shared.heard.lock();
        for account in &mut heard.accounts[self.places.clone()] {
            if account.next < revision {
                account.relisted(revision);
            }
        }
    }

    async fn relist(&self, connection: &Connection) -> Result<(), Failure> {
        let Watchers { of, relist_limit, .. } = self.shared.watchers;
        let limit = relist_limit.unwrap_or_default();
        for place in self.places.clone() {
            let pages = Pages::new(Arc::clone(&self.shared.ground), of, limit, false);
            let (_, revision) = pages.walk(connection).await?;
            self.shared.heard.lock().accounts[place].relisted(revision);
        }
        Ok(())
    }

    /// Everybody on this stream is current again, if they were not.
    fn caught_up(&mut self) {
        let Some(intended) = self.broken_at.take() else { return };
        let took = intended.elapsed();
        let outcome = Outcome { intended, took, result: &Ok(0), is_timed: true };
        self.shared.heard.lock().relists.record(&outcome);
    }
}
