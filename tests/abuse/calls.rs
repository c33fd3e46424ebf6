//! Calls whose messages are not what they should be.

use crate::{DEADLINE, Victim};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use seawall::{
    etcd::{
        method::Method,
        proto::etcdserverpb::{
            Compare, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest,
            compare::TargetUnion, watch_request::RequestUnion,
        },
    },
    grpc::encode,
};
use tokio::time::timeout;
use tonic::Code;

/// A prefix and what follows it, true or not.
fn framed(flag: u8, length: u32, payload: &[u8]) -> Bytes {
    [&[flag][..], &length.to_be_bytes(), payload].concat().into()
}

/// Bytes that are no message of protobuf.
const GARBAGE: [u8; 24] = [0xff; 24];

#[tokio::test]
async fn malformed_messages_are_answered() -> Result<()> {
    let victim = Victim::new().await?;
    let mut connection = victim.connect().await?;
    let put = encode(&RangeRequest { key: "k".into(), ..RangeRequest::default() });
    let twice = [put.clone(), put.clone()].concat().into();
    let cases: [(&str, Bytes, &[Code]); 8] = [
        // The code of the Go server that etcd is built on.
        ("nothing", Bytes::new(), &[Code::Unknown]),
        ("half a prefix", Bytes::from_static(&[0, 0]), &[Code::Unknown]),
        ("a truncated message", framed(0, 100, b"short"), &[Code::Unknown]),
        ("an absurd length", framed(0, u32::MAX, b""), &[Code::ResourceExhausted]),
        ("too long a message", framed(0, 64 << 20, b"x"), &[Code::ResourceExhausted]),
        ("a compressed message", framed(1, 3, b"abc"), &[Code::Unimplemented, Code::Internal]),
        ("garbage", framed(0, 24, &GARBAGE), &[Code::Internal]),
        // etcd's own server may take the first or refuse both.
        ("two messages", twice, &[Code::Ok, Code::Internal]),
    ];
    for (what, body, expected) in cases {
        let answer = connection.exchange(Method::Range.path(), body).await;
        let (code, text) = answer.with_context(|| what.to_owned())?;
        let code = Code::from(i32::from(code));
        ensure!(expected.contains(&code), "{what} is answered {code:?}: {text}");
    }
    drop(connection);
    victim.is_unharmed().await
}

#[tokio::test]
async fn garbage_is_answered_by_every_method() -> Result<()> {
    let victim = Victim::new().await?;
    let mut connection = victim.connect().await?;
    for method in Method::ALL {
        let garbage = framed(0, 24, &GARBAGE);
        let answer = connection.exchange(method.path(), garbage).await;
        let (code, text) = answer.with_context(|| method.path())?;
        ensure!(code != 0, "{} takes garbage: {text}", method.path());
    }
    for path in ["/etcdserverpb.KV/Nothing", "/no.such.Service/Method", "/", "/etcdserverpb.KV"] {
        let (code, text) = connection.exchange(path, framed(0, 0, b"")).await.context(path)?;
        ensure!(code == 12, "{path} is answered {code}: {text}");
    }
    drop(connection);
    victim.is_unharmed().await
}

#[tokio::test]
async fn unset_oneofs_and_unknown_numbers_are_answered() -> Result<()> {
    let victim = Victim::new().await?;
    let mut connection = victim.connect().await?;
    let compare = |result, target, target_union| Compare {
        result,
        target,
        key: "k".into(),
        target_union,
        ..Compare::default()
    };
    let transactions = [
        TxnRequest { success: vec![RequestOp { request: None }], ..TxnRequest::default() },
        TxnRequest { compare: vec![compare(0, 0, None)], ..TxnRequest::default() },
        TxnRequest { compare: vec![compare(99, 99, None)], ..TxnRequest::default() },
        TxnRequest {
            compare: vec![compare(-1, 3, Some(TargetUnion::Version(i64::MIN)))],
            ..TxnRequest::default()
        },
        TxnRequest { compare: vec![Compare::default()], ..TxnRequest::default() },
    ];
    for transaction in transactions {
        let answer = connection.exchange(Method::Txn.path(), encode(&transaction)).await;
        answer.with_context(|| format!("{transaction:?}"))?;
    }
    let ranges = [
        RangeRequest { key: "k".into(), sort_order: 77, ..RangeRequest::default() },
        RangeRequest { key: "k".into(), sort_target: -77, ..RangeRequest::default() },
        RangeRequest { key: "k".into(), limit: i64::MIN, ..RangeRequest::default() },
        RangeRequest { key: "k".into(), revision: i64::MAX, ..RangeRequest::default() },
        RangeRequest { key: "z".into(), range_end: "a".into(), ..RangeRequest::default() },
    ];
    for range in ranges {
        let answer = connection.exchange(Method::Range.path(), encode(&range)).await;
        answer.with_context(|| format!("{range:?}"))?;
    }
    // A request of no kind is passed over, and the stream goes on.
    let mut watching = connection.call(Method::Watch.path()).await?;
    watching.sending.send_data(encode(&WatchRequest { request_union: None }), false)?;
    let create = WatchCreateRequest { key: "k".into(), ..WatchCreateRequest::default() };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    watching.sending.send_data(encode(&create), false)?;
    let mut watched = watching.answer().await?;
    watched.message().await?.context("the watch has ended")?;
    drop((watched, connection));
    victim.is_unharmed().await
}

#[tokio::test]
async fn half_closed_and_silent_calls_end_with_their_client() -> Result<()> {
    let victim = Victim::new().await?;
    let mut connection = victim.connect().await?;
    let answer = connection.exchange(Method::LeaseKeepAlive.path(), Bytes::new()).await?;
    ensure!(answer.0 == 0, "keeping nothing alive ends with {answer:?}");
    // etcd goes on with a watch stream whose client has ended its side.
    let mut watching = connection.call(Method::Watch.path()).await?;
    watching.sending.send_data(Bytes::new(), true)?;
    let mut silent = vec![watching];
    for method in Method::ALL {
        let mut call = connection.call(method.path()).await?;
        call.sending.send_data(framed(0, 1000, b"the beginning"), false)?;
        silent.push(call);
        silent.push(connection.call(method.path()).await?);
    }
    // What they hold does not keep others from being served, on the same connection too.
    let request = encode(&RangeRequest { key: "k".into(), ..RangeRequest::default() });
    let answered = timeout(DEADLINE, connection.exchange(Method::Range.path(), request)).await??;
    ensure!(answered.0 == 0, "{answered:?}");
    drop((silent, connection));
    victim.is_unharmed().await
}
