//! Values, passwords and tokens stay what they are.

use crate::{Stage, operator, schema};
use anyhow::{Result, ensure};
use seawall::etcd::method::Method;

/// In everything that is nobody's business.
const CANARY: &str = "canary7f3a";

/// Every method that carries a value, a password or a token, each with requests that pass and that
/// do not.
fn requests() -> Vec<(&'static str, String)> {
    let with = |text: &str| text.replace("SECRET", CANARY);
    [
        ("KV/Put", "key: '/a' value: 'SECRET'"),
        ("KV/Put", "key: '/a' value: 'SECRET' prev_kv: true"),
        ("KV/Put", "key: '/frozen/a' value: 'SECRET'"),
        ("KV/Put", "key: '' value: 'SECRET'"),
        ("KV/Txn", "compare { key: '/a' target: VALUE value: 'SECRET' } success { request_put { key: '/b' value: 'SECRET' } } failure { request_range { key: '/a' } }"),
        ("KV/Txn", "success { request_put { key: '/frozen/b' value: 'SECRET' } }"),
        ("KV/Range", "key: '/' range_end: '0'"),
        ("KV/Range", "key: '/' range_end: '0' sort_order: DESCEND sort_target: VALUE"),
        ("KV/RangeStream", "key: '/' range_end: '0'"),
        ("KV/DeleteRange", "key: '/b' prev_kv: true"),
        ("Lock/Lock", "name: '/lock'"),
        ("Lease/LeaseGrant", "ID: 9 TTL: 600"),
        ("Election/Campaign", "name: '/e' lease: 9 value: 'SECRET'"),
        ("Election/Leader", "name: '/e'"),
        ("Election/Proclaim", "leader { name: '/e' key: '/e/9' rev: 1 lease: 9 } value: 'SECRET'"),
        ("Auth/UserAdd", "name: 'ann' password: 'SECRET'"),
        ("Auth/UserChangePassword", "name: 'ann' password: 'SECRET'"),
        ("Auth/Authenticate", "name: 'ann' password: 'SECRET'"),
        ("Maintenance/Snapshot", ""),
    ]
    .into_iter()
    .map(|(method, text)| (method, with(text)))
    .collect()
}

#[tokio::test]
async fn no_value_password_or_token_is_shown_anywhere() -> Result<()> {
    let config = "
attribution: {slow: 1ms, heavy: 1B, log_per_minute: 100000}
protection: {rules: [{name: frozen, match: {prefixes: [/frozen]}, read_only: true}]}
access: {mode: observe, grants: [{clients: [nobody], verbs: [status]}]}
";
    let stage = Stage::with(config, &["--log-level", "trace"]).await?;
    let client = stage.named("client").await?;
    let metadata = [
        ("token", CANARY),
        ("authorization", CANARY),
        ("seawall-override", CANARY),
        ("x-anything", CANARY),
    ];
    let mut watching = client.client.call(Method::Watch.path(), &[]).await?;
    let create = "create_request { key: '/' range_end: '0' prev_kv: true }";
    watching.send(&schema::encode(schema::method("Watch/Watch")?.input(), create)?)?;
    watching.message().await?;
    for (method, request) in requests() {
        client.call(method, &request).await?;
        client.call_with(method, &metadata, &request).await?;
    }
    watching.message().await?;
    // No message of any kind.
    client.client.unary(Method::Put.path(), &[], CANARY.as_bytes()).await?;

    let admin = stage.seawall.admin()?;
    for path in ["/metrics", "/status", "/top", "/protection", "/mirror", "/readyz?verbose", "/"] {
        let (_, page) = operator::get(admin, path).await?;
        ensure!(!page.contains(CANARY), "{path} shows it: {page}");
    }
    let log = stage.seawall.log();
    ensure!(log.len() > 1_000, "the log says little: {}", log.len());
    let bytes = format!("{:?}", CANARY.as_bytes());
    for line in &log {
        let text = format!("{line:?}");
        ensure!(!text.contains(CANARY) && !text.contains(&bytes), "{text}");
    }
    Ok(())
}
