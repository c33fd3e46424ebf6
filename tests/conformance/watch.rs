//! Watches from creation to their end.

use crate::{
    arena::{Arena, Session},
    schema::number,
};
use anyhow::{Result, ensure};
use futures_util::future::try_join_all;

#[tokio::test]
async fn watch() -> Result<()> {
    let arena = Arena::start().await?;
    check(&arena).await;
    arena.check_single("all keys", everything).await;
    arena.verdict()
}

/// The same from memory.
#[tokio::test]
async fn mirrored_watch() -> Result<()> {
    let arena = Arena::mirrored().await?;
    check(&arena).await;
    let sent = arena.metric("seawall_mirror_watch_events_total").await?;
    ensure!(sent > 1000.0, "only {sent} events came from memory");
    arena.verdict()
}

#[tokio::test]
async fn large_mirrored_watch_responses() -> Result<()> {
    let arena = Arena::mirrored().await?;
    arena.check("fragments", fragments).await;
    let sent = arena.metric("seawall_mirror_watch_events_total").await?;
    ensure!(sent == 40.0, "{sent} events came from memory");
    arena.verdict()
}

async fn check(arena: &Arena) {
    arena.check("ids", ids).await;
    arena.check("pipelined creates", pipelined).await;
    arena.check("events", events).await;
    arena.check("filters and prev_kv", filters).await;
    arena.check("several watchers of a stream", several).await;
    arena.check("replay", replay).await;
    arena.check("a revision to come", future).await;
    arena.check("cancels", cancels).await;
    arena.check("progress requests", progress).await;
    arena.check("requests without meaning", meaningless).await;
    arena.check("a client that has said all", half_closed).await;
    arena.check("a lease that is revoked", revoke).await;
    arena.check("transactions are one response", atomic).await;
    arena.check("a compacted start", compacted).await;
    arena.check("catching up", catch_up).await;
}

#[tokio::test]
async fn large_watch_responses() -> Result<()> {
    let arena = Arena::start().await?;
    arena.check("fragments", fragments).await;
    arena.verdict()
}

/// A member tells progress by itself at an interval that a flag sets.
#[tokio::test]
async fn progress_notify() -> Result<()> {
    let flag = match crate::arena::version()? {
        (3, minor) if minor >= 6 => "--watch-progress-notify-interval=200ms",
        _ => "--experimental-watch-progress-notify-interval=200ms",
    };
    let arena = Arena::start_with(&[flag]).await?;
    arena.check("progress by itself", notified).await;
    arena.verdict()
}

async fn notified(t: &Session<'_>) -> Result<()> {
    let mut watch = t.open("Watch/Watch").await?;
    watch.send("create_request { key: '/a' progress_notify: true }")?;
    watch.next().await?;
    watch.next().await?;
    watch.next().await?;
    Ok(())
}

async fn ids(t: &Session<'_>) -> Result<()> {
    let mut watch = t.open("Watch/Watch").await?;
    for create in [
        "key: '/a'",
        "key: '/a' watch_id: 5",
        "key: '/a' watch_id: 5",
        "key: '/a' watch_id: 5 start_revision: 1",
        "key: '/a'",
        "key: '/a' watch_id: 2",
        "key: '/a'",
        "key: 'b' range_end: 'a'",
        "key: 'b' range_end: 'b'",
        "key: '/a'",
        "key: '/a' watch_id: -7",
        "key: '/a' watch_id: -1",
        "key: '/a' watch_id: 9223372036854775807",
    ] {
        watch.send(&format!("create_request {{ {create} }}"))?;
        watch.next().await?;
    }
    Ok(())
}

/// Seawall with two clusters refuses these.
async fn everything(t: &Session<'_>) -> Result<()> {
    for create in [
        "",
        "range_end: '\\000'",
        "key: '\\000' range_end: '\\000'",
        "key: '/b' range_end: '\\000'",
    ] {
        let mut watch = t.open("Watch/Watch").await?;
        watch.send(&format!("create_request {{ {create} }}"))?;
        watch.next().await?;
        t.ok("KV/Put", "key: '/everything' value: 'x'").await?;
        t.ok("KV/Put", "key: '\\000' value: 'x'").await?;
        watch.next().await?;
    }
    Ok(())
}

