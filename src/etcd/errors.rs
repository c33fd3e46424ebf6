//! The texts of etcd's errors. Clients recognise an error by its text, so a text is API.

/// A gRPC code and the text that goes with it.
pub type Known = (tonic::Code, &'static str);

use tonic::Code;

pub const INVALID_SORT_OPTION: Known = (Code::InvalidArgument, "etcdserver: invalid sort option");
pub const LEASE_NOT_FOUND: Known = (Code::NotFound, "etcdserver: requested lease not found");
pub const PERMISSION_NOT_GIVEN: Known = (Code::InvalidArgument, "etcdserver: permission not given");
pub const PERMISSION_DENIED: Known = (Code::PermissionDenied, "etcdserver: permission denied");
pub const SERVER_STOPPED: Known = (Code::Unavailable, "etcdserver: server stopped");
pub const DEADLINE_EXCEEDED: Known = (Code::DeadlineExceeded, "context deadline exceeded");
pub const TOO_MANY_REQUESTS: Known = (Code::ResourceExhausted, "etcdserver: too many requests");
pub const COMPACTED: Known =
    (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
pub const FUTURE_REVISION: Known =
    (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
