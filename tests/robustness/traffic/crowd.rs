//! Many who read the same key at nearly the same time, so that their reads may be shared.

use super::{Client, KEYS, PREFIXES};
use crate::history::{Range, Request};

/// Milliseconds between two reads of one of them.
const PAUSE_MAX: u64 = 25;

/// Who reads which key, by the clock: all the same for so long.
const SAME: u64 = 100_000_000;

pub(super) async fn run(mut client: Client) {
    while client.goes_on(PAUSE_MAX).await {
        let turn = client.caller.recorder.now() / SAME;
        let prefix = PREFIXES[turn as usize % PREFIXES.len()];
        let range = Range::one(&format!("{prefix}{}", turn as usize % KEYS));
        let read =
            Request::Range { range, revision: 0, serializable: false, limit: 0, count_only: false };
        client.caller.call(read).await;
    }
}
