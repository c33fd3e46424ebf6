//! A list, page by page at one revision.

use super::{Cut, Page, Splits};
use crate::{
    etcd::{
        errors,
        key_range::{End, KeyRange},
        method::Effect,
        proto::etcdserverpb::{RangeRequest, ResponseHeader},
    },
    grpc,
    upstream::{self, Cluster, Outbound},
};
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;
use tonic::{Code, Status};

/// A list that is being read.
#[derive(Debug)]
pub struct Pages {
    cluster: Arc<Cluster>,
    splits: Arc<Splits>,
    /// As the pages go out, but for the body.
    outbound: Outbound,
    /// The list's own request; its range is what is left of it.
    request: RangeRequest,
    rest: Option<KeyRange>,
    page_bytes: u64,
    /// Keys of a page where it is not known where to cut.
    page_keys: i64,
    /// Keys that may still be read; `None` for all.
    left: Option<i64>,
    /// Whether a member may answer the first page by itself, too: the client has said so.
    serializable: bool,
    /// Whether a page was read already.
    follows: bool,
    /// Whether the sizes of what comes say where to cut: those of keys alone do not.
    learns: bool,
    /// Bytes between the last split that stays and what is left.
    before: u64,
    /// Bytes of one page at most.
    bytes_max: usize,
    /// Whether what is before the next split is read by a number of keys: together it was too large.
    wary: bool,
}

/// Why the next page is not there.
#[derive(Debug, Clone)]
pub enum Stopped {
    /// etcd said no.
    Refused(Status),
    Failed(upstream::Error),
    /// It is larger than it may be, and was not read. It can be tried again.
    TooLarge {
        length: usize,
    },
}

/// Keys of the first page of a list of unknown size, at most those of a page of common objects.
const KEYS_FIRST: i64 = 100;
const KEYS_MAX: i64 = 10_000;

/// Where it is not known where to cut, etcd counts all that follows a page while it holds its index,
/// which takes it longer than to read the page where much follows. What is left is then read in so many
/// pages ...
const PAGES_BROAD: i64 = 16;

/// ... if none is larger than so many common ones.
const BROAD: u64 = 32;

/// Room for a list that is passed on page by page, in pages of common size: one may be so broad, and
/// another be on its way out.
pub const PAGES_HELD: u64 = 2 * BROAD;

impl Pages {
    /// The pages of `request`, about `page_bytes` each. `size_mean` is that of a key-value, where it
    /// is known.
    pub fn new(
        cluster: &Arc<Cluster>,
        splits: &Arc<Splits>,
        outbound: Outbound,
        request: RangeRequest,
        page_bytes: u64,
        size_mean: Option<u64>,
    ) -> Self {
        let page_keys = size_mean.map_or(KEYS_FIRST, |size| (page_bytes / size.max(1)) as i64);
        Self {
            cluster: Arc::clone(cluster),
            splits: Arc::clone(splits),
            outbound,
            rest: Some(KeyRange::of(request.key.clone(), request.range_end.clone())),
            left: match request.limit {
                ..=0 if !request.count_only => None,
                ..=0 => Some(i64::MAX),
                limit => Some(limit),
            },
            serializable: request.serializable,
            learns: !request.keys_only && !request.count_only,
            request,
            page_bytes,
            follows: false,
            // What is before the list is nothing to be joined with.
            before: page_bytes,
            bytes_max: PAGE_BYTES_MAX,
            wary: false,
            page_keys: page_keys.clamp(1, KEYS_MAX),
        }
    }

    /// Reads no page of more than `bytes`, but for a single key.
    pub fn up_to(self, bytes: u64) -> Self {
        let bytes_max = usize::try_from(bytes).unwrap_or(usize::MAX).min(PAGE_BYTES_MAX);
        Self { bytes_max, ..self }
    }

    /// The next page; `None` after the last.
    ///
    /// Only that which follows a page is asked for, and at that page's revision, so all of them
    /// together are the list as it was at one revision. After a page that is too large the next try is
    /// for fewer keys.
    pub async fn next(&mut self) -> Option<Result<Page, Stopped>> {
        let rest = self.rest.take()?;
        // What is counted must be all that follows where the client has set a limit.
        let cut = match self.left {
            None => self.splits.cut(&rest),
            Some(_) => Cut { range: rest.clone(), known: false },
        };
        let limit = match (cut.known, self.left) {
            _ if cut.known && !self.wary || self.request.count_only => 0,
            (_, left) => left.map_or(self.page_keys, |left| left.min(self.page_keys)),
        };
        self.request.key = cut.range.start.clone();
        self.request.range_end = cut.range.range_end();
        self.request.limit = limit;
        let page = match self.ask_again_if_behind().await {
            Ok(page) => page,
            Err(stopped) => {
                if matches!(stopped, Stopped::TooLarge { .. }) {
                    self.be_wary(rest, limit);
                }
                return Some(Err(stopped));
            }
        };
        self.follows = true;
        self.rest = self.behind(&page, cut.range, rest.end);
        Some(Ok(page))
    }

