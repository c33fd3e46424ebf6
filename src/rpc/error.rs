use crate::{
    admission::{Denied, Refusal},
    etcd::errors::Known,
    grpc::ReadError,
    pipeline::UnknownCluster,
    upstream,
};
use tonic::Status;

/// Why a call is not answered with what etcd said.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// etcd said no; its words go on as they are.
    #[error("{}", .0.message())]
    Etcd(Status),
    /// What etcd says in this case, said without asking it.
    #[error("{}", .0.1)]
    Known(Known),
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
    /// As grpc-go says it.
    #[error("EOF")]
    NoMessage,
    /// As grpc-go says it, without its reason.
    #[error("grpc: error unmarshalling request: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// As etcd 3.4 says it, which has no compression; later ones take gzip.
    #[error("grpc: Decompressor is not installed for grpc-encoding {encoding:?}")]
    Compressed { encoding: String },
    #[error("grpc: compressed flag set with identity or empty encoding")]
    CompressedWithoutEncoding,
    /// A protection stands in the way.
    #[error("{0}")]
    Refused(Refusal),
    #[error(transparent)]
    UnknownCluster(#[from] UnknownCluster),
    /// Keys of several clusters where etcd promises one revision or one transaction.
    #[error("seawall: {0}")]
    SpansClusters(String),
    /// An answer that has to be put together is larger than that is done for.
    #[error(
        "seawall: answers of several etcd clusters are joined up to {max} bytes; ask for less, or for one cluster's keys only"
    )]
    MergeTooLarge { max: usize },
}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Refused(refusal) => Self::Refused(refusal),
            // The client's own deadline, as it would have passed at etcd.
            Denied::Expired => Self::Upstream(upstream::Error::Deadline),
        }
    }
}
