//! Ranges and streamed ranges.

use crate::{CHUNK, Stage, header, random_range, unary, unframed};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use prost::Message;
use seawall::etcd::{
    method::Method,
    proto::etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse},
};

#[tokio::test]
async fn ranges_have_the_bytes_that_etcd_sends() -> Result<()> {
    let mut stage = Stage::start(1).await?;
    let (loaded, newest) = (stage.loaded, stage.revision());
    let mut answered = 0;
    for _ in 0..600 {
        let request = random_range(&mut stage.random, loaded, newest);
        let theirs = unary(&stage.client, Method::Range, &request).await?;
        let Some(found) = stage.found(&request)? else {
            ensure!(request.sort_target != 0 || request.keys_only, "not answered: {request:?}");
            continue;
        };
        answered += 1;
        let mut response = found.response(header(&theirs)?).context("too long")?;
        let length = response.length();
        let ours = unframed(std::iter::from_fn(|| response.next_chunk(CHUNK)), length)?;
        ensure!(ours == theirs, "{request:?}");
    }
    ensure!(answered > 300, "only {answered} were answered");
    Ok(())
}

#[tokio::test]
async fn streamed_ranges_are_what_etcd_streams() -> Result<()> {
    let mut stage = Stage::start(2).await?;
    if stage.etcd.binaries().version() < (3, 7) {
        return Ok(());
    }
    let (loaded, newest) = (stage.loaded, stage.revision());
    for _ in 0..100 {
        let random = random_range(&mut stage.random, loaded, newest);
        let request = RangeRequest {
            key: random.key,
            range_end: random.range_end,
            limit: random.limit,
            revision: random.revision,
            keys_only: random.keys_only,
            count_only: random.count_only,
            ..RangeRequest::default()
        };
        let Some(found) = stage.found(&request)? else { continue };
        let path = Method::RangeStream.path();
        let reply = stage.client.unary(path, &[], &request.encode_to_vec()).await?;
        let theirs = merged(&reply.messages)?;
        let header = theirs.header.context("no header")?.encode_to_vec();
        let mut stream = found.stream(&header);
        let pieces = std::iter::from_fn(|| stream.next_message(CHUNK));
        let messages = pieces.map(|pieces| {
            let length = pieces.iter().map(Bytes::len).sum();
            unframed(pieces.into_iter(), length)
        });
        let ours = merged(&messages.collect::<Result<Vec<_>>>()?)?;
        ensure!(ours == theirs, "{request:?}");
    }
    Ok(())
}

/// One answer of all that a stream has sent.
fn merged(messages: &[Bytes]) -> Result<RangeResponse> {
    let mut whole = RangeStreamResponse::default();
    for message in messages {
        whole.merge(message.clone())?;
    }
    whole.range_response.context("nothing was sent")
}
