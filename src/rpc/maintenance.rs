//! `Maintenance.Status`, from which clients learn what the server can do.

use super::Context;
use crate::{
    etcd::{method::Method, wire},
    grpc::{self, Incoming},
    pipeline::{Manner, Responder, Topology},
};
use bytes::BytesMut;

/// `StatusResponse.version`.
const VERSION: u32 = 2;

/// The status of one member, with the lowest version of all clusters: what a client may rely on
/// must hold for every key.
pub(super) async fn status(context: Context, mut incoming: Incoming, responder: Responder) {
    let method = Method::Status;
    let Some(responder) = context.allowed_method(method, responder) else { return };
    let Some((message, responder)) = context.request(&mut incoming, responder).await else {
        return;
    };
    let Some((placed, mut responder)) = context.named(responder) else { return };
    let subject = context.attribute_method(&placed, method, &message, &mut responder);
    let manner = Manner::of(method, subject.class);
    if context.call.cluster.is_some() || context.topology.is_single() {
        return context.forward(placed, manner, &message, responder).await;
    }
    let Some((found, responder)) = context.ask(&placed, manner, &message, responder).await else {
        return;
    };
    let lowered = lower(&found.payload(), lowest_version(&context.topology).as_deref());
    let framed = lowered.map_or_else(|_| found.framed(), |lowered| grpc::frame(&lowered));
    responder.message(framed).await;
}

/// The lowest version that a member of any cluster was seen to have.
pub(super) fn lowest_version(topology: &Topology) -> Option<String> {
    let identities = topology.clusters.iter().map(|cluster| cluster.identity());
    let versions = identities.flat_map(|identity| identity.statuses.into_iter().flatten());
    versions.map(|status| status.version).min_by_key(|version| order(version))
}

/// `found` with `lowest` as its version, if that is lower.
fn lower(found: &[u8], lowest: Option<&str>) -> Result<BytesMut, wire::Malformed> {
    let mut out = BytesMut::with_capacity(found.len());
    for field in wire::fields(found) {
        let field = field?;
        let own = String::from_utf8_lossy(field.value.bytes());
        match lowest {
            Some(lowest) if field.number == VERSION && order(lowest) < order(&own) => {
                wire::put_bytes(VERSION, lowest.as_bytes(), &mut out);
            }
            _ => out.extend_from_slice(field.raw),
        }
    }
    Ok(out)
}

/// Orders versions as numbers, and a pre-release before its release.
fn order(version: &str) -> ([u64; 3], bool) {
    let (release, pre) = version.split_once('-').map_or((version, false), |(v, _)| (v, true));
    let mut numbers = release.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    ([next(), next(), next()], !pre)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::proto::etcdserverpb::StatusResponse;
    use prost::Message;

    fn lowered(own: &str, lowest: &str) -> String {
        let found = StatusResponse { version: own.into(), db_size: 7, ..StatusResponse::default() };
        let bytes = lower(&found.encode_to_vec(), Some(lowest)).expect("a status");
        let lowered = StatusResponse::decode(bytes).expect("a status");
        assert_eq!(lowered.db_size, 7);
        lowered.version
    }

    #[test]
    fn only_a_lower_version_takes_the_place_of_the_members_own() {
        assert_eq!(lowered("3.5.10", "3.5.9"), "3.5.9");
        assert_eq!(lowered("3.5.9", "3.5.10"), "3.5.9");
        assert_eq!(lowered("3.7.0", "3.7.0-rc.1"), "3.7.0-rc.1");
    }
}