async fn pipelined(t: &Session<'_>) -> Result<()> {
    let mut watch = t.open("Watch/Watch").await?;
    for create in
        ["key: '/a'", "key: 'b' range_end: 'a'", "key: '/b'", "key: '/c' watch_id: 9", "key: '/d'"]
    {
        watch.send(&format!("create_request {{ {create} }}"))?;
    }
    for _ in 0..5 {
        watch.next().await?;
    }
    Ok(())
}

async fn events(t: &Session<'_>) -> Result<()> {
    let mut watch = t.open_with("Watch/Watch", &[("hasleader", "true")]).await?;
    watch.send("create_request { key: '/e/' range_end: '/e0' }")?;
    watch.next().await?;
    for (method, request) in [
        ("KV/Put", "key: '/e/1' value: '1'"),
        ("KV/Put", "key: '/e/1' value: '1'"),
        ("KV/Put", "key: '/elsewhere' value: '1'"),
        ("KV/Put", "key: '/e/2' value: '2'"),
        ("KV/DeleteRange", "key: '/e/' range_end: '/e0'"),
        ("KV/DeleteRange", "key: '/e/' range_end: '/e0'"),
        ("KV/Put", "key: '/e/1' value: 'again'"),
    ] {
        t.ok(method, request).await?;
    }
    for _ in 0..5 {
        watch.next().await?;
    }
    Ok(())
}

async fn filters(t: &Session<'_>) -> Result<()> {
    for (key, options) in [
        ("/f/1", "prev_kv: true"),
        ("/f/2", "filters: NOPUT"),
        ("/f/3", "filters: NODELETE"),
        ("/f/4", "filters: NOPUT prev_kv: true"),
    ] {
        let mut watch = t.open("Watch/Watch").await?;
        watch.send(&format!("create_request {{ key: '{key}' {options} }}"))?;
        watch.next().await?;
        t.ok("KV/Put", &format!("key: '{key}' value: '1'")).await?;
        t.ok("KV/Put", &format!("key: '{key}' value: '2'")).await?;
        t.ok("KV/DeleteRange", &format!("key: '{key}'")).await?;
        t.ok("KV/Put", &format!("key: '{key}' value: '3'")).await?;
        t.ok("KV/DeleteRange", &format!("key: '{key}'")).await?;
        let count = match options {
            "prev_kv: true" => 5,
            "filters: NODELETE" => 3,
            _ => 2,
        };
        for _ in 0..count {
            watch.next().await?;
        }
    }
    let mut both = t.open("Watch/Watch").await?;
    both.send("create_request { key: '/f/5' filters: [NOPUT, NODELETE] }")?;
    both.send("create_request { key: '/f/fence' }")?;
    both.next().await?;
    both.next().await?;
    t.ok("KV/Put", "key: '/f/5'").await?;
    t.ok("KV/Put", "key: '/f/fence'").await?;
    both.next().await?;
    Ok(())
}

async fn several(t: &Session<'_>) -> Result<()> {
    let mut watch = t.open("Watch/Watch").await?;
    for create in [
        "key: '/w/1'",
        "key: '/w/' range_end: '/w0'",
        "key: '/w/1'",
        "key: '/w/2' range_end: '/w/3'",
    ] {
        watch.send(&format!("create_request {{ {create} }}"))?;
        watch.next().await?;
    }
    t.ok("KV/Put", "key: '/w/1' value: '1'").await?;
    watch.next_in_any_order(3).await?;
    t.ok("KV/Put", "key: '/w/2' value: '2'").await?;
    watch.next_in_any_order(2).await?;
    Ok(())
}

