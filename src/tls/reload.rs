//! Something made of files, made again when they change.

use super::Error;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::{
    fmt, fs,
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

type Load<T> = Box<dyn Fn() -> Result<T, Error> + Send + Sync>;

/// The newest `T` that could be made of the files.
pub(super) struct Reloading<T> {
    current: ArcSwap<T>,
    paths: Vec<PathBuf>,
    /// Contents that `current` was made of, or that could not be used.
    seen: Mutex<Vec<Option<Vec<u8>>>>,
    load: Load<T>,
    /// Looks at the files; ends with this value.
    task: OnceLock<AbortOnDropHandle<()>>,
}

impl<T> fmt::Debug for Reloading<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Reloading<T> {
    /// Loads, and looks at the files every `every` from then on. The contents are compared, not the
    /// times: secrets mounted into a pod change by a swapped link with times of their own.
    pub(super) fn start(
        paths: Vec<PathBuf>,
        every: Duration,
        load: impl Fn() -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, Error> {
        // Read first: a change that comes between is seen as one at the next look.
        let seen = Mutex::new(contents(&paths));
        let this = Arc::new(Self {
            current: ArcSwap::from_pointee(load()?),
            paths,
            seen,
            load: Box::new(load),
            task: OnceLock::new(),
        });
        if !this.paths.is_empty() {
            let task = tokio::spawn(watch(Arc::downgrade(&this), every));
            // Just made, so nothing is in it yet.
            let _ = this.task.set(AbortOnDropHandle::new(task));
        }
        Ok(this)
    }

    pub(super) fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    fn look(&self) {
        let found = contents(&self.paths);
        let mut seen = self.seen.lock();
        if *seen == found {
            return;
        }
        *seen = found;
        let files: Vec<_> = self.paths.iter().map(|path| path.display().to_string()).collect();
        match (self.load)() {
            Ok(loaded) => {
                self.current.store(Arc::new(loaded));
                tracing::info!(?files, "TLS files loaded again");
            }
            Err(error) => {
                tracing::error!(?files, %error, "changed TLS files cannot be used; the old ones stay")
            }
        }
    }
}

async fn watch<T: Send + Sync + 'static>(this: Weak<Reloading<T>>, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let Some(this) = this.upgrade() else { return };
        // A few small files; reading them is no blocking to speak of, but a mount may hang.
        if tokio::task::spawn_blocking(move || this.look()).await.is_err() {
            return;
        }
    }
}

fn contents(paths: &[PathBuf]) -> Vec<Option<Vec<u8>>> {
    paths.iter().map(|path| fs::read(path).ok()).collect()
}
