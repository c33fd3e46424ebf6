//! A record of what is asked, call by call: for replaying it, and for trying rules on it. It holds
//! shapes and keys, or hashes of keys, and never values.

use super::Observation;
use crate::{
    admission::{Class, Shape},
    etcd::{key_range::KeyRange, method::Method},
};
use bytes::Bytes;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashSet,
    fs::File,
    hash::{BuildHasher, RandomState},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

/// Where calls are recorded, and how much of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceConfig {
    pub file: PathBuf,
    /// Recording ends when the file would grow beyond this.
    pub bytes_max: u64,
    /// What names an object or a namespace is replaced by a hash, another one in each process; so is what
    /// may name a resource, until keys below it were seen.
    pub hash_keys: bool,
}

/// A line of the record: a call that has ended, a watch that was created, or the end of a watch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceLine {
    /// When the call arrived or the watch ended, in microseconds after recording began.
    pub at_us: u64,
    pub method: String,
    pub shape: String,
    pub class: String,
    /// Of a transaction the first. What is not UTF-8 is replaced.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub range_end: String,
    /// Of the largest value that it writes.
    #[serde(skip_serializing_if = "is_zero")]
    pub value_bytes: u64,
    /// How many keys a page is to hold.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
    /// The number of a watch, from 1 on.
    #[serde(skip_serializing_if = "is_zero")]
    pub watch: u64,
    /// The number of the first watch on the stream of this one.
    #[serde(skip_serializing_if = "is_zero")]
    pub stream: u64,
    /// How many revisions of the past a watch begins with; none if it begins now.
    #[serde(skip_serializing_if = "is_zero")]
    pub past_revisions: u64,
    /// Set in the second line of a watch, where `took_us` is how long it lasted.
    #[serde(skip_serializing_if = "is_false")]
    pub ended: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// What came back.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub code: String,
    pub keys: u64,
    pub bytes: u64,
    pub took_us: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Calls that wait to be written. One that finds no room is not recorded and counted.
const QUEUE_MAX: usize = 10_000;

/// Writes on a thread of its own, so that no call waits for a disk.
#[derive(Debug)]
pub(super) struct Trace {
    lines: SyncSender<TraceLine>,
    /// Set by the thread once the file is full or cannot be written.
    ended: Arc<AtomicBool>,
    dropped: Counter,
    /// If names are to be hashed.
    hashing: Option<Hashing>,
    /// How many watches were numbered.
    watches: AtomicU64,
}

/// What it takes to replace names by hashes.
#[derive(Debug, Default)]
struct Hashing {
    hasher: RandomState,
    /// Those that keys were seen below: what looks like a collection may as well be a key's name.
    collections: Mutex<HashSet<Bytes>>,
}

/// Collections that are known as such; the names of others are hashed where they are asked for by
/// themselves.
const COLLECTIONS_MAX: usize = 4096;

impl Hashing {
    /// How much at the start of a key names no object.
    fn clear(&self, key: &[u8], collection: &Bytes) -> usize {
        let mut known = self.collections.lock();
        let is_below = key.len() > collection.len();
        if is_below && known.len() < COLLECTIONS_MAX && !known.contains(collection) {
            // Not a slice of somebody's request.
            known.insert(Bytes::copy_from_slice(collection));
        }
        match is_below || known.contains(collection) {
            true => collection.len(),
            false => key.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1),
        }
    }
}

impl Trace {
    /// # Errors
    ///
    /// When the file cannot be written. One that is there is replaced.
    pub(super) fn start(config: &TraceConfig, dropped: Counter) -> io::Result<Self> {
        let file = File::create(&config.file)?;
        let (lines, queue) = sync_channel(QUEUE_MAX);
        let ended = Arc::new(AtomicBool::new(false));
        let (path, bytes_max, end) = (config.file.clone(), config.bytes_max, Arc::clone(&ended));
        // Ends with the last sender.
        thread::Builder::new().name("trace".into()).spawn(move || {
            match write(&queue, BufWriter::new(file), bytes_max) {
                Ok(()) => tracing::info!(file = %path.display(), "trace: recording has ended"),
                Err(error) => tracing::error!(file = %path.display(), %error, "trace: lost"),
            }
            end.store(true, Relaxed);
        })?;
        tracing::info!(file = %config.file.display(), "trace: recording");
        let hashing = config.hash_keys.then(Hashing::default);
        Ok(Self { lines, ended, dropped, hashing, watches: AtomicU64::new(0) })
    }

