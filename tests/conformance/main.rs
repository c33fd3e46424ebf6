//! Seawall answers what etcd answers: every script is played at both, and all that came back must be
//! the same, down to fields that nobody knows.

mod arena;
mod auth;
mod client;
mod concurrency;
mod etcdctl;
mod http;
mod kv;
mod lease;
mod maintenance;
mod routed;
mod schema;
mod transport;
mod txn;
mod watch;

// A part of it is used here.
#[allow(dead_code)]
#[path = "../failover/operator.rs"]
mod operator;
