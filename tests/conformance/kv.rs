//! Ranges, puts, deletes and compaction.

use crate::arena::{Arena, Session, version};
use anyhow::Result;
use std::fmt::Write;

#[tokio::test]
async fn kv() -> Result<()> {
    let arena = Arena::start().await?;
    arena.check("a compaction of a fresh store", fresh_compaction).await;
    arena.check("a store with ten keys", fill).await;
    arena.check("ranges", ranges).await;
    arena.check("sorted ranges", sorts).await;
    arena.check("filters by revision", filters).await;
    arena.check("puts", puts).await;
    arena.check("deletes", deletes).await;
    arena.check("compaction", compaction).await;
    arena.check("sizes", sizes).await;
    // In front of older ones Seawall streams by itself.
    if version()? >= (3, 7) {
        arena.check("streamed ranges", range_streams).await;
    }
    arena.verdict()
}

async fn fresh_compaction(t: &Session<'_>) -> Result<()> {
    for revision in [0, 0, -1, 1, 1, 6000] {
        t.call("KV/Compact", &format!("revision: {revision}")).await?;
    }
    Ok(())
}

async fn fill(t: &Session<'_>) -> Result<()> {
    for index in 0..10 {
        t.ok("KV/Put", &format!("key: '/a/{index}' value: 'value {index}'")).await?;
    }
    Ok(())
}

const ALL: &str = "key: '/a/' range_end: '/a0'";

async fn ranges(t: &Session<'_>) -> Result<()> {
    for request in [
        "",
        "key: ''  range_end: 'a'",
        "key: 'nope'",
        "key: 'nope' count_only: true",
        "key: '/a/0'",
        "key: '/a/0' revision: 5",
        "key: '/a/9' revision: 5",
        "key: '/a/0' revision: 500",
        "key: '/a/0' revision: -1",
        "key: '/a/0' serializable: true",
        "key: '/a/0' keys_only: true",
        "key: '/a/0' count_only: true",
        "key: 'b' range_end: 'a'",
        "key: 'b' range_end: 'b'",
        "key: '/a/5' range_end: '\\000'",
        "key: '\\000' range_end: '\\000'",
        "key: '\\000' range_end: '\\000' count_only: true limit: 1",
        "key: '/a/3' range_end: '/a/5'",
    ] {
        t.call("KV/Range", request).await?;
    }
    for options in [
        "",
        "limit: 2",
        "limit: 9",
        "limit: 10",
        "limit: 11",
        "limit: -1",
        "limit: 2 keys_only: true",
        "limit: 2 count_only: true",
        "count_only: true keys_only: true",
        "revision: 7",
        "revision: 7 limit: 3",
        "revision: 7 count_only: true",
        "serializable: true",
        "serializable: true limit: 3",
    ] {
        t.call("KV/Range", &format!("{ALL} {options}")).await?;
    }
    Ok(())
}

async fn sorts(t: &Session<'_>) -> Result<()> {
    for index in 1..=5 {
        t.ok("KV/Put", &format!("key: '/s/{index}' value: '{}'", 6 - index)).await?;
    }
    for target in ["KEY", "VERSION", "CREATE", "MOD", "VALUE"] {
        for order in ["NONE", "ASCEND", "DESCEND"] {
            for options in ["", "limit: 2", "limit: 2 keys_only: true", "count_only: true"] {
                let sort = format!("sort_target: {target} sort_order: {order} {options}");
                t.call("KV/Range", &format!("key: '/s/' range_end: '/s0' {sort}")).await?;
            }
        }
    }
    // Older versions end on these.
    if t.version() >= (3, 6) {
        t.call("KV/Range", &format!("{ALL} sort_target: 7")).await?;
        t.call("KV/Range", &format!("{ALL} sort_target: 7 sort_order: ASCEND")).await?;
        t.call("KV/Range", &format!("{ALL} sort_order: 7")).await?;
    }
    Ok(())
}

