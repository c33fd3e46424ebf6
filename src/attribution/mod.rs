//! Who loads etcd.

mod config;

pub use config::Config;
