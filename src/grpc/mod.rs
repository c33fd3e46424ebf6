//! gRPC as bytes on HTTP/2 streams, for both of Seawall's sides.
//!
//! A forwarded answer of any size crosses as the slices it arrived in: it is not decoded, joined or
//! copied, and no more of it is held than the windows allow. That is why this sits on `h2` itself
//! rather than on a generated client and server. No policy lives here.

mod cork;
mod frame;
mod incoming;
mod keepalive;
mod outgoing;
mod status;
mod timeout;

pub use cork::{Cork, Corked};
pub use frame::{Message, PREFIX_LEN, encode, frame, put_prefix};
pub use incoming::{Incoming, ReadError};
pub use keepalive::{Dead, Keepalive};
pub use outgoing::{Outgoing, SendError};
pub use status::{from_headers, head, trailers, trailers_only};
pub use timeout::deadline;