async fn replay(t: &Session<'_>) -> Result<()> {
    let mut first = 0;
    for index in 0..5 {
        let put = t.ok("KV/Put", &format!("key: '/r/{index}' value: '{index}'")).await?;
        if index == 0 {
            first = number("KV/Put", &put, "header.revision")?;
        }
    }
    t.ok("KV/DeleteRange", "key: '/r/' range_end: '/r/2'").await?;
    for options in ["", "prev_kv: true", "filters: NOPUT", "filters: NODELETE", "fragment: true"] {
        for start in [first, first + 3] {
            let mut watch = t.open("Watch/Watch").await?;
            watch.send(&format!(
                "create_request {{ key: '/r/' range_end: '/r0' start_revision: {start} {options} }}"
            ))?;
            watch.next().await?;
            watch.next().await?;
        }
    }
    Ok(())
}

async fn future(t: &Session<'_>) -> Result<()> {
    let put = t.ok("KV/Put", "key: '/later' value: '0'").await?;
    let now = number("KV/Put", &put, "header.revision")?;
    let mut watch = t.open("Watch/Watch").await?;
    watch.send(&format!("create_request {{ key: '/later' start_revision: {} }}", now + 3))?;
    watch.next().await?;
    for _ in 0..4 {
        t.ok("KV/Put", "key: '/later' value: '0'").await?;
    }
    watch.next().await?;
    watch.next().await?;
    Ok(())
}

async fn cancels(t: &Session<'_>) -> Result<()> {
    let mut watch = t.open("Watch/Watch").await?;
    watch.send("create_request { key: '/a' }")?;
    watch.next().await?;
    watch.send("cancel_request { watch_id: 77 }")?;
    watch.send("cancel_request { watch_id: -1 }")?;
    watch.send("cancel_request { watch_id: 0 }")?;
    watch.next().await?;
    // Silence, as the next answer shows.
    watch.send("cancel_request { watch_id: 0 }")?;
    watch.send("create_request { key: '/a' }")?;
    watch.next().await?;
    watch.send("create_request { key: '/a' watch_id: 40 }")?;
    watch.next().await?;
    watch.send("cancel_request { watch_id: 40 }")?;
    watch.next().await?;
    watch.send("create_request { key: '/a' watch_id: 40 }")?;
    watch.next().await?;
    t.ok("KV/Put", "key: '/a' value: 'x'").await?;
    watch.next_in_any_order(2).await?;
    Ok(())
}

/// Asked again until answered, since etcd drops requests as it likes.
async fn progress(t: &Session<'_>) -> Result<()> {
    let mut watch = t.open("Watch/Watch").await?;
    watch.send("create_request { key: '/a' }")?;
    watch.next().await?;
    watch.send("create_request { key: '/b' }")?;
    watch.next().await?;
    watch.send("progress_request {}")?;
    watch.next().await?;
    t.ok("KV/Put", "key: '/elsewhere' value: 'x'").await?;
    watch.send("progress_request {}")?;
    watch.next().await?;
    // A stream without watchers: 3.4 answers, others are silent.
    let mut empty = t.open("Watch/Watch").await?;
    empty.send("progress_request {}")?;
    if t.version() < (3, 5) {
        empty.next().await?;
    }
    empty.send("create_request { key: '/a' }")?;
    empty.next().await?;
    Ok(())
}

async fn meaningless(t: &Session<'_>) -> Result<()> {
    let mut watch = t.open("Watch/Watch").await?;
    watch.send("")?;
    watch.send("create_request { key: '/a' }")?;
    watch.next().await?;
    // A kind of request that nobody knows.
    watch.send_bytes(b"\x52\x00")?;
    watch.send("create_request { key: '/a' }")?;
    watch.next().await?;
    let mut broken = t.open("Watch/Watch").await?;
    broken.send_bytes(b"\x0a\xff")?;
    broken.end().await?;
    Ok(())
}

async fn half_closed(t: &Session<'_>) -> Result<()> {
    let mut watch = t.open("Watch/Watch").await?;
    watch.send("create_request { key: '/h' }")?;
    watch.next().await?;
    watch.close()?;
    for _ in 0..3 {
        t.ok("KV/Put", "key: '/h' value: 'x'").await?;
        watch.next().await?;
    }
    Ok(())
}

