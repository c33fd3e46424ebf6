//! The texts of etcd's errors. Clients recognise an error by its text, so a text is API.

/// A gRPC code and the text that goes with it.
pub type Known = (tonic::Code, &'static str);

use tonic::Code;

pub const EMPTY_KEY: Known = (Code::InvalidArgument, "etcdserver: key is not provided");
pub const INVALID_SORT_OPTION: Known = (Code::InvalidArgument, "etcdserver: invalid sort option");
pub const LEASE_NOT_FOUND: Known = (Code::NotFound, "etcdserver: requested lease not found");
pub const NO_LEADER: Known = (Code::Unavailable, "etcdserver: no leader");
pub const SERVER_STOPPED: Known = (Code::Unavailable, "etcdserver: server stopped");
pub const DEADLINE_EXCEEDED: Known = (Code::DeadlineExceeded, "context deadline exceeded");
