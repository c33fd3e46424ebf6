//! Sockets that the service manager holds.

use crate::{DEADLINE, client::Client, upgrade::put};
use anyhow::{Context, Result, ensure};
use seawall_testkit::Cluster;
use std::{env, net::TcpListener, os::fd::OwnedFd, path::PathBuf, process::Stdio};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// What systemd does between fork and exec; `$$` stays the process' own number.
const PASS: &str = r#"exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" "$@""#;

/// Seawall with this socket. It ends with this value.
fn start(socket: &TcpListener, upstream: &str) -> Result<Child> {
    let binary = env::var_os("SEAWALL_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_seawall").into(), PathBuf::from);
    let address = socket.local_addr()?.to_string();
    let mut command = Command::new("sh");
    command.args(["-c", PASS]).arg(binary).args(["run", "--admin", "off", "--listen", &address]);
    command.args(["--upstream", upstream]).stdin(OwnedFd::from(socket.try_clone()?));
    Ok(command.stderr(Stdio::null()).kill_on_drop(true).spawn()?)
}

#[tokio::test]
async fn who_connects_while_a_process_that_crashed_is_started_again_only_waits() -> Result<()> {
    let cluster = Cluster::single().await?;
    let upstream = cluster.member(0).endpoint();
    let socket = TcpListener::bind("127.0.0.1:0")?;
    let address = socket.local_addr()?;
    let mut first = start(&socket, &upstream)?;
    timeout(DEADLINE, put(&Client::connect(address).await?, "/a")).await???;
    first.kill().await?;

    let client = Client::connect(address).await.context("refused while nobody serves")?;
    let waiting = tokio::spawn(async move { put(&client, "/b").await });
    let mut second = start(&socket, &upstream)?;
    timeout(DEADLINE, waiting).await????;
    ensure!(second.try_wait()?.is_none(), "it has ended");
    Ok(())
}
