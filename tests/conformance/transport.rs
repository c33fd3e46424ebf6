//! What gRPC and HTTP/2 leave open: metadata, broken bodies, methods that nobody knows, sizes.

use crate::{
    arena::{Arena, Session, head},
    client::{Reply, frame},
    schema,
};
use anyhow::{Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use tonic::Code;

#[tokio::test]
async fn transport() -> Result<()> {
    let arena = Arena::start().await?;
    arena.check("metadata", metadata).await;
    arena.check("deadlines", deadlines).await;
    arena.check("methods that nobody knows", unknown).await;
    arena.check("broken bodies", broken).await;
    arena.check("fields that nobody knows", unknown_fields).await;
    arena.check("content types", content_types).await;
    arena.verdict()
}

#[tokio::test]
async fn an_unknown_sort_does_not_reach_etcd() -> Result<()> {
    let arena = Arena::start().await?;
    for target in arena.targets.iter().filter(|target| target.seawall.is_some()) {
        for request in [
            "sort_target: 7 sort_order: ASCEND key: '/a' range_end: '/b'",
            "sort_order: 9 key: '/a' range_end: '/b'",
        ] {
            let known = schema::method("KV/Range")?;
            let message = schema::encode(known.input(), request)?;
            let reply = target.client.unary(&schema::path(&known), &[], &message).await?;
            let status = reply.status.to_string();
            ensure!(status == "InvalidArgument \"etcdserver: invalid sort option\"", "{status}");
            target.etcdctl().run(&["get", "/a"]).await?.success()?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn large_answers() -> Result<()> {
    let arena = Arena::start().await?;
    arena.check("64 MB", large).await;
    arena.verdict()
}

#[tokio::test]
async fn larger_requests_where_etcd_takes_them() -> Result<()> {
    let arena = Arena::start_with(&["--max-request-bytes=1900000"]).await?;
    arena.check("a larger request", larger).await;
    arena.verdict()
}

async fn metadata(t: &Session<'_>) -> Result<()> {
    for metadata in [
        ("hasleader", "true"),
        ("hasleader", "false"),
        ("client-api-version", "3.5"),
        ("client-api-version", "\u{fffd}"),
        ("client-api-version", ""),
        ("user-agent", "grpc-go/1.2"),
        ("grpc-accept-encoding", "gzip"),
        ("x-something", "else"),
        ("x-something-bin", "AAECAw"),
    ] {
        t.call_with("KV/Range", &[metadata], "key: '/a'").await?;
        t.call_with("KV/Put", &[metadata], "key: '/a' value: '1'").await?;
    }
    Ok(())
}

async fn deadlines(t: &Session<'_>) -> Result<()> {
    for timeout in ["10S", "1H", "99999999H", "5000m", "10000000u"] {
        t.call_with("KV/Range", &[("grpc-timeout", timeout)], "key: '/a'").await?;
    }
    // A watch lasts as long as it is given. Go resets a stream whose time is over.
    let mut watch = t.open_with("Watch/Watch", &[("grpc-timeout", "300m")]).await?;
    watch.send("create_request { key: '/a' }")?;
    watch.next().await?;
    let status = watch.quiet_rest().await?.status;
    // 3.4 says so under another code.
    let in_words = status.to_string() == "Unknown \"context deadline exceeded\"";
    let over = [None, Some(Code::DeadlineExceeded)].contains(&status.code());
    ensure!(over || in_words && t.version() < (3, 5), "{status}");
    Ok(())
}

async fn unknown(t: &Session<'_>) -> Result<()> {
    for path in [
        "/etcdserverpb.KV/RangeBackwards",
        "/etcdserverpb.Lease/Borrow",
        "/etcdserverpb.Unheard/Of",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/nonsense",
        "/",
        "/a/b/c",
    ] {
        // 3.4 has another code for what is not even a name.
        if t.version() < (3, 5) && path.matches('/').count() < 2 {
            continue;
        }
        let reply = t.target.client.raw(path, &[], &frame(b"")).await?;
        t.note(path, &seen(&reply));
    }
    Ok(())
}

fn seen(reply: &Reply) -> String {
    format!("{} {:?} {}", head(&reply.head), reply.messages, reply.status)
}

/// The words for what is broken are a decoder's own; the code is not.
async fn broken(t: &Session<'_>) -> Result<()> {
    let range = "/etcdserverpb.KV/Range";
    let bodies: [(&str, Bytes); 8] = [
        ("nothing", Bytes::new()),
        ("half a prefix", Bytes::from_static(&[0, 0])),
        ("half a message", frame(b"\x0a\x02/a").slice(..7)),
        ("a length that is not there", Bytes::from_static(&[0, 0, 0, 0, 9, 10])),
        ("a field that is cut", frame(b"\x0a\xff")),
        ("a wrong wire type", frame(b"\x08\x01")),
        ("field zero", frame(b"\x00\x00")),
        ("two messages", [frame(b"\x0a\x02/a"), frame(b"\x0a\x02/a")].concat().into()),
    ];
    for (what, body) in bodies {
        // 3.7 takes this for a field that it does not know.
        if what == "a wrong wire type" && t.version() >= (3, 7) {
            continue;
        }
        let reply = t.target.client.raw(range, &[], &body).await?;
        // A body that ends too early has words of its own.
        let early = reply.status.to_string().contains("EOF")
            && ["nothing", "half a message"].contains(&what);
        let status =
            if early { reply.status.to_string() } else { format!("{:?}", reply.status.code()) };
        t.note(what, &format!("{} {status}", head(&reply.head)));
    }
    // An endless varint, for every kind of call.
    for path in [
        "KV/Put",
        "KV/Txn",
        "KV/DeleteRange",
        "KV/Compact",
        "Lease/LeaseGrant",
        "Lease/LeaseRevoke",
    ] {
        let path = schema::path(&schema::method(path)?);
        let reply = t.target.client.raw(&path, &[], &frame(&[0xff; 12])).await?;
        t.note(&path, &format!("{:?}", reply.status.code()));
    }
    let compressed = Bytes::from_static(&[1, 0, 0, 0, 1, 0]);
    let reply = t.target.client.raw(range, &[], &compressed).await?;
    t.note("compressed without a name", &format!("{:?}", reply.status.code()));
    for name in ["snappy", "nonsense"] {
        let reply = t.target.client.raw(range, &[("grpc-encoding", name)], &compressed).await?;
        t.note(name, &seen(&reply));
    }
    Ok(())
}

async fn unknown_fields(t: &Session<'_>) -> Result<()> {
    // A field of tomorrow beside a key, and one beside nothing.
    for (method, request) in
        [("KV/Range", &b"\x0a\x02/a\xfa\x3f\x03new"[..]), ("Maintenance/Alarm", b"\xfa\x3f\x03new")]
    {
        let known = schema::method(method)?;
        let reply = t.target.client.unary(&schema::path(&known), &[], request).await?;
        let messages = reply.messages.iter().map(|message| schema::show(known.output(), message));
        let messages = messages.collect::<Result<Vec<_>>>()?;
        t.note(method, &format!("{messages:?} {}", reply.status));
    }
    Ok(())
}

async fn content_types(t: &Session<'_>) -> Result<()> {
    for kind in ["application/grpc", "application/grpc+proto"] {
        let metadata = [("content-type", kind)];
        let reply =
            t.target.client.unary("/etcdserverpb.KV/Range", &metadata, b"\x0a\x02/a").await?;
        t.note(kind, &format!("{:?}", reply.status.code()));
    }
    Ok(())
}

async fn large(t: &Session<'_>) -> Result<()> {
    let value = "v".repeat(1_000_000);
    let puts = (0..64).map(|index| {
        let request = format!("key: '/big/{index:02}' value: '{value}'");
        async move { t.quietly("KV/Put", &request).await }
    });
    try_join_all(puts).await?;
    // Their revisions came in no order.
    let known = schema::method("KV/Range")?;
    for options in ["", "limit: 60", "serializable: true"] {
        let request = format!("key: '/big/' range_end: '/big0' {options}");
        let message = schema::encode(known.input(), &request)?;
        let reply = t.target.client.unary(&schema::path(&known), &[], &message).await?;
        ensure!(reply.status.code() == Some(Code::Ok), "{}", reply.status);
        let kvs = schema::count("KV/Range", &reply.messages[0], "kvs")?;
        let count = schema::number("KV/Range", &reply.messages[0], "count")?;
        let bytes = schema::len_without_header("KV/Range", &reply.messages[0])?;
        t.note(options, &format!("{kvs} keys of {count} in {bytes} bytes"));
    }
    Ok(())
}

async fn larger(t: &Session<'_>) -> Result<()> {
    for bytes in [1_800_000, 2_000_000, 2_300_000, 2_500_000] {
        let value = "v".repeat(bytes);
        t.call("KV/Put", &format!("key: '/large' value: '{value}'")).await?;
    }
    Ok(())
}
