use anyhow::Result;
use seawall_testkit::Program;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

#[derive(Clone, Copy, Debug)]
pub(super) enum Mode {
    Tcp,
    Http2,
}

/// Writes its configuration into `dir`.
pub(super) fn program(
    haproxy: PathBuf,
    mode: Mode,
    address: SocketAddr,
    upstream: &[SocketAddr],
    dir: &Path,
) -> Result<Program> {
    let file = dir.join("haproxy.cfg");
    fs::write(&file, config(mode, address, upstream))?;
    // In the foreground, as one process.
    let args = vec!["-db".into(), "-f".into(), file.into_os_string()];
    Ok(Program { path: haproxy, args, env: Vec::new() })
}

/// As an operator would write it: no logging, timeouts that outlast a quiet watch, checks where there
/// is another member to go to, and otherwise the defaults, windows and buffers included.
fn config(mode: Mode, address: SocketAddr, upstream: &[SocketAddr]) -> String {
    let (mode, proto) = match mode {
        Mode::Tcp => ("tcp", ""),
        Mode::Http2 => ("http", " proto h2"),
    };
    let check = if upstream.len() > 1 { " check inter 1s fall 2" } else { "" };
    let server =
        |(n, member): (usize, &SocketAddr)| format!("  server member{n} {member}{proto}{check}\n");
    let servers: String = upstream.iter().enumerate().map(server).collect();
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
{servers}"
    )
}