async fn revoke(t: &Session<'_>) -> Result<()> {
    t.ok("Lease/LeaseGrant", "ID: 4321 TTL: 600").await?;
    for key in ["c", "a", "b"] {
        t.ok("KV/Put", &format!("key: '/l/{key}' lease: 4321")).await?;
    }
    let mut watch = t.open("Watch/Watch").await?;
    watch.send("create_request { key: '/l/' range_end: '/l0' prev_kv: true }")?;
    watch.next().await?;
    t.ok("Lease/LeaseRevoke", "ID: 4321").await?;
    watch.next().await?;
    Ok(())
}

async fn atomic(t: &Session<'_>) -> Result<()> {
    let mut watch = t.open("Watch/Watch").await?;
    watch.send("create_request { key: '/t/' range_end: '/t0' prev_kv: true }")?;
    watch.next().await?;
    let puts = "success { request_put { key: '/t/2' } } success { request_put { key: '/t/1' } }
        success { request_put { key: '/u' } } success { request_put { key: '/t/3' } }";
    t.ok("KV/Txn", puts).await?;
    watch.next().await?;
    let changes = "success { request_put { key: '/t/4' } }
        success { request_delete_range { key: '/t/1' range_end: '/t/4' } }";
    t.ok("KV/Txn", changes).await?;
    watch.next().await?;
    Ok(())
}

async fn compacted(t: &Session<'_>) -> Result<()> {
    let put = t.ok("KV/Put", "key: '/z' value: '1'").await?;
    let now = number("KV/Put", &put, "header.revision")?;
    t.ok("KV/Put", "key: '/z' value: '2'").await?;
    t.ok("KV/Compact", &format!("revision: {now}")).await?;
    let mut watch = t.open("Watch/Watch").await?;
    watch.send("create_request { key: '/z' start_revision: 2 }")?;
    watch.next().await?;
    watch.next().await?;
    watch.send("cancel_request { watch_id: 0 }")?;
    watch.next().await?;
    for start in [now, now + 1] {
        watch.send(&format!("create_request {{ key: '/z' start_revision: {start} }}"))?;
        watch.next().await?;
        watch.next().await?;
    }
    let mut negative = t.open("Watch/Watch").await?;
    negative.send("create_request { key: '/z' start_revision: -1 }")?;
    negative.next().await?;
    if t.version() < (3, 5) {
        negative.next().await?;
    }
    Ok(())
}

/// etcd sends the events of a thousand revisions at once.
async fn catch_up(t: &Session<'_>) -> Result<()> {
    let put = t.ok("KV/Put", "key: '/many' value: '0'").await?;
    let first = number("KV/Put", &put, "header.revision")?;
    let puts = (0..1200).map(|_| t.quietly("KV/Put", "key: '/many' value: '0'"));
    try_join_all(puts).await?;
    let mut watch = t.open("Watch/Watch").await?;
    watch.send(&format!("create_request {{ key: '/many' start_revision: {first} }}"))?;
    for _ in 0..3 {
        watch.next().await?;
    }
    Ok(())
}

async fn fragments(t: &Session<'_>) -> Result<()> {
    let value = "v".repeat(400_000);
    let mut first = 0;
    for index in 0..20 {
        let put = t.ok("KV/Put", &format!("key: '/big/{index:02}' value: '{value}'")).await?;
        if index == 0 {
            first = number("KV/Put", &put, "header.revision")?;
        }
    }
    for (fragment, messages) in [(false, 1), (true, 4)] {
        let mut watch = t.open("Watch/Watch").await?;
        watch.send(&format!(
            "create_request {{ key: '/big/' range_end: '/big0' start_revision: {first} fragment: {fragment} }}"
        ))?;
        watch.next().await?;
        for _ in 0..messages {
            watch.next().await?;
        }
    }
    Ok(())
}
