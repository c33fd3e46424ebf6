//! What is measured: etcd itself, one peer that stands in front of it, or whatever serves somewhere.

pub(crate) mod floor;
mod grpc_proxy;
mod haproxy;
mod subject;

pub(crate) use subject::{Endpoint, Subject};

use crate::{
    client::{
        Dial, RangeScan,
        etcd::{self, RangeRequest, RangeResponse},
    },
    data::{DataSet, Resource},
};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use seawall_testkit::{Binaries, Cluster, Member, Process, SeawallProcess, eventually};
use serde::Serialize;
use std::{
    env,
    ffi::OsString,
    fmt,
    fs::{self, File},
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
    /// The least that a hop on Seawall's HTTP/2 can cost: it sends what etcd has answered once.
    Floor,
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
    dial: Dial,
    peer: Option<Peer>,
}

#[derive(Debug)]
enum Peer {
    /// A program, and the file that takes what it prints.
    Process(Process, PathBuf),
    Seawall(SeawallProcess),
}

const START_DEADLINE: Duration = Duration::from_secs(30);

impl Target {
    /// Starts it in front of all members of `etcd`, and waits until it answers a read. One with a
    /// mirror also holds what is there of `read`.
    pub(crate) async fn start(
        self,
        programs: &Programs,
        etcd: &Cluster,
        data: &DataSet,
        read: &[Resource],
    ) -> Result<Running> {
        let upstream: Vec<_> = etcd.members().iter().map(Member::address).collect();
        let running = match self {
            Self::Direct => Running { dial: Dial::plain(upstream), peer: None },
            Self::Seawall | Self::SeawallMirror => {
                let peer = self.seawall(programs, &etcd.endpoints()).await?;
                let dial = Dial::plain([peer.address("main")?]);
                Running { dial, peer: Some(Peer::Seawall(peer)) }
            }
            Self::GrpcProxy | Self::HaproxyTcp | Self::HaproxyH2 | Self::Floor => {
                let address = free_address()?;
                let peer = self.spawn(programs, address, &upstream, etcd.dir())?;
                Running { dial: Dial::plain([address]), peer: Some(peer) }
            }
        };
        let starting = || format!("starting {self}");
        running.serves(data).await.with_context(starting)?;
        if self == Self::SeawallMirror {
            running.remembers(data, read).await.with_context(starting)?;
        }
        Ok(running)
    }

    async fn seawall(self, programs: &Programs, upstream: &[String]) -> Result<SeawallProcess> {
        let mirror = if self == Self::SeawallMirror { "enforce" } else { "off" };
        SeawallProcess::builder()
            .binary(&programs.seawall)
            .args(["--upstream", &upstream.join(","), "--mirror", mirror])
            .args(&programs.seawall_args)
            .start()
            .await
    }

    fn spawn(
        self,
        programs: &Programs,
        address: SocketAddr,
        upstream: &[SocketAddr],
        dir: &Path,
    ) -> Result<Peer> {
        let haproxy =
            |mode| haproxy::program(programs.haproxy.clone(), mode, address, upstream, dir);
        let program = match self {
            Self::HaproxyTcp => haproxy(haproxy::Mode::Tcp)?,
            Self::HaproxyH2 => haproxy(haproxy::Mode::Http2)?,
            Self::Floor => floor::program(address, upstream[0])?,
            _ => grpc_proxy::program(programs.etcd.etcd(), address, upstream),
        };
        let log = dir.join("peer.log");
        Ok(Peer::Process(Process::spawn(&program, File::create(&log)?)?, log))
    }

    /// The program it needs beside etcd.
    fn program(self, programs: &Programs) -> Option<&Path> {
        match self {
            Self::Direct | Self::GrpcProxy | Self::Floor => None,
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

impl Programs {
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
    /// One that was not started here.
    pub(crate) fn elsewhere(dial: Dial) -> Self {
        Self { dial, peer: None }
    }

    pub(crate) fn dial(&self) -> &Dial {
        &self.dial
    }

    /// The process between client and etcd, if there is one.
    pub(crate) fn peer_pid(&self) -> Option<u32> {
        self.peer.as_ref().map(|peer| match peer {
            Peer::Process(process, _) => process.pid(),
            Peer::Seawall(seawall) => seawall.pid(),
        })
    }

    /// # Errors
    ///
    /// When the peer has ended; says how, and its last words.
    pub(crate) async fn still_runs(&self) -> Result<()> {
        match &self.peer {
            None => Ok(()),
            Some(Peer::Process(process, _)) if process.is_running() => Ok(()),
            Some(Peer::Process(process, log)) => {
                let status = process.wait().await?;
                bail!("the peer ended with {status}: {}", last_lines(log))
            }
            Some(Peer::Seawall(seawall)) => match seawall.wait(Duration::ZERO).await {
                Err(_) => Ok(()),
                Ok(status) => bail!("seawall ended with {status}: {:?}", seawall.log().last()),
            },
        }
    }

    /// Lists what is going to be read until it is in memory.
    async fn remembers(&self, data: &DataSet, read: &[Resource]) -> Result<()> {
        let Some(Peer::Seawall(seawall)) = &self.peer else { return Ok(()) };
        eventually(START_DEADLINE, "all objects to be in memory", async || {
            let connection = self.dial.open(0).await?;
            for &resource in read {
                let request = RangeRequest {
                    key: data.prefix(resource).into(),
                    range_end: data.range_end(resource),
                    ..RangeRequest::default()
                };
                connection.call::<RangeScan>(etcd::RANGE, &request).await?;
            }
            let log = seawall.log();
            for &resource in read {
                // A resource may be a part of a collection.
                let bare = data.bare(resource);
                let holds = |name: &str| bare.starts_with(name.as_bytes());
                let loaded = log.iter().any(|line| {
                    line.message() == "mirror: loaded"
                        && line.text("tier") == Some("values")
                        && line.text("collection").is_some_and(holds)
                });
                ensure!(loaded, "{} are not", resource.path());
            }
            Ok(())
        })
        .await
    }

    async fn serves(&self, data: &DataSet) -> Result<()> {
        let request = RangeRequest::of_key(format!("{}/health", data.root()));
        let serves = eventually(START_DEADLINE, "it to answer a read", async || {
            let connection = self.dial.open(0).await?;
            connection.unary::<RangeResponse>(etcd::RANGE, &request).await?;
            Ok(())
        })
        .await;
        match &self.peer {
            Some(Peer::Process(_, log)) => {
                serves.with_context(|| format!("it printed {}", last_lines(log)))
            }
            _ => serves,
        }
    }
}

/// The last of what a program printed.
fn last_lines(log: &Path) -> String {
    const LINES: usize = 10;
    let printed = fs::read_to_string(log).unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = printed.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
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
