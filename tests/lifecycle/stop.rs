//! Taking leave of the clients.

use crate::{DEADLINE, configure, configured, operator, raw::Connection};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use etcd_client::{Client, LockOptions};
use prost::Message;
use seawall::{
    etcd::{
        method::Method,
        proto::{
            concurrency::{CampaignRequest, LeaderRequest, LockRequest},
            etcdserverpb::{
                LeaseKeepAliveRequest, RangeRequest, WatchCreateRequest, WatchRequest,
                watch_request::RequestUnion,
            },
            health::{
                HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
            },
        },
    },
    grpc::encode,
};
use seawall_testkit::{Cluster, Direction, Fault, FaultProxy, SeawallProcess, eventually};
use tokio::net::TcpStream;

fn range() -> Bytes {
    encode(&RangeRequest { key: "/k".into(), ..RangeRequest::default() })
}

fn watch() -> Bytes {
    let create = WatchCreateRequest { key: "/k".into(), ..WatchCreateRequest::default() };
    encode(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) })
}

/// One member whose answers can be held back; probes are patient with it.
async fn stallable(drain: &str) -> Result<(Cluster, FaultProxy, SeawallProcess)> {
    let cluster = Cluster::single().await?;
    let proxy = FaultProxy::start(cluster.member(0).address()).await?;
    let text = format!(
        "clusters: {{main: {{endpoints: ['http://{}'], probe: {{timeout: 1m}}}}}}\ndrain: {drain}\n",
        proxy.address()
    );
    let seawall = configured(&configure(&cluster, &text)?).await?;
    Ok((cluster, proxy, seawall))
}

