//! Turns of watchers to move between memory and etcd.

use std::time::Duration;
use tokio::{sync::OwnedSemaphorePermit, time::sleep};
use tokio_util::task::AbortOnDropHandle;

/// A turn is given back after this long. Who has it may be waiting for a client that does not read.
pub(super) const TURN_MAX: Duration = Duration::from_secs(10);

/// The turn of a watcher, or of a stream's watchers, to move, until it is dropped or [`TURN_MAX`] is over.
#[derive(Debug)]
pub struct Turn {
    _held: AbortOnDropHandle<()>,
}

impl Turn {
    pub fn new(permit: OwnedSemaphorePermit) -> Self {
        let over = sleep(TURN_MAX);
        let held = tokio::spawn(async move {
            over.await;
            drop(permit);
        });
        Self { _held: AbortOnDropHandle::new(held) }
    }
}