    /// The next page that is not too large, a small one if need be.
    pub async fn next_that_fits(&mut self) -> Option<Result<Page, Stopped>> {
        loop {
            match self.next().await {
                Some(Err(Stopped::TooLarge { .. })) => {}
                next => return next,
            }
        }
    }

    /// What is left up to `end` behind `page`, which is what there is of `range` or its beginning.
    fn behind(&mut self, page: &Page, range: KeyRange, end: End) -> Option<KeyRange> {
        if let Some(left) = &mut self.left {
            *left -= page.keys.number as i64;
            if *left <= 0 {
                return None;
            }
        }
        if page.more {
            self.adapt(page);
            let next = Bytes::from([&page.keys.last[..], b"\0"].concat());
            if self.learns {
                let part = KeyRange { start: range.start, end: End::Key(next.clone()) };
                self.before = self.splits.learn_part(&part, &page.keys, self.page_bytes);
            }
            return Some(KeyRange { start: next, end });
        }
        self.wary = false;
        if self.learns {
            self.before = self.splits.learn(&range, &page.keys, self.before, self.page_bytes);
        }
        match range.end {
            reached if reached == end => None,
            End::Key(start) => Some(KeyRange { start, end }),
            End::Infinite => None,
        }
    }

    /// What was at a revision never changes, so after the first page any member may answer without
    /// asking the others, which costs them nothing. One that has not got so far says so, and then
    /// they are asked.
    async fn ask_again_if_behind(&mut self) -> Result<Page, Stopped> {
        self.request.serializable = self.serializable || self.follows;
        let asked = self.ask().await;
        match &asked {
            Err(Stopped::Refused(status)) if self.follows && is_behind(status) => {
                self.request.serializable = false;
                self.ask().await
            }
            _ => asked,
        }
    }

    async fn ask(&mut self) -> Result<Page, Stopped> {
        self.outbound.body = Some(grpc::encode(&self.request));
        let answer = self.cluster.call(&self.outbound, Effect::Read).await;
        let mut answer = answer.map_err(Stopped::Failed)?;
        let length = answer.length().await.map_err(Stopped::Failed)?;
        let too_large = |length: &usize| *length > self.bytes_max && self.request.limit != 1;
        if let Some(length) = length.filter(too_large) {
            return Err(Stopped::TooLarge { length });
        }
        let message = answer.message_up_to(PAGE_BYTES_MAX).await.map_err(Stopped::Failed)?;
        let message = message.map_err(Stopped::Refused)?;
        let undecodable = |_| Stopped::Refused(Status::new(Code::Internal, "malformed answer"));
        let page = Page::parse(&message.payload(), self.page_bytes).map_err(undecodable)?;
        if self.request.revision <= 0 {
            let header = ResponseHeader::decode(page.header.clone());
            let header = header.map_err(|error| {
                Stopped::Refused(Status::new(Code::Internal, error.to_string()))
            })?;
            self.request.revision = header.revision;
        }
        Ok(page)
    }

    /// `rest` is still to be read, by fewer keys than those of a page of `limit`.
    fn be_wary(&mut self, rest: KeyRange, limit: i64) {
        self.rest = Some(rest);
        self.wary = true;
        if limit > 0 {
            self.page_keys = (limit / 2).max(1);
        }
    }

    /// Goes up or down with the size of what came, as etcd's own stream does.
    fn adapt(&mut self, page: &Page) {
        let mean = (page.keys.bytes / page.keys.number.max(1)).max(1);
        let common = ((self.page_bytes / mean) as i64).min(KEYS_MAX);
        let most = (BROAD * self.page_bytes).min(self.bytes_max as u64 / 2);
        let broad = ((most / mean) as i64).min(page.count / PAGES_BROAD);
        let meant = if self.wary { common } else { common.max(broad) };
        self.page_keys = meant.clamp(1, 2 * self.page_keys);
    }
}

/// What has come to be between two splits may be as large as etcd lets it be.
const PAGE_BYTES_MAX: usize = u32::MAX as usize;

/// Whether a member does not have the revision yet.
fn is_behind(status: &Status) -> bool {
    (status.code(), status.message()) == errors::FUTURE_REVISION
}
