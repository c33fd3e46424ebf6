//! Every error of ours as the gRPC status a client sees. The only place that makes one.

use super::error::Error;
use crate::{
    admission::{Refusal, RefusalKind},
    etcd::errors,
    grpc::ReadError,
    upstream,
};
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};

/// Codes are chosen by what clients do with them: see `docs/errors.md`.
pub(super) fn of(error: &Error) -> Status {
    let code = match error {
        Error::Etcd(status) => return status.clone(),
        Error::Known((code, _)) => *code,
        Error::Upstream(error) => return of_upstream(error),
        Error::Refused(refusal) => return of_refusal(refusal),
        Error::Read(ReadError::TooLarge { .. }) => Code::ResourceExhausted,
        Error::Read(ReadError::Truncated) | Error::NoMessage => Code::Unknown,
        // The client left or broke the protocol; it will hardly read this.
        Error::Read(ReadError::Broken(_)) | Error::Malformed(_) => Code::Internal,
        Error::CompressedWithoutEncoding => Code::Internal,
        Error::Compressed { .. } => Code::Unimplemented,
        Error::UnknownCluster(_) | Error::SpansClusters(_) => Code::InvalidArgument,
        Error::MergeTooLarge { .. } => Code::ResourceExhausted,
    };
    Status::new(code, error.to_string())
}

/// Never UNAVAILABLE or DEADLINE_EXCEEDED, on which clients of etcd's repeat at once.
fn of_refusal(refusal: &Refusal) -> Status {
    let code = match refusal.kind {
        RefusalKind::Load | RefusalKind::Space => Code::ResourceExhausted,
        RefusalKind::Size => Code::InvalidArgument,
        RefusalKind::Forbidden | RefusalKind::WideDelete => Code::PermissionDenied,
    };
    let mut metadata = MetadataMap::new();
    if let Some(pushback) = refusal.pushback {
        metadata.insert(PUSHBACK, MetadataValue::from(pushback.as_millis() as u64));
    }
    Status::with_metadata(code, refusal.to_string(), metadata)
}

/// When a client that is made to may try again.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// UNAVAILABLE is what a client of etcd's may see at any time: it repeats reads and streams, and
/// leaves writes, whose outcome may be unknown, to the application.
fn of_upstream(error: &upstream::Error) -> Status {
    let code = match error {
        upstream::Error::Unreachable { .. }
        | upstream::Error::Refused { .. }
        | upstream::Error::Lost { .. }
        | upstream::Error::Reset { .. } => Code::Unavailable,
        upstream::Error::Deadline => {
            let (code, text) = errors::DEADLINE_EXCEEDED;
            return Status::new(code, text);
        }
    };
    Status::new(code, format!("seawall: {error}"))
}
