//! Transactions.

use crate::arena::{Arena, Session};
use anyhow::Result;
use std::iter::repeat_n;

#[tokio::test]
async fn txn() -> Result<()> {
    let arena = Arena::start().await?;
    arena.check("transactions of every shape", shapes).await;
    arena.check("refused transactions", refusals).await;
    arena.check("compares", compares).await;
    arena.check("nested transactions", nested).await;
    arena.check("as Kubernetes writes", as_kubernetes).await;
    arena.verdict()
}

async fn shapes(t: &Session<'_>) -> Result<()> {
    for index in 0..5 {
        t.ok("KV/Put", &format!("key: '/a/{index}' value: '{index}'")).await?;
    }
    for request in [
        "",
        "success { request_range { key: '/a/0' } }",
        "success { request_range { key: '/a/0' serializable: true } }",
        "success { request_range { key: '/a/' range_end: '/a0' limit: 2 sort_order: DESCEND } }",
        "success { request_put { key: '/t' value: '1' } } success { request_range { key: '/t' } }",
        "success { request_put { key: '/t' value: '2' prev_kv: true } }",
        "success { request_delete_range { key: '/t' prev_kv: true } }",
        "success { request_delete_range { key: '/t' } }",
        "failure { request_put { key: '/never' value: '1' } }",
        "success { request_put { key: '/x' value: '1' } } success { request_put { key: '/y' } }
         success { request_delete_range { key: '/a/0' range_end: '/a/2' prev_kv: true } }
         success { request_range { key: '/t' range_end: '/z' } }",
    ] {
        t.call("KV/Txn", request).await?;
    }
    Ok(())
}

async fn refusals(t: &Session<'_>) -> Result<()> {
    for request in [
        "success {}",
        "failure {}",
        "compare {}",
        "compare { key: '/a' } success {}",
        "success { request_range {} }",
        "success { request_put {} }",
        "success { request_delete_range {} }",
        "success { request_range { key: '/a/0' revision: 9999 } }",
        "success { request_range { key: '/a/0' revision: -1 } }",
        "success { request_put { key: 'k' } } success { request_put { key: 'k' } }",
        "success { request_put { key: 'k' } }
         success { request_delete_range { key: 'a' range_end: 'z' } }",
        "success { request_put { key: 'k' ignore_value: true } }",
        "success { request_put { key: 'k' ignore_value: true value: '1' } }",
        "success { request_put { key: 'k' lease: 4711 } }",
    ] {
        t.call("KV/Txn", request).await?;
    }
    for count in [128, 129] {
        let put = |index| format!("success {{ request_put {{ key: '/many/{index}' }} }}");
        t.call("KV/Txn", &(0..count).map(put).collect::<String>()).await?;
        let compare = repeat_n("compare { key: 'a' }", count).collect::<String>();
        t.call("KV/Txn", &compare).await?;
        let put = |index| format!("failure {{ request_put {{ key: '/many/{index}' }} }}");
        t.call("KV/Txn", &(0..count).map(put).collect::<String>()).await?;
    }
    Ok(())
}

async fn compares(t: &Session<'_>) -> Result<()> {
    t.ok("KV/Put", "key: '/c/1' value: 'b'").await?;
    t.ok("KV/Put", "key: '/c/2' value: 'b'").await?;
    let values = [
        "target: VERSION version: 0",
        "target: VERSION version: 1",
        "target: CREATE create_revision: 0",
        "target: MOD mod_revision: 0",
        "target: MOD mod_revision: 100000",
        "target: VALUE value: 'b'",
        "target: VALUE value: ''",
        "target: LEASE lease: 0",
        // The union does not have to agree with the target, or to be there.
        "target: VALUE",
        "target: VERSION",
        "target: MOD version: 1",
    ];
    for keys in [
        "key: '/c/1'",
        "key: '/missing'",
        "key: '/c/' range_end: '/c0'",
        "key: '/n' range_end: '/o'",
    ] {
        for value in values {
            for result in ["EQUAL", "GREATER", "LESS", "NOT_EQUAL"] {
                t.call("KV/Txn", &format!("compare {{ {keys} {value} result: {result} }}")).await?;
            }
        }
    }
    Ok(())
}

async fn nested(t: &Session<'_>) -> Result<()> {
    for request in [
        "success { request_txn {} }",
        "success { request_txn { success { request_range { key: '/c/1' } } } }",
        "success { request_txn { success { request_txn { success { request_put { key: '/n' value: '1' } } } } } }",
        "success { request_txn { compare { key: '/n' target: VERSION version: 9 }
             failure { request_delete_range { key: '/n' prev_kv: true } } } }
         success { request_range { key: '/n' } }",
        "success { request_txn { success {} } }",
        "success { request_put { key: 'k' } }
         success { request_txn { success { request_put { key: 'k' } } } }",
        "success { request_txn { success { request_put { key: 'k' } } failure { request_put { key: 'k' } } } }",
    ] {
        t.call("KV/Txn", request).await?;
    }
    let deep = |depth: usize| {
        let open = "success { request_txn { ".repeat(depth);
        format!("{open} success {{ request_range {{ key: '/c/1' }} }} {}", "} } ".repeat(depth))
    };
    for depth in [2, 10, 40] {
        t.call("KV/Txn", &deep(depth)).await?;
    }
    Ok(())
}

async fn as_kubernetes(t: &Session<'_>) -> Result<()> {
    let create = "compare { target: MOD key: '/registry/pods/a' }
        success { request_put { key: '/registry/pods/a' value: 'v1' } }";
    let update = |revision, value| {
        format!(
            "compare {{ target: MOD key: '/registry/pods/a' mod_revision: {revision} }}
             success {{ request_put {{ key: '/registry/pods/a' value: '{value}' }} }}
             failure {{ request_range {{ key: '/registry/pods/a' }} }}"
        )
    };
    t.call("KV/Txn", create).await?;
    t.call("KV/Txn", create).await?;
    t.call("KV/Txn", &update(1, "stale")).await?;
    let found = t.ok("KV/Range", "key: '/registry/pods/a'").await?;
    let revision = crate::schema::number("KV/Range", &found, "kvs.mod_revision")?;
    t.call("KV/Txn", &update(revision, "v2")).await?;
    let delete = format!(
        "compare {{ target: MOD key: '/registry/pods/a' mod_revision: {} }}
         success {{ request_delete_range {{ key: '/registry/pods/a' prev_kv: true }} }}
         failure {{ request_range {{ key: '/registry/pods/a' }} }}",
        revision + 1
    );
    t.call("KV/Txn", &delete).await?;
    t.call("KV/Txn", &delete).await?;
    Ok(())
}