    /// `age` is the time since the process began to record.
    pub(super) fn record(&self, age: Duration, seen: &Observation<'_>) {
        // A stream carries many requests, and none of them is this one.
        if !seen.stream && !self.has_ended() {
            self.write(self.line(age.saturating_sub(seen.took), seen));
        }
    }

    /// Another one with each call, from 1 on.
    pub(super) fn number(&self) -> u64 {
        self.watches.fetch_add(1, Relaxed) + 1
    }

    /// A watch of this stream and number is created.
    pub(super) fn record_watch(
        &self,
        age: Duration,
        seen: &Observation<'_>,
        (stream, watch): (u64, u64),
        past_revisions: u64,
    ) {
        if !self.has_ended() {
            self.write(TraceLine { stream, watch, past_revisions, ..self.line(age, seen) });
        }
    }

    /// It has ended after this time.
    pub(super) fn record_end(&self, age: Duration, (stream, watch): (u64, u64), took: Duration) {
        if !self.has_ended() {
            self.write(TraceLine {
                at_us: age.as_micros() as u64,
                method: Method::Watch.name().to_owned(),
                shape: Shape::Watch.as_str().to_owned(),
                class: Class::Watch.as_str().to_owned(),
                stream,
                watch,
                ended: true,
                took_us: took.as_micros() as u64,
                ..TraceLine::default()
            });
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    fn write(&self, line: TraceLine) {
        if self.lines.try_send(line).is_err() {
            self.dropped.inc();
        }
    }

    /// `at` is when it arrived.
    fn line(&self, at: Duration, seen: &Observation<'_>) -> TraceLine {
        let (key, range_end) = seen.range.map(|range| self.names(range, seen)).unwrap_or_default();
        TraceLine {
            at_us: at.as_micros() as u64,
            method: seen.method.to_owned(),
            shape: seen.shape.as_str().to_owned(),
            class: seen.class.as_str().to_owned(),
            key,
            range_end,
            value_bytes: seen.value_bytes,
            limit: seen.limit,
            client: seen.client.name.to_string(),
            address: seen.client.address.to_string(),
            code: format!("{:?}", seen.code),
            keys: seen.keys,
            bytes: seen.bytes,
            took_us: seen.took.as_micros() as u64,
            ..TraceLine::default()
        }
    }

    fn names(&self, range: &KeyRange, seen: &Observation<'_>) -> (String, String) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let Some(hashing) = &self.hashing else {
            return (text(&range.start), text(&range.range_end()));
        };
        let collection = &seen.place.collection;
        let (hasher, clear) = (&hashing.hasher, hashing.clear(&range.start, collection));
        let start = hashed(hasher, &range.start, clear);
        // What is asked for as a whole stays a whole, and where a collection ends is no secret.
        let whole = KeyRange::prefix(range.start.clone());
        let all = KeyRange::prefix([&collection[..], b"/"].concat().into());
        let end = if range.as_single().is_some() {
            String::new()
        } else if range.end == whole.end {
            text(&KeyRange::prefix(start.clone().into()).range_end())
        } else if range.end == all.end && clear == collection.len() {
            text(&range.range_end())
        } else {
            hashed(hasher, &range.range_end(), clear)
        };
        (start, end)
    }
}

/// The key with each name behind its first `clear` bytes replaced; slashes stay where they are.
fn hashed(hasher: &RandomState, key: &[u8], clear: usize) -> String {
    let (known, names) = key.split_at(clear.min(key.len()));
    let mut text = String::from_utf8_lossy(known).into_owned();
    for (index, name) in names.split(|byte| *byte == b'/').enumerate() {
        if index > 0 {
            text.push('/');
        }
        if !name.is_empty() {
            text += &format!("{:016x}", hasher.hash_one(name));
        }
    }
    text
}

fn write(queue: &Receiver<TraceLine>, mut file: impl Write, bytes_max: u64) -> io::Result<()> {
    let mut written = 0;
    while let Ok(first) = queue.recv() {
        for line in std::iter::once(first).chain(queue.try_iter()) {
            let mut text = serde_json::to_vec(&line)?;
            text.push(b'\n');
            written += text.len() as u64;
            if written > bytes_max {
                return file.flush();
            }
            file.write_all(&text)?;
        }
        // Nothing more waits, so that what was recorded is there to be read.
        file.flush()?;
    }
    Ok(())
}

/// Reads a record, in the order in which calls arrived.
///
/// # Errors
///
/// With the number of the line that is none.
pub fn read_trace(path: &Path, text: &str) -> Result<Vec<TraceLine>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parsed = lines.map(|(index, line)| {
        let parsed = serde_json::from_str(line);
        parsed.map_err(|error| format!("{}:{}: {error}", path.display(), index + 1))
    });
    let mut lines = parsed.collect::<Result<Vec<TraceLine>, _>>()?;
    lines.sort_by_key(|line| line.at_us);
    Ok(lines)
}

