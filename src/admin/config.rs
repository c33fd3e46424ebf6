use crate::tls;
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// The operator's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub address: SocketAddr,
    /// Without it the port speaks plaintext.
    pub tls: Option<tls::AcceptorConfig>,
    /// Holds what whoever switches anything has to show; see [`super::Token`].
    pub token_file: Option<PathBuf>,
    /// `/livez` fails when no member of a listener's default cluster has answered for this long.
    pub livez_after: Duration,
}
