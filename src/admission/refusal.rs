use std::{fmt, sync::Arc, time::Duration};

/// Why a call is refused: who says so, what its limit is, and what would let the call pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub kind: Kind,
    /// The rule, or the key path of a built-in protection: `queues.lists`.
    pub rule: Arc<str>,
    /// `20 calls wait already`.
    pub reason: String,
    /// `raise queues.lists.length_max`.
    pub remedy: &'static str,
    /// When it may be tried again with some hope.
    pub pushback: Option<Duration>,
}

/// What kind of answer a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Too much at once: later it may pass.
    Load,
    /// There is no room for it.
    Space,
    /// It is larger than is allowed.
    Size,
    /// It is not allowed.
    Forbidden,
    /// It deletes more keys than is allowed.
    WideDelete,
}

/// After etcd's own words for the case, so that whoever searches for those finds this.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let etcd = match self.kind {
            Kind::Load => "etcdserver: too many requests",
            Kind::Space => "etcdserver: mvcc: database space exceeded",
            Kind::Size => "etcdserver: request is too large",
            Kind::Forbidden | Kind::WideDelete => "etcdserver: permission denied",
        };
        let Self { rule, reason, remedy, .. } = self;
        write!(f, "{etcd} (seawall: {rule}: {reason}; {remedy})")
    }
}