async fn filters(t: &Session<'_>) -> Result<()> {
    for field in
        ["min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"]
    {
        for value in [6, -1, 1000] {
            for options in ["", "limit: 2", "count_only: true"] {
                t.call("KV/Range", &format!("{ALL} {field}: {value} {options}")).await?;
            }
        }
    }
    let last = "sort_target: CREATE sort_order: DESCEND max_create_revision: 8 limit: 1";
    t.call("KV/Range", &format!("{ALL} {last}")).await?;
    Ok(())
}

async fn puts(t: &Session<'_>) -> Result<()> {
    for request in [
        "",
        "value: 'without a key'",
        "key: '/p' value: '1'",
        "key: '/p' value: '1'",
        "key: '/p' value: '2' prev_kv: true",
        "key: '/p' ignore_value: true",
        "key: '/p' ignore_value: true prev_kv: true",
        "key: '/p' ignore_value: true value: 'given'",
        "key: '/p' value: '3' ignore_lease: true",
        "key: '/p' value: '3' ignore_lease: true lease: 5",
        "key: '/missing' ignore_value: true",
        "key: '/missing' value: 'x' ignore_lease: true",
        "key: '/missing' value: 'x' lease: 12345",
        "key: '/first' value: 'x' prev_kv: true",
        "key: '/empty'",
        "key: '\\000\\377' value: '\\000\\377'",
    ] {
        t.call("KV/Put", request).await?;
    }
    t.call("KV/Range", "key: '\\000' range_end: '\\000'").await?;
    Ok(())
}

async fn deletes(t: &Session<'_>) -> Result<()> {
    for request in [
        "",
        "key: 'nope'",
        "key: '/p' prev_kv: true",
        "key: '/p'",
        "key: 'b' range_end: 'a'",
        "key: '/s/' range_end: '/s/3' prev_kv: true",
        "key: '/s/' range_end: '/s0'",
        "key: '\\000\\377' range_end: '\\000\\377'",
    ] {
        t.call("KV/DeleteRange", request).await?;
    }
    t.call("KV/Range", "key: '/' range_end: '/z'").await?;
    Ok(())
}

async fn compaction(t: &Session<'_>) -> Result<()> {
    for request in [
        "revision: 6",
        "revision: 6",
        "revision: 5",
        "revision: 6000",
        "revision: 7 physical: true",
    ] {
        t.call("KV/Compact", request).await?;
    }
    for revision in [6, 7, 8] {
        t.call("KV/Range", &format!("{ALL} revision: {revision}")).await?;
    }
    t.call("KV/Range", "key: '/a/0' revision: 6 serializable: true").await?;
    Ok(())
}

async fn sizes(t: &Session<'_>) -> Result<()> {
    for bytes in [1_500_000, 1_638_400, 2 << 20, 3 << 20] {
        let value = "v".repeat(bytes);
        t.call("KV/Put", &format!("key: '/large' value: '{value}'")).await?;
    }
    let mut ops = String::new();
    for _ in 0..2 {
        write!(ops, "success {{ request_put {{ key: '/l' value: '{}' }} }}", "v".repeat(1 << 20))?;
    }
    t.call("KV/Txn", &ops).await?;
    t.call("KV/Range", "key: '/l' range_end: '/m' keys_only: true").await?;
    Ok(())
}

/// etcd before 3.7 does not know it, and says so.
async fn range_streams(t: &Session<'_>) -> Result<()> {
    for request in [
        "",
        ALL,
        "key: '/a/0'",
        "key: '/a/0' revision: 500",
        "key: '/a/0' revision: 2",
        "key: '/a/' range_end: '/a0' limit: 3",
        "key: '/a/' range_end: '/a0' count_only: true",
        "key: '/a/' range_end: '/a0' sort_order: DESCEND",
        "key: 'b' range_end: 'a'",
    ] {
        t.call("KV/RangeStream", request).await?;
    }
    Ok(())
}
