//! Watchers that list, watch from there on, and go on where they were when a stream ends; some read
//! slowly, ask how far they are, or go back a little.

use super::{Client, LAST};
use crate::{
    history::{Answer, Owner, Range, Told, Watch},
    watching::{News, Wanted, Watching},
};
use anyhow::Result;
use rand::Rng;
use std::time::Duration;
use tokio::time::{sleep, timeout};

const OPEN_MAX: Duration = Duration::from_secs(3);

/// Silence after which a watcher asks how far it is.
const SILENCE: Duration = Duration::from_millis(100);

/// A stream that is silent for so long, in spite of that, is left for another.
const SILENCES_MAX: usize = 30;

/// Responses of one stream at most.
const RESPONSES_MAX: usize = 400;

/// How a watcher goes on.
enum Next {
    From(i64),
    List,
    Done,
}

/// Ends when it has been told of the last key.
pub(super) async fn run(mut client: Client, prefix: &'static str) -> Result<()> {
    let mut next = Next::List;
    loop {
        next = match next {
            Next::List => client.list(prefix).await,
            Next::From(revision) => client.watch(prefix, revision).await,
            Next::Done => return Ok(()),
        };
    }
}

impl Client {
    async fn list(&mut self, prefix: &str) -> Next {
        let pause = Duration::from_millis(self.random.random_range(1..50));
        sleep(pause).await;
        match self.read(Range::below(prefix), 0, 0).await {
            Some(Answer::Range { kvs, .. }) if kvs.iter().any(|kv| kv.key.ends_with(LAST)) => {
                Next::Done
            }
            Some(Answer::Range { header, .. }) => Next::From(header.revision + 1),
            _ => Next::List,
        }
    }

    /// One stream from this revision on, or from a little before.
    async fn watch(&mut self, prefix: &str, revision: i64) -> Next {
        let back = if self.random.random_bool(0.3) { self.random.random_range(0..20) } else { 0 };
        let wanted = Wanted {
            range: Range::below(prefix),
            start_revision: (revision - back).max(1),
            prev_kv: self.random.random_bool(0.7),
            deletes: self.random.random_bool(0.9),
        };
        let (owner, turn) = (Owner::of(prefix), self.random.random_range(0..100));
        let opening = Watching::open(&self.caller.map, self.caller.via, owner, turn, &wanted);
        let Ok(Ok(mut watching)) = timeout(OPEN_MAX, opening).await else {
            sleep(SILENCE).await;
            return Next::From(revision);
        };
        let mut watch = Watch {
            client: self.caller.client,
            via: self.caller.via,
            owner,
            range: wanted.range.clone(),
            start_revision: wanted.start_revision,
            prev_kv: wanted.prev_kv,
            puts: true,
            deletes: wanted.deletes,
            told: Vec::new(),
        };
        let next = self.hear(&mut watching, &mut watch).await;
        self.caller.recorder.watch(watch);
        next
    }

    /// Writes down what a stream tells, until it has been enough.
    async fn hear(&mut self, watching: &mut Watching, watch: &mut Watch) -> Next {
        let (mut silences, mut next) = (0, watch.start_revision);
        let slow = self.random.random_bool(0.4);
        for _ in 0..self.random.random_range(1..RESPONSES_MAX) {
            if slow || self.random.random_bool(0.1) {
                sleep(Duration::from_millis(self.random.random_range(1..30))).await;
            }
            // Its answer must not come before what has happened by now.
            if self.random.random_bool(0.2) && watching.ask_progress().is_err() {
                break;
            }
            let Ok(news) = timeout(SILENCE, watching.next()).await else {
                silences += 1;
                if silences > SILENCES_MAX || watching.ask_progress().is_err() {
                    break;
                }
                continue;
            };
            silences = 0;
            match news {
                Ok(News::Told(header, events)) => {
                    next =
                        next.max(events.last().map_or(header.revision, |last| last.revision()) + 1);
                    let is_last = events.iter().any(|event| event.kv.key.ends_with(LAST));
                    watch.told.push(Told { at: self.caller.recorder.now(), header, events });
                    if is_last {
                        return Next::Done;
                    }
                }
                Ok(News::Compacted) => return Next::List,
                Err(_) => break,
            }
        }
        Next::From(next)
    }
}
