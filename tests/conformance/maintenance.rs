//! `Maintenance` and `Cluster`.

use crate::{
    arena::{Arena, Session},
    client::Status,
    schema::{self, bytes, number},
};
use anyhow::{Result, ensure};

#[tokio::test]
async fn maintenance() -> Result<()> {
    let arena = Arena::start().await?;
    arena.check("a store with some keys", fill).await;
    arena.check("status", status).await;
    arena.check("alarms", alarms).await;
    arena.check("hashes", hashes).await;
    arena.check("a snapshot", snapshot).await;
    arena.check("defragmentation", defragment).await;
    arena.check("leadership", leadership).await;
    arena.check("members", members).await;
    arena.check("downgrade", downgrade).await;
    arena.verdict()
}

async fn fill(t: &Session<'_>) -> Result<()> {
    for index in 0..20 {
        let value = "v".repeat(index * 1000);
        t.ok("KV/Put", &format!("key: '/m/{index}' value: '{value}'")).await?;
    }
    t.ok("KV/DeleteRange", "key: '/m/3'").await?;
    Ok(())
}

async fn status(t: &Session<'_>) -> Result<()> {
    t.call("Maintenance/Status", "").await?;
    t.call_with("Maintenance/Status", &[("hasleader", "true")], "").await?;
    Ok(())
}

async fn alarms(t: &Session<'_>) -> Result<()> {
    t.call("Maintenance/Alarm", "").await?;
    t.call("Maintenance/Alarm", "action: ACTIVATE alarm: NOSPACE").await?;
    t.call("Maintenance/Alarm", "action: GET").await?;
    t.call("KV/Put", "key: '/m/1' value: 'no space for this'").await?;
    t.call("KV/Txn", "success { request_put { key: '/m/1' } }").await?;
    t.call("KV/Txn", "success { request_delete_range { key: '/m/1' } }").await?;
    t.call("KV/DeleteRange", "key: '/m/2'").await?;
    t.call("Lease/LeaseGrant", "ID: 9 TTL: 600").await?;
    t.call("KV/Range", "key: '/m/4' keys_only: true").await?;
    t.call("Maintenance/Status", "").await?;
    t.call("Maintenance/Alarm", "action: DEACTIVATE alarm: NOSPACE").await?;
    t.call("Maintenance/Alarm", "action: DEACTIVATE alarm: NOSPACE").await?;
    t.call("Maintenance/Alarm", "action: GET alarm: CORRUPT").await?;
    t.call("KV/Put", "key: '/m/1' value: 'space again'").await?;
    Ok(())
}

async fn hashes(t: &Session<'_>) -> Result<()> {
    let hash = t.quietly("Maintenance/Hash", "").await?;
    t.note("hash", &format!("{}", number("Maintenance/Hash", &hash, "header.revision")?));
    for revision in [0, 5, 10, 10_000] {
        t.call("Maintenance/HashKV", &format!("revision: {revision}")).await?;
    }
    t.ok("KV/Compact", "revision: 7").await?;
    for revision in [0, 5, 10] {
        t.call("Maintenance/HashKV", &format!("revision: {revision}")).await?;
    }
    Ok(())
}

/// The bytes differ from server to server; what makes a client believe them does not.
async fn snapshot(t: &Session<'_>) -> Result<()> {
    let method = "Maintenance/Snapshot";
    let path = schema::path(&schema::method(method)?);
    let reply = t.target.client.unary(&path, &[], b"").await?;
    ensure!(
        matches!(&reply.status, Status::Grpc { code: tonic::Code::Ok, .. }),
        "{}",
        reply.status
    );
    let pieces = reply.messages.iter().map(|message| bytes(method, message, "blob"));
    let pieces = pieces.collect::<Result<Vec<_>>>()?;
    let left = reply.messages.iter().map(|message| number(method, message, "remaining_bytes"));
    let left = left.collect::<Result<Vec<_>>>()?;
    let whole = pieces.concat();
    let mut sum = whole.len() as i64;
    for (piece, left) in pieces.iter().zip(left) {
        sum -= piece.len() as i64;
        // The digest at the end is not counted.
        ensure!(left == (sum - DIGEST).max(0), "{left} bytes are said to be left of {sum}");
    }
    t.note("length", &format!("{} beyond pages of 512", whole.len() % 512));
    let (database, digest) = whole.split_at(whole.len() - DIGEST as usize);
    ensure!(ring_sha256(database) == digest, "the digest is another one");
    Ok(())
}

const DIGEST: i64 = 32;

fn ring_sha256(bytes: &[u8]) -> Vec<u8> {
    let provider = rustls::crypto::ring::default_provider();
    let suites = provider.cipher_suites.iter().filter_map(|suite| match suite {
        rustls::SupportedCipherSuite::Tls13(suite) => Some(suite.common.hash_provider),
        _ => None,
    });
    let sha256 = suites.into_iter().find(|hash| hash.output_len() == 32);
    let digest = sha256.expect("TLS has SHA-256").hash(bytes);
    digest.as_ref().to_vec()
}

async fn defragment(t: &Session<'_>) -> Result<()> {
    t.call("Maintenance/Defragment", "").await?;
    t.call("KV/Range", "key: '/m/1'").await?;
    Ok(())
}

async fn leadership(t: &Session<'_>) -> Result<()> {
    t.call("Maintenance/MoveLeader", "").await?;
    t.call("Maintenance/MoveLeader", "targetID: 4711").await?;
    Ok(())
}

async fn members(t: &Session<'_>) -> Result<()> {
    let listed = t.ok("Cluster/MemberList", "").await?;
    t.call("Cluster/MemberList", "linearizable: true").await?;
    let url = bytes("Cluster/MemberList", &listed, "members.clientURLs")?;
    ensure!(url == t.target.endpoint, "clients are sent to {url:?}");
    for (method, request) in [
        ("MemberAdd", ""),
        ("MemberAdd", "peerURLs: 'not a url'"),
        ("MemberRemove", "ID: 4711"),
        ("MemberUpdate", "ID: 4711 peerURLs: 'http://127.0.0.1:1'"),
        ("MemberPromote", "ID: 4711"),
    ] {
        t.call(&format!("Cluster/{method}"), request).await?;
    }
    Ok(())
}

async fn downgrade(t: &Session<'_>) -> Result<()> {
    for request in [
        "action: VALIDATE version: '3.0'",
        "action: VALIDATE version: 'nonsense'",
        "action: CANCEL",
        "action: VALIDATE",
    ] {
        t.call("Maintenance/Downgrade", request).await?;
    }
    Ok(())
}