/// Waits until so many calls are open.
async fn open_calls(seawall: &SeawallProcess, count: f64) -> Result<()> {
    eventually(DEADLINE, "calls to be open", async || {
        let open = operator::metric(seawall.admin()?, "seawall_requests_open").await?;
        ensure!(open == count, "{open} are open");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn is_not_ready_before_it_refuses() -> Result<()> {
    let cluster = Cluster::single().await?;
    let text = "clusters: {main: {endpoints: [{main}]}}\ndrain: {delay: 10s}\n";
    let seawall = configured(&configure(&cluster, text)?).await?;
    seawall.terminate()?;
    eventually(DEADLINE, "it to be unready", async || {
        let (code, text) = operator::get(seawall.admin()?, "/readyz").await?;
        ensure!(code == 503 && text.contains("stopping"), "it is {code}: {text}");
        Ok(())
    })
    .await?;
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    client.put("/k", "", None).await.context("it must serve while it is only not ready")?;
    Ok(())
}

#[tokio::test]
async fn a_drain_finishes_calls_and_ends_watches() -> Result<()> {
    let (_cluster, proxy, seawall) = stallable("{grace: 1m}").await?;
    let address = seawall.address("main")?;
    let mut connection = Connection::open(address).await?;
    let mut watching = connection.call(Method::Watch.path()).await?;
    watching.sending.send_data(watch(), false)?;
    let mut watched = watching.answer().await?;
    watched.message().await?.context("the watch is created")?;

    proxy.set(Fault::Stall(Direction::ToClient));
    let mut ranging = connection.call(Method::Range.path()).await?;
    ranging.sending.send_data(range(), true)?;
    open_calls(&seawall, 2.0).await?;
    seawall.terminate()?;

    let (code, text) = watched.status().await?;
    ensure!(
        (code, &*text) == (14, "etcdserver: server stopped"),
        "the watch ends with {code} {text}"
    );
    eventually(DEADLINE, "the listener to close", async || {
        ensure!(TcpStream::connect(address).await.is_err(), "it takes connections");
        Ok(())
    })
    .await?;
    eventually(DEADLINE, "a GOAWAY", async || {
        let error = connection.call(Method::Range.path()).await.err().context("it takes calls")?;
        let error = error.downcast::<h2::Error>()?;
        ensure!(error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR), "{error}");
        Ok(())
    })
    .await?;

    proxy.heal();
    let (code, text) = ranging.answer().await?.status().await?;
    ensure!(code == 0, "the call in flight ends with {code} {text}");
    connection.closed().await.context("the connection should end well")?;
    let status = seawall.wait(DEADLINE).await?;
    ensure!(status.code() == Some(0), "it ends with {status}");
    Ok(())
}

/// Each of these held the process until its grace was over, and some lost their connection then.
#[tokio::test]
async fn a_drain_ends_what_would_not_end_by_itself() -> Result<()> {
    let cluster = Cluster::single().await?;
    let text = "clusters: {main: {endpoints: [{main}]}}\ndrain: {grace: 10m}\n";
    let seawall = configured(&configure(&cluster, text)?).await?;
    let address = seawall.address("main")?;
    let silent = TcpStream::connect(address).await?;
    let mut holder = Client::connect(cluster.endpoints(), None).await?;
    let lease = holder.lease_grant(600, None).await?.id();
    holder.lock("lock", Some(LockOptions::new().with_lease(lease))).await?;
    holder.campaign("poll", "held", lease).await?;
    let waiter = holder.lease_grant(600, None).await?.id();

    let mut connection = Connection::open(address).await?;
    let mut health = connection.call(Method::HealthWatch.path()).await?;
    health.sending.send_data(encode(&HealthCheckRequest::default()), true)?;
    let mut health = health.answer().await?;
    let serving = ServingStatus::Serving as i32;
    while HealthCheckResponse::decode(health.message().await?.context("it ends")?)?.status
        != serving
    {}
    let name = |name: &'static str| Bytes::from_static(name.as_bytes());
    let (lock, poll) = (name("lock"), name("poll"));
    let campaign = CampaignRequest { name: poll, lease: waiter, ..CampaignRequest::default() };
    let mut open = Vec::new();
    for (method, request, ended) in [
        (Method::Lock, encode(&LockRequest { name: lock, lease: waiter }), true),
        (Method::Campaign, encode(&campaign), true),
        (Method::Observe, encode(&LeaderRequest { name: name("nobody") }), true),
        (Method::LeaseKeepAlive, encode(&LeaseKeepAliveRequest { id: lease }), false),
        // It has asked nothing yet, and so has no answer.
        (Method::LeaseKeepAlive, Bytes::new(), false),
    ] {
        let mut call = connection.call(method.path()).await?;
        call.sending.send_data(request, ended)?;
        open.push((method, call));
    }
    open_calls(&seawall, 6.0).await?;
    seawall.terminate()?;

    let told = HealthCheckResponse::decode(health.message().await?.context("it ends untold")?)?;
    ensure!(told.status == ServingStatus::NotServing as i32, "it tells {told:?} at last");
    let mut ends = vec![(Method::HealthWatch, health.status().await?)];
    for (method, call) in open {
        ends.push((method, call.answer().await?.status().await?));
    }
    for (method, (code, text)) in ends {
        let stopped = (code, &*text) == (14, "etcdserver: server stopped");
        ensure!(stopped, "{method:?} ends with {code} {text}");
    }
    let status = seawall.wait(DEADLINE).await?;
    ensure!(status.code() == Some(0), "it ends with {status}");
    drop(silent);
    Ok(())
}

/// Where etcd had not begun to answer, a stream of a method that this version does not know held the
/// process until its grace was over.
#[tokio::test]
async fn a_drain_ends_streams_of_unknown_methods_and_finishes_their_calls() -> Result<()> {
    const UNKNOWN: &str = "/etcdserverpb.KV/Unheard";
    let (_cluster, proxy, seawall) = stallable("{grace: 10m}").await?;
    let mut connection = Connection::open(seawall.address("main")?).await?;
    proxy.set(Fault::Stall(Direction::ToClient));
    let mut calls = Vec::new();
    for whole in [false, true] {
        let mut call = connection.call(UNKNOWN).await?;
        call.sending.send_data(range(), whole)?;
        calls.push(call);
    }
    open_calls(&seawall, 2.0).await?;
    seawall.terminate()?;
    let (code, text) = calls.remove(0).answer().await?.status().await?;
    let stopped = (code, &*text) == (14, "etcdserver: server stopped");
    ensure!(stopped, "the stream ends with {code} {text}");
    proxy.heal();
    let (code, text) = calls.remove(0).answer().await?.status().await?;
    ensure!(code == 12, "the call ends with {code} {text}");
    let status = seawall.wait(DEADLINE).await?;
    ensure!(status.code() == Some(0), "it ends with {status}");
    Ok(())
}

/// A watch whose client had stopped reading held the process until its grace was over.
#[tokio::test]
async fn a_drain_waits_little_for_a_client_that_does_not_read() -> Result<()> {
    let cluster = Cluster::single().await?;
    for mirror in ["off", "enforce"] {
        let text = format!(
            "clusters: {{main: {{endpoints: [{{main}}]}}}}\nmirror: {{mode: {mirror}}}\n\
             drain: {{grace: 10m}}\n"
        );
        let seawall = configured(&configure(&cluster, &text)?).await?;
        let mut connection = Connection::open(seawall.address("main")?).await?;
        let mut watching = connection.call(Method::Watch.path()).await?;
        let create = WatchCreateRequest {
            key: "/registry/pods/".into(),
            range_end: "/registry/pods0".into(),
            ..WatchCreateRequest::default()
        };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        watching.sending.send_data(encode(&create), false)?;
        let mut watched = watching.answer().await?;
        watched.message().await?.context("the watch is created")?;
        let mut client = Client::connect(cluster.endpoints(), None).await?;
        for number in 0..100 {
            client.put(format!("/registry/pods/{number}"), vec![0; 10_000], None).await?;
        }
        // More than its window takes, which it does not open any further.
        eventually(DEADLINE, "the window to be full", async || {
            let sent = operator::metric(seawall.admin()?, "seawall_response_bytes_total").await?;
            ensure!(sent > 60_000.0, "{sent} bytes were sent");
            Ok(())
        })
        .await?;
        seawall.terminate()?;
        let status = seawall.wait(DEADLINE).await?;
        ensure!(status.code() == Some(0), "it ends with {status}");
        drop((watched, connection));
    }
    Ok(())
}

#[tokio::test]
async fn calls_beyond_the_grace_are_cut() -> Result<()> {
    let (_cluster, proxy, seawall) = stallable("{grace: 1s}").await?;
    let mut connection = Connection::open(seawall.address("main")?).await?;
    proxy.set(Fault::Stall(Direction::ToClient));
    let mut ranging = connection.call(Method::Range.path()).await?;
    ranging.sending.send_data(range(), true)?;
    open_calls(&seawall, 1.0).await?;
    seawall.terminate()?;
    let status = seawall.wait(DEADLINE).await?;
    ensure!(status.code() == Some(0), "it ends with {status}");
    let cut = seawall.log().iter().any(|line| line.message().starts_with("grace is over"));
    ensure!(cut, "it does not tell that it cut calls");
    ensure!(ranging.answer().await.is_err(), "a call without an answer was answered");
    Ok(())
}
