//! `RangeStream` in front of an etcd that has none.

use crate::{Kv, Stage, client::Status, list};
use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use seawall::etcd::{
    method::Method,
    proto::etcdserverpb::{
        RangeRequest, RangeResponse, RangeStreamResponse,
        range_request::{SortOrder, SortTarget},
    },
};
use tonic::Code;

const CONFIGMAPS: &str = "/registry/configmaps/";

/// The chunks put together, and how many they were.
pub(crate) async fn streamed(
    kv: &Kv,
    request: &RangeRequest,
) -> Result<Result<(RangeResponse, usize), (Code, String)>> {
    let path = Method::RangeStream.path();
    let reply = kv.client.unary(path, &[], &request.encode_to_vec()).await?;
    match reply.status {
        Status::Grpc { code: Code::Ok, .. } => {}
        Status::Grpc { code, message, .. } => return Ok(Err((code, message))),
        Status::Reset(reason) => bail!("reset: {reason}"),
    }
    let mut merged = RangeStreamResponse::default();
    let chunks = reply.messages.len();
    for (index, message) in reply.messages.into_iter().enumerate() {
        let chunk = RangeStreamResponse::decode(message.clone())?.range_response;
        let header = chunk.context("an empty chunk")?.header;
        ensure!(header.is_some() == (index + 1 == chunks), "a header in chunk {index}");
        merged.merge(message)?;
    }
    let merged = merged.range_response.context("no chunk")?;
    Ok(Ok((merged, chunks)))
}

#[tokio::test]
async fn a_stream_is_the_range_in_chunks() -> Result<()> {
    let stage = Stage::start("paging: {page_size: 64KiB}").await?;
    if stage.etcd.binaries().version() >= (3, 7) {
        // It streams by itself, and the conformance suite compares that.
        return Ok(());
    }
    let (through, direct) = (stage.through().await?, stage.direct().await?);
    for number in 0..600 {
        direct.put(&format!("{CONFIGMAPS}a/{number:04}"), vec![b'v'; 700]).await?.ok();
    }
    let whole = list(CONFIGMAPS);
    let revision = direct.revision().await?;
    direct.put(&format!("{CONFIGMAPS}a/later"), "x").await?.ok();
    for request in [
        whole.clone(),
        RangeRequest { limit: 1, ..whole.clone() },
        RangeRequest { limit: 250, ..whole.clone() },
        RangeRequest { limit: 600, revision, ..whole.clone() },
        RangeRequest { limit: 10_000, ..whole.clone() },
        RangeRequest { count_only: true, ..whole.clone() },
        RangeRequest { keys_only: true, ..whole.clone() },
        RangeRequest { revision, ..whole.clone() },
        list("/registry/nothing/"),
        RangeRequest { key: format!("{CONFIGMAPS}a/0007").into(), ..RangeRequest::default() },
        whole.clone(),
    ] {
        let expected = direct.range(&request).await?.ok().context("etcd does not answer")?;
        let got = streamed(&through, &request).await?;
        let (got, _) = got.map_err(|refused| anyhow::anyhow!("{request:?}: {refused:?}"))?;
        ensure!(got == expected, "{request:?}: {} keys, count {}", got.kvs.len(), got.count);
    }
    let (_, chunks) = streamed(&through, &whole).await?.ok().context("refused")?;
    ensure!(chunks > 4, "it came in {chunks} chunks");
    // Where it was cut so far, a page is a hundred times as large now as it should be.
    for number in 100..200 {
        direct.put(&format!("{CONFIGMAPS}a/{number:04}"), vec![b'w'; 70_000]).await?.ok();
    }
    let expected = direct.range(&whole).await?.ok().context("etcd does not answer")?;
    let (got, chunks) = streamed(&through, &whole).await?.ok().context("refused")?;
    ensure!(got == expected, "{} keys, count {}", got.kvs.len(), got.count);
    ensure!(chunks > 40, "it came in {chunks} chunks");
    Ok(())
}

#[tokio::test]
async fn what_etcd_does_not_stream_is_not_streamed() -> Result<()> {
    let stage = Stage::start("").await?;
    if stage.etcd.binaries().version() >= (3, 7) {
        return Ok(());
    }
    let (through, direct) = (stage.through().await?, stage.direct().await?);
    direct.put("/a/1", "1").await?.ok();
    let sorted = RangeRequest {
        sort_order: SortOrder::Descend.into(),
        sort_target: SortTarget::Create.into(),
        ..list("/a/")
    };
    // What is streamed goes on behind the last key of what came, which is not the largest one here.
    let implied = RangeRequest { sort_target: SortTarget::Mod.into(), ..list("/a/") };
    let limited = RangeRequest { limit: 1, ..implied.clone() };
    let filtered = RangeRequest { min_mod_revision: 1, ..list("/a/") };
    let both = RangeRequest { min_mod_revision: 1, ..sorted.clone() };
    for (request, what) in [
        (sorted, "custom sort orders"),
        (implied, "custom sort orders"),
        (limited, "custom sort orders"),
        (both, "custom sort orders"),
        (filtered, "revision filters"),
    ] {
        let (code, text) = streamed(&through, &request).await?.err().context("it streams")?;
        ensure!(
            (code, text) == (Code::Unimplemented, format!("RangeStream does not support {what}"))
        );
    }
    direct.put("/a/1", "2").await?.ok();
    let now = direct.revision().await?;
    direct.compact(now).await?;
    let (code, text) = streamed(&through, &RangeRequest { revision: 2, ..list("/a/") })
        .await?
        .err()
        .context("it streams the past")?;
    ensure!(code == Code::OutOfRange && text.contains("compacted"), "{code:?} {text}");
    Ok(())
}
