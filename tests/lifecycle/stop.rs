//! Taking leave of the clients.

use crate::{DEADLINE, configure, configured, operator, raw::Connection};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use etcd_client::Client;
use seawall::{
    etcd::{
        method::Method,
        proto::etcdserverpb::{
            RangeRequest, WatchCreateRequest, WatchRequest, watch_request::RequestUnion,
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
