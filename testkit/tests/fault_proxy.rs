//! The misbehaving connection, seen from both of its ends.

use anyhow::{Result, ensure};
use seawall_testkit::{Direction, Fault, FaultProxy, eventually};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const DEADLINE: Duration = Duration::from_secs(10);
/// Nothing arrives within this while a fault holds; a slow machine cannot make this fail.
const QUIET: Duration = Duration::from_millis(100);

struct Pair {
    proxy: FaultProxy,
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    async fn new() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = FaultProxy::start(listener.local_addr()?).await?;
        let client = TcpStream::connect(proxy.address()).await?;
        let server = listener.accept().await?.0;
        let mut pair = Self { proxy, listener, client, server };
        pair.both_ways().await?;
        Ok(pair)
    }

    async fn both_ways(&mut self) -> Result<()> {
        self.client.write_all(b"x").await?;
        arrives(&mut self.server).await?;
        self.server.write_all(b"x").await?;
        arrives(&mut self.client).await
    }

    async fn open_is(&self, open: u64) -> Result<()> {
        eventually(DEADLINE, "the count of open connections", async || {
            let connections = self.proxy.connections();
            ensure!(connections.open == open, "{connections:?}");
            Ok(())
        })
        .await
    }
}

async fn arrives(stream: &mut TcpStream) -> Result<()> {
    let mut byte = [0];
    timeout(DEADLINE, stream.read_exact(&mut byte)).await??;
    Ok(())
}

async fn is_quiet(stream: &mut TcpStream) -> bool {
    timeout(QUIET, stream.read_u8()).await.is_err()
}

async fn is_reset(stream: &mut TcpStream) -> Result<()> {
    let error = timeout(DEADLINE, stream.read_u8()).await?.expect_err("nothing more comes");
    ensure!(error.kind() == io::ErrorKind::ConnectionReset, "{error}");
    Ok(())
}

#[tokio::test]
async fn forwards_bytes_and_the_end_of_a_half() -> Result<()> {
    let mut pair = Pair::new().await?;
    pair.client.shutdown().await?;
    assert_eq!(timeout(DEADLINE, pair.server.read(&mut [0])).await??, 0);
    pair.server.write_all(b"x").await?;
    arrives(&mut pair.client).await?;
    pair.open_is(1).await?;
    pair.server.shutdown().await?;
    assert_eq!(timeout(DEADLINE, pair.client.read(&mut [0])).await??, 0);
    pair.open_is(0).await
}

#[tokio::test]
async fn a_cut_resets_both_ends_and_the_next_connection_works() -> Result<()> {
    let mut pair = Pair::new().await?;
    pair.proxy.cut();
    is_reset(&mut pair.client).await?;
    is_reset(&mut pair.server).await?;
    pair.open_is(0).await?;
    pair.client = TcpStream::connect(pair.proxy.address()).await?;
    pair.server = pair.listener.accept().await?.0;
    pair.both_ways().await
}

#[tokio::test]
async fn refuses_new_connections_and_keeps_old_ones() -> Result<()> {
    let mut pair = Pair::new().await?;
    pair.proxy.set(Fault::Refuse);
    is_reset(&mut TcpStream::connect(pair.proxy.address()).await?).await?;
    pair.both_ways().await?;
    pair.open_is(1).await?;
    let connections = pair.proxy.connections();
    assert_eq!((connections.accepted, connections.refused), (2, 1));
    Ok(())
}

#[tokio::test]
async fn a_black_hole_holds_everything_until_it_is_healed() -> Result<()> {
    let mut pair = Pair::new().await?;
    pair.proxy.set(Fault::Blackhole);
    pair.client.write_all(b"x").await?;
    pair.server.write_all(b"x").await?;
    assert!(is_quiet(&mut pair.server).await && is_quiet(&mut pair.client).await);
    // A new connection is accepted by the proxy and does not reach the server.
    let mut second = TcpStream::connect(pair.proxy.address()).await?;
    second.write_all(b"x").await?;
    assert!(timeout(QUIET, pair.listener.accept()).await.is_err());
    pair.proxy.heal();
    arrives(&mut pair.server).await?;
    arrives(&mut pair.client).await?;
    arrives(&mut timeout(DEADLINE, pair.listener.accept()).await??.0).await
}

#[tokio::test]
async fn a_black_hole_can_be_cut() -> Result<()> {
    let mut pair = Pair::new().await?;
    pair.proxy.set(Fault::Blackhole);
    let mut second = TcpStream::connect(pair.proxy.address()).await?;
    pair.open_is(2).await?;
    pair.proxy.cut();
    is_reset(&mut pair.client).await?;
    is_reset(&mut second).await?;
    pair.open_is(0).await
}

#[tokio::test]
async fn a_stall_holds_one_direction_only() -> Result<()> {
    let mut pair = Pair::new().await?;
    pair.proxy.set(Fault::Stall(Direction::ToClient));
    pair.server.write_all(b"x").await?;
    pair.client.write_all(b"x").await?;
    arrives(&mut pair.server).await?;
    assert!(is_quiet(&mut pair.client).await);
    pair.proxy.heal();
    arrives(&mut pair.client).await
}

#[tokio::test]
async fn a_delay_holds_what_was_sent_until_it_is_over_or_healed() -> Result<()> {
    let mut pair = Pair::new().await?;
    pair.proxy.set(Fault::Delay(Duration::from_millis(1)));
    pair.both_ways().await?;
    pair.proxy.set(Fault::Delay(Duration::from_secs(3600)));
    pair.client.write_all(b"x").await?;
    assert!(is_quiet(&mut pair.server).await);
    pair.proxy.heal();
    arrives(&mut pair.server).await
}

#[tokio::test]
async fn a_server_that_is_down_looks_like_a_reset() -> Result<()> {
    let pair = Pair::new().await?;
    drop(pair.listener);
    is_reset(&mut TcpStream::connect(pair.proxy.address()).await?).await
}
