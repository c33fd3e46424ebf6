//! Where keys live, and calls about keys of both clusters.

use crate::{Routed, direct, keys, refusal};
use anyhow::{Context, Result, ensure};
use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, GetResponse, PutOptions, SortOrder, SortTarget,
    Txn, TxnOp,
};
use seawall_testkit::Cluster;
use tonic::Code;

/// Cluster, member, revision and term.
fn header(answer: &GetResponse) -> Result<(u64, u64, i64, u64)> {
    let header = answer.header().context("no header")?;
    Ok((header.cluster_id(), header.member_id(), header.revision(), header.raft_term()))
}

#[tokio::test]
async fn a_routed_prefix_takes_its_bare_key_and_what_lies_below_and_nothing_else() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    let (mut main, mut events) = routed.direct().await?;
    let there = ["/registry/events", "/registry/events/", "/registry/events/default/a"];
    let here =
        ["/registry/event", "/registry/events0", "/registry/eventsources", "/registry/pods/a"];
    for key in there.iter().chain(&here) {
        client.put(*key, *key, None).await?;
        let found = client.get(*key, None).await?;
        ensure!(found.kvs()[0].value() == key.as_bytes(), "{key}: {found:?}");
    }
    assert_eq!(keys(&mut events).await?, there);
    assert_eq!(keys(&mut main).await?, here);
    let (first, second) = (main.get("a", None).await?, events.get("a", None).await?);
    for (key, owner) in [(here[0], &first), (there[0], &second)] {
        let answer = client.get(key, None).await?;
        assert_eq!(header(&answer)?, header(owner)?, "{key}");
    }
    Ok(())
}

#[tokio::test]
async fn a_transaction_of_keys_of_two_clusters_is_refused_and_writes_nothing() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    let (mut main, mut events) = routed.direct().await?;
    let (pod, event) = ("/registry/pods/a", "/registry/events/a");
    let put = |key: &str| TxnOp::put(key, "v", None);
    let absent = |key: &str| Compare::mod_revision(key, CompareOp::Equal, 0);
    let spanning = [
        Txn::new().and_then([put(pod), put(event)]),
        Txn::new().when([absent(event)]).and_then([put(pod)]),
        Txn::new().when([absent(pod)]).and_then([put(pod)]).or_else([put(event)]),
        Txn::new().and_then([put(pod), TxnOp::txn(Txn::new().and_then([put(event)]))]),
    ];
    for txn in spanning {
        let status = refusal(client.txn(txn).await)?;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        for named in [pod, event, "cluster main", "cluster events"] {
            ensure!(status.message().contains(named), "{named} is not in {:?}", status.message());
        }
    }
    for etcd in [&mut main, &mut events] {
        ensure!(keys(etcd).await?.is_empty(), "something was written");
    }
    let one = Txn::new().when([absent(event)]).and_then([put(event)]);
    ensure!(client.txn(one).await?.succeeded(), "a transaction of one cluster's keys fails");
    assert_eq!(keys(&mut events).await?, [event]);
    Ok(())
}

/// What a client sees of an answer, but for what differs between clusters: revisions and header.
fn seen(answer: &GetResponse) -> (Vec<(String, String)>, i64, bool) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let kvs = answer.kvs().iter().map(|kv| (text(kv.key()), text(kv.value()))).collect();
    (kvs, answer.count(), answer.more())
}

const SPREAD: [&str; 7] = [
    "/registry/configmaps/a",
    "/registry/events",
    "/registry/events/a",
    "/registry/events/b",
    "/registry/events0",
    "/registry/pods/a",
    "/registry/pods/b",
];

#[tokio::test]
async fn a_range_over_both_clusters_reads_as_if_one_etcd_held_all() -> Result<()> {
    let routed = Routed::start().await?;
    let whole = Cluster::single().await?;
    let (mut client, mut whole) = (routed.client().await?, direct(&whole).await?);
    for key in SPREAD {
        client.put(key, format!("of {key}"), None).await?;
        whole.put(key, format!("of {key}"), None).await?;
    }
    let plain = || GetOptions::new().with_prefix();
    let mut shapes = vec![
        plain(),
        plain().with_keys_only(),
        plain().with_count_only(),
        plain().with_serializable(),
        plain().with_sort(SortTarget::Key, SortOrder::Ascend),
        GetOptions::new().with_from_key(),
        GetOptions::new().with_range("/registry/events/b"),
        GetOptions::new().with_range("/registry/events0").with_limit(2),
    ];
    for limit in 1..=SPREAD.len() as i64 + 1 {
        shapes.push(plain().with_limit(limit));
        shapes.push(plain().with_limit(limit).with_keys_only());
    }
    for shape in shapes {
        let joined = client.get("/registry/", Some(shape.clone())).await?;
        let expected = whole.get("/registry/", Some(shape.clone())).await?;
        assert_eq!(seen(&joined), seen(&expected), "{shape:?}");
    }
    let (mut main, _) = routed.direct().await?;
    let joined = client.get("/registry/", Some(plain())).await?;
    assert_eq!(header(&joined)?, header(&main.get("a", None).await?)?);
    Ok(())
}

#[tokio::test]
async fn a_range_over_both_clusters_at_a_revision_or_in_another_order_is_refused() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    for key in SPREAD {
        client.put(key, "v", None).await?;
    }
    let plain = || GetOptions::new().with_prefix();
    let shapes = [
        plain().with_revision(2),
        plain().with_sort(SortTarget::Key, SortOrder::Descend),
        plain().with_sort(SortTarget::Mod, SortOrder::Ascend),
        plain().with_sort(SortTarget::Value, SortOrder::Descend),
        plain().with_min_mod_revision(1),
        plain().with_max_mod_revision(9),
        plain().with_min_create_revision(1),
        plain().with_max_create_revision(9),
    ];
    for shape in shapes {
        let status = refusal(client.get("/registry/", Some(shape.clone())).await)?;
        assert_eq!(status.code(), Code::InvalidArgument, "{shape:?}: {status:?}");
        ensure!(status.message().contains("/registry/"), "{:?} names no range", status.message());
        // The same of one cluster's keys is etcd's own affair.
        client.get("/registry/events/", Some(shape.clone())).await?;
        client.get("/registry/pods/", Some(shape)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_deletion_over_both_clusters_is_refused_and_deletes_nothing() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    for key in SPREAD {
        client.put(key, "v", Some(PutOptions::new())).await?;
    }
    let all = DeleteOptions::new().with_prefix();
    let status = refusal(client.delete("/registry/", Some(all.clone())).await)?;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    ensure!(status.message().contains("several etcd clusters"), "{:?}", status.message());
    assert_eq!(keys(&mut client).await?, SPREAD);
    assert_eq!(client.delete("/registry/events/", Some(all)).await?.deleted(), 2);
    assert_eq!(client.delete("/registry/events", None).await?.deleted(), 1);
    assert_eq!(keys(&mut client).await?.len(), 4);
    Ok(())
}
