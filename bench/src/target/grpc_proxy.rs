use seawall_testkit::Program;
use std::{net::SocketAddr, path::PathBuf};

/// etcd's own proxy, of the same binary, with its defaults.
pub(super) fn program(etcd: PathBuf, address: SocketAddr, upstream: &[SocketAddr]) -> Program {
    let endpoints: Vec<_> = upstream.iter().map(|member| format!("http://{member}")).collect();
    let args = [
        "grpc-proxy".to_owned(),
        "start".to_owned(),
        format!("--endpoints={}", endpoints.join(",")),
        format!("--listen-addr={address}"),
        // It dials this itself, and would try a fixed port.
        format!("--advertise-client-url={address}"),
    ];
    Program { path: etcd, args: args.map(Into::into).into(), env: Vec::new() }
}
