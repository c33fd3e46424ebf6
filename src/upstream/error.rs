use h2::Reason;
use std::sync::Arc;

/// Why a call to a cluster has no answer. The variants differ in what may have happened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No member could be reached; nothing was sent.
    #[error("no member of etcd cluster {cluster:?} can be reached: {reason}")]
    Unreachable { cluster: Arc<str>, reason: Arc<str> },
    /// The member said that it has not looked at the call.
    #[error("etcd member {member} did not take the call")]
    Refused { member: Arc<str> },
    /// The connection broke after the call may have been carried out.
    #[error("connection to etcd member {member} lost: {reason}")]
    Lost { member: Arc<str>, reason: Arc<str> },
    /// The member broke off this call alone.
    #[error("etcd member {member} broke the call off: {reason}")]
    Reset { member: Arc<str>, reason: Reason },
    /// The client's own deadline passed.
    #[error("context deadline exceeded")]
    Deadline,
}

impl Error {
    /// What `error` says about a call that was handed to the connection to `member`.
    pub fn after_sending(member: &Arc<str>, error: &h2::Error) -> Self {
        let member = Arc::clone(member);
        let reason = error.reason().unwrap_or(Reason::NO_ERROR);
        if !error.is_remote() {
            return Self::Lost { member, reason: error.to_string().into() };
        }
        // A GOAWAY without an error reaches only the calls above its last stream, and those the
        // member has not looked at. One with an error reaches all, so it proves nothing.
        let untouched = if error.is_go_away() {
            reason == Reason::NO_ERROR
        } else {
            reason == Reason::REFUSED_STREAM
        };
        match untouched {
            true => Self::Refused { member },
            false if error.is_reset() => Self::Reset { member, reason },
            false => Self::Lost { member, reason: error.to_string().into() },
        }
    }
}
