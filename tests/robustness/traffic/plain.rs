//! Reads and writes of all shapes.

use super::{Client, PREFIXES};
use crate::history::{Change, Range, Request};
use rand::Rng;

/// Milliseconds between two calls.
const PAUSE_MAX: u64 = 12;

pub(super) async fn run(mut client: Client) {
    // The newest revision seen below each prefix: those of different clusters have nothing in common.
    let mut newest = [0; PREFIXES.len()];
    while client.goes_on(PAUSE_MAX).await {
        let index = client.random.random_range(0..PREFIXES.len());
        let request = match client.random.random_range(0..100) {
            0..45 => client.any_read(PREFIXES[index], newest[index]),
            45..75 => {
                let change = client.put();
                Request::Write { key: client.key_below(PREFIXES[index]), change }
            }
            75..85 => {
                Request::Write { key: client.key_below(PREFIXES[index]), change: Change::Delete }
            }
            _ => client.several(PREFIXES[index]),
        };
        if let Some(answer) = client.caller.call(request).await {
            newest[index] = newest[index].max(answer.header().revision);
        }
    }
}

impl Client {
    fn any_read(&mut self, prefix: &str, newest: i64) -> Request {
        let range = match self.random.random_bool(0.5) {
            true => Range::below(prefix),
            false => Range::one(&self.key_below(prefix)),
        };
        let past = newest - self.random.random_range(0..30);
        let revision = if past > 0 && self.random.random_bool(0.2) { past } else { 0 };
        let is_list = !range.end.is_empty();
        Request::Range {
            range,
            revision,
            serializable: revision == 0 && self.random.random_bool(0.15),
            limit: if is_list && self.random.random_bool(0.3) { 3 } else { 0 },
            count_only: is_list && self.random.random_bool(0.15),
        }
    }

    /// Changes of different keys below one prefix.
    fn several(&mut self, prefix: &str) -> Request {
        let first = self.random.random_range(0..super::KEYS);
        let number = self.random.random_range(2..4);
        let keys = (first..first + number).map(|key| format!("{prefix}{}", key % super::KEYS));
        let keys: Vec<_> = keys.collect();
        let change = |key| match self.random.random_bool(0.7) {
            true => (key, self.put()),
            false => (key, Change::Delete),
        };
        Request::WriteAll { changes: keys.into_iter().map(change).collect() }
    }
}