#[cfg(test)]
impl Trace {
    /// One whose lines are not written anywhere.
    pub(super) fn fixture() -> (Self, Receiver<TraceLine>) {
        let (lines, queue) = sync_channel(QUEUE_MAX);
        let trace = Self {
            lines,
            ended: Arc::default(),
            dropped: Counter::default(),
            hashing: None,
            watches: AtomicU64::new(0),
        };
        (trace, queue)
    }

    /// As when the file is full.
    pub(super) fn end(&self) {
        self.ended.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{Cost, Place, Subject};

    #[test]
    fn names_are_hashed_and_collections_are_not() {
        let hasher = RandomState::new();
        let hash = |key: &str| hashed(&hasher, key.as_bytes(), "/registry/pods".len());
        let one = hash("/registry/pods/default/a");
        assert!(one.starts_with("/registry/pods/") && !one.contains("default"), "{one}");
        assert_eq!(one, hash("/registry/pods/default/a"));
        let (namespace, _) = one.rsplit_once('/').expect("there is a name");
        assert_eq!(hash("/registry/pods/default/"), format!("{namespace}/"));
        assert_eq!(hash("/registry/pods/"), "/registry/pods/");
        assert_eq!(hash("/registry/pods"), "/registry/pods");
    }

    /// A record without names had the name of each key of two segments in it.
    #[test]
    fn what_may_be_the_name_of_a_key_is_hashed_until_there_are_keys_below_it() {
        let trace = Trace { hashing: Some(Hashing::default()), ..Trace::fixture().0 };
        let cluster = "main".into();
        let names = |keys: KeyRange| {
            let subject = Subject { place: Place::of(&keys), ..Subject::fixture("") };
            trace.names(&keys, &Observation::of(&cluster, &subject, Cost { keys: 1, bytes: 1 }))
        };
        let one = |key: &'static str| names(KeyRange::single(key.into())).0;
        let alice = one("/config/db-of-alice");
        assert!(alice.starts_with("/config/") && !alice.contains("alice"), "{alice}");
        assert_eq!(alice, one("/config/db-of-alice"));
        let beside =
            names(KeyRange::of("/config/db-of-alice".into(), "/config/db-of-alice0".into()));
        assert!(beside.0 == alice && !beside.1.contains("alice"), "{beside:?}");
        assert!(!one("alice").contains("alice"));
        assert!(!one("/registry/pods").contains("pods"));
        one("/registry/pods/default/a");
        assert_eq!(one("/registry/pods"), "/registry/pods");
    }

    #[test]
    fn no_more_collections_are_known_than_may_be() {
        let hashing = Hashing::default();
        for number in 0..=COLLECTIONS_MAX {
            let collection = format!("/registry/{number}");
            let key = format!("{collection}/a");
            assert_eq!(hashing.clear(key.as_bytes(), &collection.clone().into()), collection.len());
        }
        assert_eq!(hashing.collections.lock().len(), COLLECTIONS_MAX);
    }

    #[test]
    fn a_record_ends_at_its_bound_and_is_read_in_order() {
        let (lines, queue) = sync_channel(10);
        for at_us in [30, 10, 20, 40] {
            let line = TraceLine { at_us, method: "Range".into(), ..TraceLine::default() };
            lines.send(line).expect("there is room");
        }
        drop(lines);
        let length =
            serde_json::to_vec(&TraceLine { method: "Range".into(), ..TraceLine::default() });
        let length = length.expect("it is written").len() as u64;
        let mut file = Vec::new();
        // Each line has another digit, and ends.
        write(&queue, &mut file, 3 * (length + 2)).expect("memory takes everything");
        let text = String::from_utf8(file).expect("JSON is text");
        let read = read_trace(Path::new("trace"), &text).expect("it was written so");
        assert_eq!(read.iter().map(|line| line.at_us).collect::<Vec<_>>(), [10, 20, 30]);
        let wrong = read_trace(Path::new("trace"), "{}\nnone").expect_err("a word is no line");
        assert!(wrong.starts_with("trace:2: "), "{wrong}");
    }
}
