//! What the record says of watches: when each is created, and when it has ended.

use super::{Attribution, Observation};
use std::{collections::HashMap, sync::Arc};
use tokio::time::Instant;

/// The watches of one stream of a client. Those that are still open when this is dropped have ended with
/// the stream.
#[derive(Debug)]
pub struct StreamRecord {
    attribution: Arc<Attribution>,
    /// The number of its first watch.
    stream: u64,
    /// By their ids; as many as the stream has watchers, and those that were refused, up to
    /// [`OPEN_MAX`].
    open: HashMap<i64, Open>,
    next_id: i64,
}

/// Watches of a stream whose end is recorded. The record has no end of those beyond.
const OPEN_MAX: usize = 1 << 17;

#[derive(Debug)]
struct Open {
    number: u64,
    since: Instant,
}

impl StreamRecord {
    /// None where nothing is recorded.
    pub fn new(attribution: &Arc<Attribution>) -> Option<Self> {
        attribution.trace.as_ref()?;
        let attribution = Arc::clone(attribution);
        Some(Self { attribution, stream: 0, open: HashMap::new(), next_id: 0 })
    }

    /// A watcher is asked for under this id, 0 for one that etcd chooses, with so many revisions of the
    /// past.
    pub fn created(&mut self, seen: &Observation<'_>, id: i64, past_revisions: u64) {
        let id = if id == 0 { self.free_id() } else { id };
        let Some(trace) = &self.attribution.trace else { return };
        if trace.has_ended() {
            self.open = HashMap::new();
            return;
        }
        let number = trace.number();
        if self.stream == 0 {
            self.stream = number;
        }
        let age = self.attribution.started.elapsed();
        trace.record_watch(age, seen, (self.stream, number), past_revisions);
        if self.open.len() < OPEN_MAX {
            self.open.insert(id, Open { number, since: Instant::now() });
        }
    }

    /// The client is through with a watcher. The id of one that etcd did not create is that of another
    /// here, whose end is then recorded too early.
    pub fn cancelled(&mut self, id: i64) {
        if let Some(open) = self.open.remove(&id) {
            self.ended(&open);
        }
    }

    /// The id that etcd gives to the next watcher.
    fn free_id(&mut self) -> i64 {
        let free = (self.next_id..).find(|id| !self.open.contains_key(id)).unwrap_or(i64::MAX);
        self.next_id = free.saturating_add(1);
        free
    }

    fn ended(&self, open: &Open) {
        if let Some(trace) = &self.attribution.trace {
            let age = self.attribution.started.elapsed();
            trace.record_end(age, (self.stream, open.number), open.since.elapsed());
        }
    }
}

impl Drop for StreamRecord {
    fn drop(&mut self) {
        for open in self.open.values() {
            self.ended(open);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::{Cost, Subject},
        attribution::{Config, TraceLine, trace::Trace},
    };
    use prometheus_client::registry::Registry;
    use std::{sync::mpsc::Receiver, time::Duration};
    use tokio::time::advance;

    const CONFIG: Config = Config {
        entries: 1,
        slow: Duration::MAX,
        heavy_bytes: u64::MAX,
        log_per_minute: 0,
        trace: None,
    };

    fn recording() -> (Arc<Attribution>, Receiver<TraceLine>) {
        let attribution = Attribution::new(CONFIG, 1, &mut Registry::default());
        let mut attribution = Arc::into_inner(attribution).expect("its registry is gone");
        let (trace, lines) = Trace::fixture();
        attribution.trace = Some(trace);
        (Arc::new(attribution), lines)
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_ends_when_the_client_cancels_it_or_with_its_stream() {
        let (attribution, lines) = recording();
        let (cluster, subject) = ("main".into(), Subject::fixture("/registry/pods/a"));
        let seen = Observation::of(&cluster, &subject, Cost { keys: 1, bytes: 20 });
        let stream = || StreamRecord::new(&attribution).expect("it is recorded");
        let (mut one, mut other) = (stream(), stream());
        // etcd gives the ids 0, 7 and 1.
        [0, 7, 0].into_iter().for_each(|id| one.created(&seen, id, 3));
        other.created(&seen, 0, 0);
        advance(Duration::from_secs(2)).await;
        one.cancelled(1);
        one.cancelled(12);
        drop(one);
        other.cancelled(0);
        drop(other);
        let lines: Vec<_> = lines.try_iter().collect();
        let (ends, created): (Vec<TraceLine>, Vec<_>) =
            lines.into_iter().partition(|line| line.ended);
        let numbers = |lines: &[TraceLine]| -> Vec<_> {
            lines.iter().map(|line| (line.stream, line.watch)).collect()
        };
        assert_eq!(numbers(&created), [(1, 1), (1, 2), (1, 3), (4, 4)]);
        assert_eq!((created[0].past_revisions, created[3].past_revisions), (3, 0));
        assert_eq!(created[0].key, "/registry/pods/a");
        assert_eq!(numbers(&ends[..1]), [(1, 3)]);
        assert_eq!((ends.len(), numbers(&ends[3..])), (4, vec![(4, 4)]));
        assert!(ends.iter().all(|end| end.took_us == 2_000_000), "{ends:?}");
    }

    /// A client that etcd refused again and again had each of its watches kept until it left.
    #[tokio::test(start_paused = true)]
    async fn what_is_kept_of_a_stream_has_a_bound_and_goes_with_the_record() {
        let (attribution, _lines) = recording();
        let (cluster, subject) = ("main".into(), Subject::fixture("/registry/pods/a"));
        let seen = Observation::of(&cluster, &subject, Cost { keys: 1, bytes: 20 });
        let mut stream = StreamRecord::new(&attribution).expect("it is recorded");
        (0..=OPEN_MAX).for_each(|_| stream.created(&seen, 0, 0));
        assert_eq!(stream.open.len(), OPEN_MAX);
        attribution.trace.as_ref().expect("it is recorded").end();
        stream.created(&seen, 0, 0);
        assert_eq!(stream.open.len(), 0);
    }

    #[test]
    fn nothing_is_put_down_where_nothing_is_recorded() {
        let attribution = Attribution::new(CONFIG, 1, &mut Registry::default());
        assert!(StreamRecord::new(&attribution).is_none());
    }
}
