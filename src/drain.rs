//! Orderly stop.

use std::time::Duration;

/// How a stopping process takes leave of its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `/readyz` fails for this long before listeners close, so that balancers look elsewhere first.
    pub delay: Duration,
    /// Calls that are still running after this long are cut.
    pub grace: Duration,
}
