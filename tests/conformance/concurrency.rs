//! `Lock`, `Election` and `Health`.

use crate::{
    arena::{Arena, Session},
    schema::{bytes, number, quoted},
};
use anyhow::Result;

#[tokio::test]
async fn concurrency() -> Result<()> {
    let arena = Arena::start().await?;
    arena.check("leases", leases).await;
    arena.check("locks", locks).await;
    arena.check("elections", elections).await;
    arena.check("health", health).await;
    arena.verdict()
}

async fn leases(t: &Session<'_>) -> Result<()> {
    for id in [100, 200] {
        t.ok("Lease/LeaseGrant", &format!("ID: {id} TTL: 600")).await?;
    }
    Ok(())
}

async fn locks(t: &Session<'_>) -> Result<()> {
    let locked = t.ok("Lock/Lock", "name: 'lock' lease: 100").await?;
    let key = quoted(&bytes("Lock/Lock", &locked, "key")?);
    // The second waits until the first is gone.
    let mut waiting = t.open("Lock/Lock").await?;
    waiting.send("name: 'lock' lease: 200")?;
    waiting.close()?;
    let mut watch = t.open("Watch/Watch").await?;
    watch.send("create_request { key: 'lock/' range_end: 'lock0' start_revision: 1 }")?;
    watch.message().await?;
    // The two keys, in one response or two.
    let mut seen = 0;
    while seen < 2 {
        let message = watch.message().await?;
        seen += crate::schema::count("Watch/Watch", &message, "events")?;
    }
    t.call("Lock/Unlock", &format!("key: {key}")).await?;
    waiting.rest().await?;
    t.call("KV/Range", "key: 'lock/' range_end: 'lock0'").await?;
    for (method, request) in [
        ("Lock/Lock", "name: 'lock' lease: 404"),
        ("Lock/Unlock", "key: 'lock/404'"),
        ("Lock/Unlock", ""),
    ] {
        t.call(method, request).await?;
    }
    Ok(())
}

async fn elections(t: &Session<'_>) -> Result<()> {
    t.call("Election/Leader", "name: 'poll'").await?;
    let mut observed = t.open("Election/Observe").await?;
    observed.send("name: 'poll'")?;
    observed.close()?;
    let won = t.ok("Election/Campaign", "name: 'poll' lease: 100 value: 'first'").await?;
    observed.next().await?;
    let key = quoted(&bytes("Election/Campaign", &won, "leader.key")?);
    let revision = number("Election/Campaign", &won, "leader.rev")?;
    let leader = format!("leader {{ name: 'poll' key: {key} rev: {revision} lease: 100 }}");
    t.call("Election/Leader", "name: 'poll'").await?;
    t.call("Election/Proclaim", &format!("{leader} value: 'second'")).await?;
    observed.next().await?;
    t.call("Election/Resign", &leader).await?;
    t.call("Election/Proclaim", &format!("{leader} value: 'third'")).await?;
    t.call("Election/Leader", "name: 'poll'").await?;
    t.call("Election/Campaign", "name: 'poll' lease: 404").await?;
    t.call("Election/Campaign", "name: 'poll' lease: 200 value: 'next'").await?;
    observed.next().await?;
    for method in ["Election/Proclaim", "Election/Resign"] {
        t.call(method, "").await?;
    }
    Ok(())
}

async fn health(t: &Session<'_>) -> Result<()> {
    t.call("Health/Check", "").await?;
    t.call("Health/Check", "service: 'nobody'").await?;
    for service in ["", "nobody"] {
        let mut watch = t.open("Health/Watch").await?;
        watch.send(&format!("service: '{service}'"))?;
        watch.close()?;
        watch.next().await?;
    }
    Ok(())
}
