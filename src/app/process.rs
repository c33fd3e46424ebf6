//! The process: what signals and the configuration file make of a running Seawall.

use super::App;
use crate::{
    config::{Reloader, Settings},
    handover::Inherited,
    telemetry::{Log, notify},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;

/// How often the configuration file is looked at. Its contents are compared, since a mounted
/// `ConfigMap` changes by a swapped link.
const FILE_INTERVAL: Duration = Duration::from_secs(5);

/// Runs until a signal ends the process. The `settings` were made of a file that said `text`, if of any.
///
/// # Errors
///
/// When a component cannot be started.
pub fn run(settings: Settings, text: Option<String>, reloader: Reloader) -> anyhow::Result<()> {
    let log = Log::start(&settings.log)?;
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    control.block_on(async move {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut upgrade = signal(SignalKind::user_defined2())?;
        let mut inherited = Inherited::receive()?;
        let mut app = App::start(settings, &mut inherited).await?;
        inherited.ready()?;
        let mut file = FileWatch::new(reloader.path(), text);
        let workers = Arc::clone(&app.workers);
        let turned = move || {
            let workers = Arc::clone(&workers);
            async move { workers.turned().await }
        };
        // Goes on while the process stops.
        let _watchdog = AbortOnDropHandle::new(tokio::spawn(notify::watchdog(turned)));
        notify::ready();
        loop {
            tokio::select! {
                _ = hangup.recv() => file.look(),
                () = file.changed() => {}
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = upgrade.recv() => {
                    let handed_over = tokio::select! {
                        handed_over = app.hand_over() => handed_over,
                        _ = terminate.recv() => break,
                    };
                    match handed_over {
                        Ok(()) => {
                            app.leave().await;
                            return Ok(());
                        }
                        Err(error) => {
                            let error = format!("{error:#}");
                            tracing::error!(error, "no successor has taken over: this process goes on");
                        }
                    }
                    continue;
                }
            }
            notify::reloading();
            app.reload(&reloader, &log);
            notify::ready();
        }
        notify::stopping();
        app.stop().await;
        Ok(())
    })
}

/// Tells when the configuration file has changed.
struct FileWatch {
    path: Option<PathBuf>,
    seen: Option<Vec<u8>>,
    ticks: Interval,
}

impl FileWatch {
    /// `text` is what the settings that run were made of. The start may have waited for long since then.
    fn new(path: Option<&Path>, text: Option<String>) -> Self {
        let mut ticks = interval(FILE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { path: path.map(Path::to_owned), seen: text.map(String::into_bytes), ticks }
    }

    /// What the file says now is what the next look compares with.
    fn look(&mut self) {
        self.seen = self.path.as_deref().and_then(|path| fs::read(path).ok());
    }

    async fn changed(&mut self) {
        let Some(path) = self.path.clone() else { return std::future::pending().await };
        loop {
            self.ticks.tick().await;
            // A file that is gone for a moment, as while it is replaced, has not changed.
            let Ok(found) = tokio::fs::read(&path).await else { continue };
            if self.seen.as_ref() != Some(&found) {
                self.seen = Some(found);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was taken over with the next change only, where etcd had taken long to answer at the start.
    #[tokio::test]
    async fn a_change_during_the_start_is_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("seawall.yaml");
        fs::write(&path, "workers: 2").expect("it is written");
        let mut file = FileWatch::new(Some(&path), Some("workers: 1".into()));
        file.changed().await;
        assert_eq!(file.seen.as_deref(), Some(&b"workers: 2"[..]));
    }
}
