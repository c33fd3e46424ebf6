//! What the service manager is told, where one listens at `NOTIFY_SOCKET` as systemd does for
//! services of `Type=notify`. Anywhere else this does nothing.

use sd_notify::NotifyState;
use std::{future::Future, time::Duration};
use tokio::time::interval;

/// However short the watchdog's limit is, it costs no more than this.
const WATCHDOG_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Clients can connect, and the configuration is in effect.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is read again; [`ready`] ends it.
pub fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    // By the time systemd tells this reload from an earlier one; the clock is always there.
    states.extend(NotifyState::monotonic_usec_now());
    tell(&states);
}

/// Another process goes on as the service; only the one before may say so.
pub fn succeeded_by(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// Clients are taken leave of.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells the watchdog (`WatchdogSec=`) twice in its time that the process is alive, each time after
/// `turned` has resolved. Returns only where there is no watchdog.
pub async fn watchdog<Turned: Future<Output = ()>>(turned: impl Fn() -> Turned) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = interval((limit / 2).max(WATCHDOG_INTERVAL_MIN));
    loop {
        ticks.tick().await;
        turned().await;
        tell(&[NotifyState::Watchdog]);
    }
}

/// A manager that does not listen must not end what it manages.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
