//! Leases.

use crate::{
    arena::{Arena, Session},
    schema::number,
};
use anyhow::{Result, ensure};

#[tokio::test]
async fn lease() -> Result<()> {
    let arena = Arena::start().await?;
    arena.check("grants", grants).await;
    arena.check("a lease that the server names", chosen).await;
    arena.check("keys of a lease", keys).await;
    arena.check("keep-alives", keep_alive).await;
    arena.check("revokes", revokes).await;
    arena.check("expiry", expiry).await;
    arena.verdict()
}

async fn grants(t: &Session<'_>) -> Result<()> {
    for request in [
        "ID: 77 TTL: 100",
        "ID: 77 TTL: 100",
        "ID: -5 TTL: 100",
        "ID: 78 TTL: 1",
        "ID: 79 TTL: 0",
        "ID: 80 TTL: -1",
        "ID: 81 TTL: 9000000000",
        "ID: 82 TTL: 9000000001",
    ] {
        t.call("Lease/LeaseGrant", request).await?;
    }
    for id in [78, 79, 80] {
        t.call("Lease/LeaseRevoke", &format!("ID: {id}")).await?;
    }
    t.call("Lease/LeaseLeases", "").await?;
    Ok(())
}

async fn chosen(t: &Session<'_>) -> Result<()> {
    let granted = t.quietly("Lease/LeaseGrant", "TTL: 600").await?;
    let id = number("Lease/LeaseGrant", &granted, "ID")?;
    ensure!(id > 0, "an id of {id}");
    Ok(())
}

async fn keys(t: &Session<'_>) -> Result<()> {
    t.ok("Lease/LeaseGrant", "ID: 500 TTL: 600").await?;
    for key in ["b", "a", "c"] {
        t.ok("KV/Put", &format!("key: '/lease/{key}' value: 'x' lease: 500")).await?;
    }
    t.ok("KV/Put", "key: '/lease/c' value: 'y'").await?;
    t.ok("KV/Put", "key: '/lease/b' value: 'y' ignore_lease: true prev_kv: true").await?;
    t.call("KV/Range", "key: '/lease/' range_end: '/lease0'").await?;
    t.call("KV/Txn", "compare { key: '/lease/a' target: LEASE lease: 500 }").await?;
    for request in ["ID: 500", "ID: 500 keys: true", "ID: 404", "ID: 404 keys: true", "ID: 0", ""] {
        t.call("Lease/LeaseTimeToLive", request).await?;
    }
    Ok(())
}

async fn keep_alive(t: &Session<'_>) -> Result<()> {
    let mut stream = t.open_with("Lease/LeaseKeepAlive", &[("hasleader", "true")]).await?;
    for id in [500, 77, -5, 404, 0, 500] {
        stream.send(&format!("ID: {id}"))?;
        stream.next().await?;
    }
    for id in [77, 500, 404] {
        stream.send(&format!("ID: {id}"))?;
    }
    for _ in 0..3 {
        stream.next().await?;
    }
    stream.close()?;
    stream.rest().await?;
    let mut broken = t.open("Lease/LeaseKeepAlive").await?;
    broken.send_bytes(b"\x08")?;
    broken.end().await?;
    Ok(())
}

async fn revokes(t: &Session<'_>) -> Result<()> {
    for id in [500, 500, 404, -5, 0] {
        t.call("Lease/LeaseRevoke", &format!("ID: {id}")).await?;
    }
    t.call("KV/Range", "key: '/lease/' range_end: '/lease0'").await?;
    t.call("KV/Put", "key: '/lease/a' lease: 500").await?;
    Ok(())
}

async fn expiry(t: &Session<'_>) -> Result<()> {
    let mut watch = t.open("Watch/Watch").await?;
    watch.send("create_request { key: '/short' }")?;
    watch.next().await?;
    t.ok("Lease/LeaseGrant", "ID: 600 TTL: 1").await?;
    t.ok("KV/Put", "key: '/short' lease: 600").await?;
    watch.next().await?;
    watch.next().await?;
    Ok(())
}
