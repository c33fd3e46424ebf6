use super::process::Process;
use anyhow::Result;
use std::{fs, net::SocketAddr, path::Path};

#[derive(Clone, Copy, Debug)]
pub(super) enum Mode {
    Tcp,
    Http2,
}

pub(super) fn start(
    haproxy: &Path,
    mode: Mode,
    address: SocketAddr,
    upstream: SocketAddr,
    dir: &Path,
) -> Result<Process> {
    let file = dir.join("haproxy.cfg");
    fs::write(&file, config(mode, address, upstream))?;
    // In the foreground, as one process.
    let args = ["-db".as_ref(), "-f".as_ref(), file.as_os_str()];
    Process::start("haproxy", haproxy, args, dir)
}

/// As an operator would write it: no logging, timeouts that outlast a quiet watch, and otherwise
/// the defaults, windows and buffers included.
fn config(mode: Mode, address: SocketAddr, upstream: SocketAddr) -> String {
    let (mode, proto) = match mode {
        Mode::Tcp => ("tcp", ""),
        Mode::Http2 => ("http", " proto h2"),
    };
    format!(
        "global
  nbthread 2
defaults
  mode {mode}
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend client
  bind {address}{proto}
  default_backend etcd
backend etcd
  server member {upstream}{proto}
"
    )
}
