use super::process::Process;
use anyhow::Result;
use std::{net::SocketAddr, path::Path};

/// etcd's own proxy, of the same binary, with its defaults.
pub(super) fn start(
    etcd: &Path,
    address: SocketAddr,
    upstream: SocketAddr,
    dir: &Path,
) -> Result<Process> {
    let args = [
        "grpc-proxy".to_owned(),
        "start".to_owned(),
        format!("--endpoints=http://{upstream}"),
        format!("--listen-addr={address}"),
        // It dials this itself, and would try a fixed port.
        format!("--advertise-client-url={address}"),
    ];
    Process::start("grpc-proxy", etcd, args, dir)
}
