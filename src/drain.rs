//! Orderly stop.
//!
//! ```text
//! serving --SIGTERM--> not ready --delay--> draining --no connection left, or grace--> ended
//! ```
//!
//! While draining no connection is accepted, clients are told by GOAWAY, calls are finished and
//! watches are ended with a status on which clients open them anew.

use std::{future::Future, time::Duration};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How a stopping process takes leave of its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `/readyz` fails for this long before listeners close, so that balancers look elsewhere first.
    pub delay: Duration,
    /// Calls that are still running after this long are cut.
    pub grace: Duration,
}

/// The two moments of a stop.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// The process will stop: it is not ready any more.
    pub leaving: CancellationToken,
    /// Nothing new is begun.
    pub draining: CancellationToken,
}

/// Goes through the stop; `drained` resolves when no connection is left.
pub async fn drain(config: &Config, signals: &Signals, drained: impl Future<Output = ()>) {
    tracing::info!(delay = ?config.delay, grace = ?config.grace, "stopping");
    signals.leaving.cancel();
    sleep(config.delay).await;
    signals.draining.cancel();
    match timeout(config.grace, drained).await {
        Ok(()) => tracing::info!("every connection has ended"),
        Err(_) => tracing::warn!("grace is over: the connections that are left are cut"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::time::Instant;

    fn config() -> Config {
        Config { delay: Duration::from_secs(5), grace: Duration::from_secs(30) }
    }

    #[tokio::test(start_paused = true)]
    async fn is_not_ready_before_it_drains() {
        let (config, signals, started) = (config(), Signals::default(), Instant::now());
        let observed = async {
            signals.leaving.cancelled().await;
            assert!(!signals.draining.is_cancelled());
            signals.draining.cancelled().await;
            started.elapsed()
        };
        let (draining_after, ()) = tokio::join!(observed, drain(&config, &signals, async {}));
        assert_eq!(draining_after, config.delay);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_calls_no_longer_than_its_grace() {
        let (config, started) = (config(), Instant::now());
        drain(&config, &Signals::default(), pending()).await;
        assert_eq!(started.elapsed(), config.delay + config.grace);
    }
}
