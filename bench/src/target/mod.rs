//! What is measured: etcd itself, or one peer that stands in front of it.

mod grpc_proxy;
mod haproxy;
mod process;

use crate::{
    client::{
        Connection, RangeScan,
        etcd::{self, RangeRequest, RangeResponse},
    },
    workload::Objects,
};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use process::Process;
use seawall_testkit::{Binaries, Cluster, SeawallProcess, eventually};
use serde::Serialize;
use std::{
    env,
    ffi::OsString,
    fmt,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    /// etcd without anything in front, which the others are compared with.
    Direct,
    /// `etcd grpc-proxy`.
    GrpcProxy,
    /// HAProxy that relays bytes.
    HaproxyTcp,
    /// HAProxy that speaks HTTP/2 on both sides.
    #[value(name = "haproxy-h2")]
    #[serde(rename = "haproxy-h2")]
    HaproxyH2,
    /// Seawall with its mirror off: a hop and protections.
    Seawall,
    /// Seawall that has read from etcd what is asked for, and answers from memory.
    SeawallMirror,
}

/// The programs that targets are made of.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) etcd: Binaries,
    pub(crate) haproxy: PathBuf,
    pub(crate) seawall: PathBuf,
    pub(crate) seawall_args: Vec<OsString>,
}

/// A target that serves. What was started for it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    address: SocketAddr,
    peer: Option<Peer>,
}

#[derive(Debug)]
enum Peer {
    Process(Process),
    Seawall(SeawallProcess),
}

const START_DEADLINE: Duration = Duration::from_secs(30);

impl Target {
    /// Starts it in front of the first member of `etcd`, and waits until it answers a read.
    pub(crate) async fn start(self, programs: &Programs, etcd: &Cluster) -> Result<Running> {
        let upstream = etcd.member(0).address();
        let running = match self {
            Self::Direct => Running { address: upstream, peer: None },
            Self::Seawall | Self::SeawallMirror => {
                let peer = self.seawall(programs, upstream).await?;
                Running { address: peer.address("main")?, peer: Some(Peer::Seawall(peer)) }
            }
            Self::GrpcProxy | Self::HaproxyTcp | Self::HaproxyH2 => {
                let address = free_address()?;
                let peer = self.spawn(programs, address, upstream, etcd.dir())?;
                Running { address, peer: Some(Peer::Process(peer)) }
            }
        };
        let starting = || format!("starting {self}");
        running.serves().await.with_context(starting)?;
        if self == Self::SeawallMirror {
            running.remembers().await.with_context(starting)?;
        }
        Ok(running)
    }

    async fn seawall(self, programs: &Programs, upstream: SocketAddr) -> Result<SeawallProcess> {
        let upstream = format!("http://{upstream}");
        let mirror = if self == Self::SeawallMirror { "enforce" } else { "off" };
        SeawallProcess::builder()
            .binary(&programs.seawall)
            .args(["--upstream", &upstream, "--mirror", mirror])
            .args(&programs.seawall_args)
            .start()
            .await
    }

    fn spawn(
        self,
        programs: &Programs,
        address: SocketAddr,
        upstream: SocketAddr,
        dir: &Path,
    ) -> Result<Process> {
        let mode = match self {
            Self::HaproxyTcp => haproxy::Mode::Tcp,
            Self::HaproxyH2 => haproxy::Mode::Http2,
            _ => return grpc_proxy::start(&programs.etcd.etcd(), address, upstream, dir),
        };
        haproxy::start(&programs.haproxy, mode, address, upstream, dir)
    }

    /// The program it needs beside etcd.
    fn program(self, programs: &Programs) -> Option<&Path> {
        match self {
            Self::Direct | Self::GrpcProxy => None,
            Self::HaproxyTcp | Self::HaproxyH2 => Some(&programs.haproxy),
            Self::Seawall | Self::SeawallMirror => Some(&programs.seawall),
        }
    }

