//! Seawall, a load-protection proxy in front of etcd.

pub mod admin;
pub mod admission;
pub mod config;
pub mod drain;
pub mod etcd;
pub mod grpc;
pub mod listener;
pub mod routing;
pub mod telemetry;
pub mod tls;
pub mod upstream;
