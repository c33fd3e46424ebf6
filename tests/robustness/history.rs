//! What clients asked for, what they were told, and when.

use seawall::etcd::proto::mvccpb;
use serde::Serialize;
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// Nanoseconds since the run began. One clock for all clients, so that what ended before something
/// began is known to have.
pub(crate) type Moment = u64;

/// One of the clusters that keys are routed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) enum Owner {
    Main,
    Events,
}

impl Owner {
    pub(crate) const ALL: [Self; 2] = [Self::Main, Self::Events];

    pub(crate) fn of(key: &str) -> Self {
        if key.starts_with(EVENTS) { Self::Events } else { Self::Main }
    }
}

/// What is routed to the second cluster.
pub(crate) const EVENTS: &str = "/registry/events/";

/// How a client reaches etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub(crate) enum Via {
    Seawall(usize),
    Direct,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Kv {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) create_revision: i64,
    pub(crate) mod_revision: i64,
    pub(crate) version: i64,
    pub(crate) lease: i64,
}

impl Kv {
    pub(crate) fn of(kv: &mvccpb::KeyValue) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            key: text(&kv.key),
            value: text(&kv.value),
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }
}

/// Keys from `key` to `end`, or the one key where `end` is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Range {
    pub(crate) key: String,
    pub(crate) end: String,
}

impl Range {
    pub(crate) fn one(key: &str) -> Self {
        Self { key: key.to_owned(), end: String::new() }
    }

    /// All below a prefix that ends with a slash.
    pub(crate) fn below(prefix: &str) -> Self {
        let end = prefix.strip_suffix('/').map(|rest| format!("{rest}0"));
        Self { key: prefix.to_owned(), end: end.unwrap_or_default() }
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        match self.end.as_str() {
            "" => key == self.key,
            end => (self.key.as_str()..end).contains(&key),
        }
    }
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Change {
    /// Values are written once in a run, so that each tells whose it is.
    Put {
        value: String,
        lease: i64,
    },
    Delete,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Request {
    Range {
        range: Range,
        revision: i64,
        serializable: bool,
        limit: i64,
        count_only: bool,
    },
    /// `Put` and `DeleteRange` of one key.
    Write {
        key: String,
        change: Change,
    },
    /// Several changes of different keys in one transaction without a condition.
    WriteAll {
        changes: Vec<(String, Change)>,
    },
    /// As kube-apiserver writes: if the key is as it was read, else what it is instead.
    Swap {
        key: String,
        expected: i64,
        change: Change,
    },
    Compact {
        revision: i64,
    },
    Grant {
        ttl: i64,
    },
    KeepAlive {
        lease: i64,
    },
    Revoke {
        lease: i64,
    },
}

/// What etcd says of itself with every answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Header {
    pub(crate) cluster_id: u64,
    pub(crate) revision: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Answer {
    Range {
        header: Header,
        kvs: Vec<Kv>,
        count: i64,
        more: bool,
    },
    Written {
        header: Header,
    },
    /// `current` is what the key was instead.
    Swapped {
        header: Header,
        succeeded: bool,
        current: Option<Kv>,
    },
    Lease {
        header: Header,
        lease: i64,
        ttl: i64,
    },
}

impl Answer {
    pub(crate) fn header(&self) -> Header {
        match self {
            Self::Range { header, .. }
            | Self::Written { header }
            | Self::Swapped { header, .. }
            | Self::Lease { header, .. } => *header,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Call {
    pub(crate) client: usize,
    pub(crate) via: Via,
    pub(crate) owner: Owner,
    pub(crate) start: Moment,
    pub(crate) end: Moment,
    pub(crate) request: Request,
    /// The error says why there is no answer, and nothing about a write.
    pub(crate) answer: Result<Answer, String>,
}

/// A change as a watcher is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    /// As it was put; after a delete, only its key and revision.
    pub(crate) kv: Kv,
    pub(crate) deleted: bool,
    pub(crate) prev: Option<Kv>,
}

impl Event {
    pub(crate) fn of(event: &mvccpb::Event) -> Self {
        let kv = event.kv.as_ref().map(Kv::of);
        Self {
            kv: kv.unwrap_or_else(|| Kv::of(&mvccpb::KeyValue::default())),
            deleted: event.r#type() == mvccpb::event::EventType::Delete,
            prev: event.prev_kv.as_ref().map(Kv::of),
        }
    }

    pub(crate) fn revision(&self) -> i64 {
        self.kv.mod_revision
    }
}

/// A response that says how far a watcher is, or what has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Told {
    pub(crate) at: Moment,
    pub(crate) header: Header,
    /// None where it tells of progress.
    pub(crate) events: Vec<Event>,
}

/// One watcher, from its creation to the end of its stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Watch {
    pub(crate) client: usize,
    pub(crate) via: Via,
    pub(crate) owner: Owner,
    pub(crate) range: Range,
    pub(crate) start_revision: i64,
    pub(crate) prev_kv: bool,
    /// Whether it hears of puts, of deletes.
    pub(crate) puts: bool,
    pub(crate) deletes: bool,
    pub(crate) told: Vec<Told>,
}

/// All that the clients of a run remember.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) calls: Vec<Call>,
    pub(crate) watches: Vec<Watch>,
}

/// Where clients write down what they were told.
#[derive(Debug)]
pub(crate) struct Recorder {
    began: Instant,
    /// Held for moments, never over an await.
    history: Mutex<History>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), history: Mutex::default() }
    }

    pub(crate) fn now(&self) -> Moment {
        self.began.elapsed().as_nanos().try_into().unwrap_or(Moment::MAX)
    }

    pub(crate) fn call(&self, call: Call) {
        self.history().calls.push(call);
    }

    pub(crate) fn watch(&self, watch: Watch) {
        self.history().watches.push(watch);
    }

    /// What was written down so far; nothing of it stays.
    pub(crate) fn take(&self) -> History {
        std::mem::take(&mut self.history())
    }

    fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
