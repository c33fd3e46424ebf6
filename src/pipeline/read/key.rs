//! What tells reads apart that others may share.

use crate::{admission::Treatment, pipeline::token::TOKENS, upstream::Outbound};
use bytes::Bytes;
use http::HeaderMap;

/// By which a client has a member refuse that has no leader.
const HAS_LEADER: &str = "hasleader";

/// Reads that differ in this may have different answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    cluster: u64,
    /// The metadata that etcd looks at, each value behind its end: no two clients that differ in
    /// one have the same, since no header holds a line's end.
    metadata: Bytes,
    /// The request as the client encoded it.
    request: Bytes,
    /// Nobody waits longer than by the rules for his own calls.
    treatment: Treatment,
}

impl Key {
    /// Of what is asked of the cluster of this number.
    pub(super) fn of(cluster: u64, outbound: &Outbound, treatment: Treatment) -> Self {
        let request = outbound.body.clone().unwrap_or_default();
        Self { cluster, metadata: looked_at(&outbound.headers), request, treatment }
    }

    /// Bytes that it holds.
    pub(super) fn size(&self) -> u64 {
        (self.metadata.len() + self.request.len()) as u64
    }
}

/// What etcd makes an answer depend on besides the request, in a form that tells all of it apart.
fn looked_at(headers: &HeaderMap) -> Bytes {
    let mut metadata = Vec::new();
    for name in TOKENS.into_iter().chain([HAS_LEADER]) {
        if let Some(value) = headers.get(name) {
            metadata.extend_from_slice(value.as_bytes());
        }
        metadata.push(b'\n');
    }
    metadata.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    #[test]
    fn whoever_differs_in_what_etcd_looks_at_shares_nothing() {
        let of = |headers: &[(&'static str, &'static str)]| {
            let parsed = headers.iter().map(|(name, value)| {
                (HeaderName::from_static(name), value.parse().expect("a header"))
            });
            looked_at(&parsed.collect())
        };
        let told_apart = [
            of(&[]),
            of(&[("token", "a")]),
            of(&[("authorization", "a")]),
            of(&[("token", "ab")]),
            of(&[("token", "a"), ("authorization", "b")]),
            of(&[("hasleader", "true")]),
            of(&[("token", "a"), ("hasleader", "true")]),
        ];
        for (index, one) in told_apart.iter().enumerate() {
            assert_eq!(told_apart.iter().position(|other| other == one), Some(index));
        }
        assert_eq!(of(&[("user-agent", "a")]), of(&[]));
    }
}
