//! The beginning of a watch response, which tells what it is. Events come after it and stay bytes.

use crate::etcd::{proto::etcdserverpb::WatchResponse, wire};

/// Bytes of a response within which all fields before its events lie. Only a long reason for a
/// cancellation does not fit, and those responses are short enough to be seen whole.
pub(super) const HEAD_BYTES: usize = 256;

/// The fields before the events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// That of the store when the response was made.
    pub(super) revision: i64,
    pub(super) watch_id: i64,
    pub(super) created: bool,
    pub(super) canceled: bool,
    pub(super) compact_revision: i64,
    /// More of the same events follows, and must follow at once.
    pub(super) fragment: bool,
    pub(super) has_events: bool,
}

/// Numbers of the fields of `WatchResponse`.
const HEADER: u32 = 1;
const WATCH_ID: u32 = 2;
const CREATED: u32 = 3;
const CANCELED: u32 = 4;
const COMPACT_REVISION: u32 = 5;
const FRAGMENT: u32 = 7;
const EVENTS: u32 = 11;

/// Number of a field of `ResponseHeader`.
const REVISION: u32 = 3;

impl Head {
    /// Reads what it can of the first bytes of a response. etcd writes fields in their order.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let mut head = Self::default();
        for field in wire::fields(bytes) {
            // Cut off inside an event, or inside something that is of no interest here.
            let Ok(field) = field else { break };
            match field.number {
                HEADER => head.revision = revision(field.value.bytes()),
                WATCH_ID => head.watch_id = field.value.varint() as i64,
                CREATED => head.created = field.value.varint() != 0,
                CANCELED => head.canceled = field.value.varint() != 0,
                COMPACT_REVISION => head.compact_revision = field.value.varint() as i64,
                FRAGMENT => head.fragment = field.value.varint() != 0,
                EVENTS => {
                    head.has_events = true;
                    break;
                }
                _ => {}
            }
        }
        head
    }

    /// An answer to a progress request, which is about all watchers of its stream.
    pub(super) fn is_progress_of_all(&self) -> bool {
        self.watch_id == ALL && !self.created && !self.canceled && !self.has_events
    }
}

fn revision(header: &[u8]) -> i64 {
    let revision = wire::fields(header).flatten().find(|field| field.number == REVISION);
    revision.map_or(0, |field| field.value.varint() as i64)
}

/// The id in answers that are about no single watcher.
pub(super) const ALL: i64 = -1;

/// `progress` as an answer about `watch_id` alone.
pub(super) fn progress_of(progress: &WatchResponse, watch_id: i64) -> WatchResponse {
    WatchResponse { watch_id, ..progress.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::proto::{etcdserverpb::ResponseHeader, mvccpb::Event};
    use prost::Message;

    fn response() -> WatchResponse {
        let header = ResponseHeader {
            cluster_id: u64::MAX,
            member_id: u64::MAX,
            revision: i64::MAX,
            raft_term: u64::MAX,
        };
        WatchResponse { header: Some(header), watch_id: -5, ..WatchResponse::default() }
    }

    #[test]
    fn all_but_the_reason_fits_into_the_head() {
        let response = WatchResponse {
            created: true,
            canceled: true,
            compact_revision: i64::MIN,
            fragment: true,
            events: vec![Event::default(); 1000],
            ..response()
        };
        let bytes = response.encode_to_vec();
        let head = Head::read(&bytes[..HEAD_BYTES]);
        assert_eq!((head.watch_id, head.created, head.canceled), (-5, true, true));
        assert_eq!((head.compact_revision, head.revision), (i64::MIN, i64::MAX));
        assert!(head.fragment && head.has_events);
    }

    #[test]
    fn an_answer_to_a_progress_request_is_about_all() {
        let progress = WatchResponse { watch_id: ALL, ..response() };
        assert!(Head::read(&progress.encode_to_vec()).is_progress_of_all());
        let refused = WatchResponse { watch_id: ALL, created: true, canceled: true, ..response() };
        assert!(!Head::read(&refused.encode_to_vec()).is_progress_of_all());
    }
}
