//! Compacts what has been written down, and not too short a time ago.

use super::Client;
use crate::{
    follow::Followed,
    history::{Owner, Request},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// Milliseconds.
const PAUSE_MAX: u64 = 500;

/// So many turns later, others know what Seawall knew then.
const LATER: usize = 4;

pub(super) async fn run(mut client: Client, followed: BTreeMap<Owner, Arc<Followed>>) {
    let main = &followed[&Owner::Main];
    let mut seen = VecDeque::new();
    while client.goes_on(PAUSE_MAX).await {
        seen.push_back(main.revision());
        if seen.len() > LATER
            && let Some(revision) = seen.pop_front()
            && revision > 1
        {
            client.caller.call(Request::Compact { revision }).await;
        }
    }
}