    /// Whether what it is made of is there.
    pub(crate) fn available(self, programs: &Programs) -> Result<()> {
        let Some(program) = self.program(programs) else { return Ok(()) };
        let hint = match self {
            Self::Seawall | Self::SeawallMirror => "build it, or name one with --seawall-bin",
            _ => "scripts/haproxy obtains it, or name one with --haproxy-bin",
        };
        ensure!(program.is_file(), "there is no {}: {hint}", program.display());
        Ok(())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// All of them, each time another first.
pub(crate) fn in_turn(targets: &[Target], turn: usize) -> impl Iterator<Item = Target> {
    let first = turn % targets.len();
    targets[first..].iter().chain(&targets[..first]).copied()
}

impl Programs {
    /// One member, with the largest quota etcd's authors recommend: it is used up by history
    /// between compactions.
    pub(crate) async fn start_etcd(&self) -> Result<Cluster> {
        let args = ["--log-level=error", "--quota-backend-bytes=8589934592"];
        Cluster::builder().binaries(&self.etcd).extra_args(args).start().await
    }

    /// What the program of each target says it is.
    pub(crate) fn versions(&self, targets: &[Target]) -> Result<Vec<String>> {
        let mut versions = vec![first_line(&self.etcd.etcd(), "--version")?];
        if targets.contains(&Target::HaproxyTcp) || targets.contains(&Target::HaproxyH2) {
            versions.push(first_line(&self.haproxy, "-v")?);
        }
        if targets.contains(&Target::Seawall) || targets.contains(&Target::SeawallMirror) {
            versions.push(first_line(&self.seawall, "--version")?);
        }
        Ok(versions)
    }
}

impl Running {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process between client and etcd, if there is one.
    pub(crate) fn peer_pid(&self) -> Option<u32> {
        self.peer.as_ref().map(|peer| match peer {
            Peer::Process(process) => process.pid(),
            Peer::Seawall(seawall) => seawall.pid(),
        })
    }

    /// # Errors
    ///
    /// When the peer has ended; says how, and its last words.
    pub(crate) async fn still_runs(&mut self) -> Result<()> {
        let ended = match &mut self.peer {
            None => None,
            Some(Peer::Process(process)) => {
                process.ended()?.map(|status| (status, process.output()))
            }
            Some(Peer::Seawall(seawall)) => {
                let status = seawall.wait(Duration::ZERO).await.ok();
                let last = || format!("{:?}", seawall.log().last());
                status.map(|status| (status, last()))
            }
        };
        match ended {
            None => Ok(()),
            Some((status, words)) => bail!("the peer ended with {status}: {words}"),
        }
    }

    /// Lists all objects there may be until they are in memory.
    async fn remembers(&self) -> Result<()> {
        let Some(Peer::Seawall(seawall)) = &self.peer else { return Ok(()) };
        let all = [Objects::Of2KiB, Objects::Of10KiB];
        eventually(START_DEADLINE, "all objects to be in memory", async || {
            let connection = Connection::open(self.address).await?;
            for objects in all {
                let request = RangeRequest {
                    key: objects.prefix().into(),
                    range_end: objects.range_end().into(),
                    limit: 0,
                };
                connection.call::<RangeScan>(etcd::RANGE, &request).await?;
            }
            let log = seawall.log();
            let loaded = log.iter().filter(|line| line.message() == "mirror: loaded").count();
            ensure!(loaded >= all.len(), "{loaded} collections are");
            Ok(())
        })
        .await
    }

    async fn serves(&self) -> Result<()> {
        let request = RangeRequest::of_key("/registry/health");
        let serves = eventually(START_DEADLINE, "it to answer a read", async || {
            let connection = Connection::open(self.address).await?;
            connection.unary::<RangeResponse>(etcd::RANGE, &request).await?;
            Ok(())
        })
        .await;
        match &self.peer {
            Some(Peer::Process(process)) => {
                serves.with_context(|| format!("it printed {}", process.output()))
            }
            _ => serves,
        }
    }
}

/// Neither HAProxy nor grpc-proxy reports which port it took, so one is chosen for them.
fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("looking for a free port")?;
    Ok(listener.local_addr()?)
}

fn first_line(program: &Path, flag: &str) -> Result<String> {
    let run = || format!("asking {} for its version", program.display());
    let output = Command::new(program).arg(flag).output().with_context(run)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().next().with_context(run)?;
    Ok(line.trim().to_owned())
}

/// The proxy to measure unless another is named: that of the environment, or the one that was built
/// with this program.
pub(crate) fn built_seawall() -> Result<PathBuf> {
    if let Some(path) = env::var_os("SEAWALL_BIN") {
        return Ok(path.into());
    }
    Ok(env::current_exe().context("looking for this program")?.with_file_name("seawall"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_called_the_same_everywhere() -> Result<()> {
        for target in Target::value_variants() {
            let json = serde_json::to_value(target)?;
            assert_eq!(json.as_str(), Some(target.to_string().as_str()));
        }
        Ok(())
    }
}
