//! Where clients connect.

mod config;

pub use config::{Config, TlsConfig, TlsVersion};
