//! Users, roles and what they may do.

use crate::{
    arena::{Arena, Session},
    schema::bytes,
};
use anyhow::Result;

#[tokio::test]
async fn auth() -> Result<()> {
    let arena = Arena::start().await?;
    arena.check("before it is enabled", disabled).await;
    arena.check("users and roles", users_and_roles).await;
    arena.check_single("permissions", permissions).await;
    arena.verdict()
}

async fn disabled(t: &Session<'_>) -> Result<()> {
    t.call("Auth/AuthStatus", "").await?;
    t.call("Auth/Authenticate", "name: 'root' password: 'secret'").await?;
    t.call("Auth/AuthEnable", "").await?;
    t.call("Auth/AuthDisable", "").await?;
    t.call_with("KV/Range", &[("token", "of another time")], "key: '/a'").await?;
    Ok(())
}

async fn users_and_roles(t: &Session<'_>) -> Result<()> {
    for (method, request) in [
        ("UserAdd", ""),
        ("UserAdd", "name: 'root' password: 'secret'"),
        ("UserAdd", "name: 'root' password: 'secret'"),
        ("UserAdd", "name: 'ann' password: 'pass'"),
        ("UserAdd", "name: 'cert' options { no_password: true }"),
        ("UserGet", "name: 'ann'"),
        ("UserGet", "name: 'nobody'"),
        ("UserList", ""),
        ("UserChangePassword", "name: 'ann' password: 'word'"),
        ("UserChangePassword", "name: 'nobody' password: 'word'"),
        ("RoleAdd", ""),
        ("RoleAdd", "name: 'root'"),
        ("RoleAdd", "name: 'reader'"),
        ("RoleAdd", "name: 'reader'"),
        (
            "RoleGrantPermission",
            "name: 'reader' perm { permType: READ key: '/a/' range_end: '/a0' }",
        ),
        ("RoleGrantPermission", "name: 'reader' perm { permType: READWRITE key: '/b' }"),
        ("RoleGrantPermission", "name: 'nobody' perm { key: '/b' }"),
        ("RoleGet", "role: 'reader'"),
        ("RoleGet", "role: 'nobody'"),
        ("RoleList", ""),
        ("UserGrantRole", "user: 'ann' role: 'reader'"),
        ("UserGrantRole", "user: 'ann' role: 'nobody'"),
        ("UserGrantRole", "user: 'nobody' role: 'reader'"),
        ("UserGet", "name: 'ann'"),
        ("UserRevokeRole", "name: 'ann' role: 'nobody'"),
        ("RoleRevokePermission", "role: 'reader' key: '/nope'"),
        ("AuthEnable", ""),
        ("UserGrantRole", "user: 'root' role: 'root'"),
        ("UserDelete", "name: 'cert'"),
        ("UserDelete", "name: 'cert'"),
        ("RoleDelete", "role: 'nobody'"),
    ] {
        t.call(&format!("Auth/{method}"), request).await?;
    }
    // 3.4 ends on this.
    if t.version() >= (3, 5) {
        t.call("Auth/RoleGrantPermission", "name: 'reader'").await?;
    }
    Ok(())
}

async fn permissions(t: &Session<'_>) -> Result<()> {
    t.ok("KV/Put", "key: '/a/1' value: '1'").await?;
    t.ok("KV/Put", "key: '/c' value: '1'").await?;
    t.ok("Lease/LeaseGrant", "ID: 70 TTL: 600").await?;
    t.ok("Auth/AuthEnable", "").await?;
    t.call("Auth/Authenticate", "name: 'root' password: 'wrong'").await?;
    t.call("Auth/Authenticate", "name: 'nobody' password: 'wrong'").await?;
    t.call("Auth/Authenticate", "").await?;
    let ann = token(t, "name: 'ann' password: 'word'").await?;
    let root = token(t, "name: 'root' password: 'secret'").await?;
    let ann: &[(&str, &str)] = &[("token", &ann)];
    let bearer = format!("Bearer {}", root);
    let everyone: [&[(&str, &str)]; 5] =
        [&[], &[("token", "nonsense")], ann, &[("token", &root)], &[("authorization", &bearer)]];
    for who in everyone {
        for (method, request) in [
            ("KV/Range", "key: '/a/1'"),
            ("KV/Range", "key: '/a/' range_end: '/a0'"),
            ("KV/Range", "key: '/a/' range_end: '/b'"),
            ("KV/Range", "key: '/c'"),
            ("KV/Range", "key: '/c' serializable: true"),
            ("KV/Put", "key: '/a/1' value: '2'"),
            ("KV/Put", "key: '/b' value: '2'"),
            ("KV/DeleteRange", "key: '/b'"),
            (
                "KV/Txn",
                "success { request_put { key: '/b' } } success { request_range { key: '/c' } }",
            ),
            ("KV/Txn", "compare { key: '/c' }"),
            ("KV/Txn", ""),
            ("KV/Compact", "revision: 1"),
            ("Lease/LeaseTimeToLive", "ID: 70 keys: true"),
            ("Lease/LeaseGrant", "ID: 70 TTL: 600"),
            ("Auth/UserGet", "name: 'ann'"),
            ("Auth/UserGet", "name: 'root'"),
            ("Auth/UserList", ""),
            ("Auth/AuthStatus", ""),
            ("Maintenance/Status", ""),
            ("Maintenance/HashKV", ""),
            ("Maintenance/Defragment", ""),
            ("Cluster/MemberList", ""),
            ("Maintenance/Alarm", ""),
        ] {
            let who: Vec<_> = who.to_vec();
            t.call_as(method, &who, request).await?;
        }
        let mut watch = t.open_with("Watch/Watch", who).await?;
        for key in ["/a/1", "/c"] {
            watch.send(&format!("create_request {{ key: '{key}' }}"))?;
            watch.next().await?;
        }
    }
    t.call_as("Auth/AuthDisable", ann, "").await?;
    t.call_as("Auth/AuthDisable", &[("token", &root)], "").await?;
    t.call("KV/Range", "key: '/c'").await?;
    Ok(())
}

async fn token(t: &Session<'_>, who: &str) -> Result<String> {
    let answer = t.ok("Auth/Authenticate", who).await?;
    Ok(String::from_utf8(bytes("Auth/Authenticate", &answer, "token")?.into())?)
}
