//! What etcd itself remembers, and whether clients were told the same.

use crate::{
    DEADLINE,
    workload::{DROPPED, DROPPED_TTL, KEPT, Outcome, Record, Write},
};
use anyhow::{Context, Result, ensure};
use etcd_client::{Client, EventType, WatchOptions};
use std::collections::HashMap;
use tokio::time::timeout;

/// The last key of a run, written past Seawall.
pub(crate) const END: &str = "/end";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) revision: i64,
    pub(crate) key: String,
    /// `None` when the key was deleted.
    pub(crate) value: Option<String>,
}

impl Event {
    pub(crate) fn of(event: &etcd_client::Event) -> Result<Self> {
        let kv = event.kv().context("an event of a key")?;
        let value = (event.event_type() == EventType::Put).then(|| kv.value_str());
        Ok(Self {
            revision: kv.mod_revision(),
            key: kv.key_str()?.to_owned(),
            value: value.transpose()?.map(str::to_owned),
        })
    }
}

/// Writes the last key at this member and reads all that ever happened from it.
pub(crate) async fn of(endpoint: String) -> Result<Vec<Event>> {
    let mut client = Client::connect([endpoint], None).await?;
    client.put(END, "", None).await?;
    let options = WatchOptions::new().with_all_keys().with_start_revision(1);
    let reading = async {
        let mut stream = client.watch("\0", Some(options)).await?;
        let mut events = Vec::new();
        loop {
            let response = stream.message().await?.context("the watch has ended")?;
            for event in response.events() {
                let event = Event::of(event)?;
                let last = event.key == END;
                events.push(event);
                if last {
                    return Ok(events);
                }
            }
        }
    };
    timeout(DEADLINE, reading).await.context("reading etcd's history")?
}

/// Holds what the clients were told against what happened.
pub(crate) fn verify(record: &Record, history: &[Event]) -> Result<()> {
    let unique = history.iter().filter(|event| event.key.starts_with("/unique/"));
    verify_writes("put", &record.puts, unique.map(|event| (event.key.as_str(), event.revision)))?;
    verify_counter(&record.increments, history)?;
    verify_watch(record, history)?;
    verify_leases(record, history)?;
    ensure!(record.stale.is_empty(), "stale reads: {:#?}", record.stale);
    Ok(())
}

/// Acknowledged ones are there once, at the revision that was told; refused ones are not there,
/// and those of unknown outcome are there at most once.
fn verify_writes<'a>(
    what: &str,
    writes: &[Write],
    happened: impl Iterator<Item = (&'a str, i64)>,
) -> Result<()> {
    let mut revisions: HashMap<&str, Vec<i64>> = HashMap::new();
    for (tag, revision) in happened {
        revisions.entry(tag).or_default().push(revision);
    }
    for Write { tag, outcome } in writes {
        let found = revisions.remove(tag.as_str()).unwrap_or_default();
        let expected = match outcome {
            Outcome::Applied(revision) => found == [*revision],
            Outcome::Refused => found.is_empty(),
            Outcome::Unknown => found.len() <= 1,
        };
        ensure!(expected, "{what} {tag} was {outcome:?} and happened at {found:?}");
    }
    ensure!(revisions.is_empty(), "nobody did the {what} of {revisions:?}");
    Ok(())
}

/// Each increment follows from the one before it.
fn verify_counter(increments: &[Write], history: &[Event]) -> Result<()> {
    let mut tags = Vec::new();
    for event in history.iter().filter(|event| event.key == "/counter") {
        let value = event.value.as_deref().context("nobody deletes the counter")?;
        let (count, tag) = value.split_once(' ').context("a count and a tag")?;
        ensure!(count.parse::<usize>()? == tags.len() + 1, "{value} comes after {}", tags.len());
        tags.push((tag, event.revision));
    }
    verify_writes("increment", increments, tags.into_iter())
}

/// The watch had every event of its range, in order, once.
fn verify_watch(record: &Record, history: &[Event]) -> Result<()> {
    let expected: Vec<_> =
        history.iter().filter(|event| event.revision >= record.watched_from).collect();
    let seen: Vec<_> = record.seen.iter().map(|(event, _)| event).collect();
    let differs = expected.iter().zip(&seen).position(|(expected, seen)| expected != seen);
    if let Some(at) = differs {
        let around = at.saturating_sub(2)..(at + 3).min(seen.len()).min(expected.len());
        let (expected, seen) = (&expected[around.clone()], &seen[around]);
        anyhow::bail!("the watch differs at {at}: {expected:#?} were seen as {seen:#?}");
    }
    ensure!(expected.len() == seen.len(), "{} events, {} seen", expected.len(), seen.len());
    Ok(())
}

/// The lease that was kept alive lives, the other one has lived as long as it should.
fn verify_leases(record: &Record, history: &[Event]) -> Result<()> {
    let deleted = |key: &str| history.iter().any(|event| event.key == key && event.value.is_none());
    ensure!(!deleted(KEPT), "the lease that was kept alive has expired");
    let mut seen = record.seen.iter();
    let expired = seen.find(|(event, _)| event.key == DROPPED && event.value.is_none());
    let (_, at) = expired.context("the lease that nobody keeps alive has not expired")?;
    let lived = *at - record.dropped_granted;
    ensure!(lived >= DROPPED_TTL, "a lease of {DROPPED_TTL:?} has expired after {lived:?}");
    Ok(())
}
