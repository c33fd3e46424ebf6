//! The service of systemd, and what a service manager is told.

use crate::{DEADLINE, layouts, read, repo, run, scratch, seawall, tool};
use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use seawall_testkit::{Cluster, LogLine, SeawallProcess};
use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tokio::{net::UnixDatagram, time::timeout};

/// What systemd listens at.
struct Manager {
    socket: UnixDatagram,
    watchdogs: usize,
}

impl Manager {
    fn bind(path: &Path) -> Result<Self> {
        Ok(Self { socket: UnixDatagram::bind(path)?, watchdogs: 0 })
    }

    async fn receive(&self) -> Result<String> {
        let mut buffer = [0; 256];
        let received = timeout(DEADLINE, self.socket.recv(&mut buffer));
        let length = received.await.context("nothing is told")??;
        Ok(String::from_utf8(buffer[..length].to_vec())?)
    }

    /// What is told next apart from being alive.
    async fn next(&mut self) -> Result<String> {
        loop {
            let message = self.receive().await?;
            if message != "WATCHDOG=1\n" {
                return Ok(message);
            }
            self.watchdogs += 1;
        }
    }
}

#[tokio::test]
async fn the_manager_is_told_what_the_service_does() -> Result<()> {
    let cluster = Cluster::single().await?;
    let path = cluster.dir().join("notify");
    let mut manager = Manager::bind(&path)?;
    let seawall = SeawallProcess::builder()
        .binary(seawall())
        .args(["--upstream", &cluster.member(0).endpoint()])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "1000000")
        .start()
        .await?;
    assert_eq!(manager.next().await?, "READY=1\n");
    while manager.watchdogs < 2 {
        ensure!(manager.receive().await? == "WATCHDOG=1\n", "it has nothing else to tell");
        manager.watchdogs += 1;
    }

    seawall.reload()?;
    let reloading = manager.next().await?;
    let since =
        reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").context(reloading.clone())?;
    ensure!(since.trim_end().parse::<u64>()? > 0);
    assert_eq!(manager.next().await?, "READY=1\n");

    seawall.terminate()?;
    assert_eq!(manager.next().await?, "STOPPING=1\n");
    ensure!(seawall.wait(DEADLINE).await?.success());
    Ok(())
}

/// Ends with the test.
struct Started(Pid);

impl Drop for Started {
    fn drop(&mut self) {
        // Fails when it has ended by itself.
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

#[tokio::test]
async fn the_manager_is_told_of_a_successor() -> Result<()> {
    let cluster = Cluster::single().await?;
    let path = cluster.dir().join("notify");
    let mut manager = Manager::bind(&path)?;
    let seawall = SeawallProcess::builder()
        .binary(seawall())
        .args(["--upstream", &cluster.member(0).endpoint()])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "1000000")
        .env("WATCHDOG_PID", "1")
        .start()
        .await?;
    assert_eq!(manager.next().await?, "READY=1\n");
    kill(Pid::from_raw(seawall.pid().try_into()?), Signal::SIGUSR2)?;
    // Its own word that it is ready may come first, and does not count.
    let mut told = Vec::new();
    let successor = loop {
        let message = manager.next().await?;
        if let Some(pid) = message.strip_prefix("MAINPID=") {
            break Started(Pid::from_raw(pid.trim_end().parse()?));
        }
        told.push(message);
    };
    ensure!(told.iter().all(|message| message == "READY=1\n"), "{told:?}");
    ensure!(successor.0.as_raw() as u32 != seawall.pid());
    ensure!(seawall.wait(DEADLINE).await?.success());
    // The watchdog is the successor's now, whoever it was meant for before.
    let before = manager.watchdogs;
    while manager.watchdogs == before {
        let message = manager.receive().await?;
        manager.watchdogs += usize::from(message == "WATCHDOG=1\n");
        ensure!(!message.contains("STOPPING"), "nothing stops");
    }
    Ok(())
}

#[tokio::test]
async fn a_manager_that_does_not_listen_is_no_failure() -> Result<()> {
    let cluster = Cluster::single().await?;
    let seawall = SeawallProcess::builder()
        .binary(seawall())
        .args(["--upstream", &cluster.member(0).endpoint()])
        .env("NOTIFY_SOCKET", cluster.dir().join("nobody"))
        .start()
        .await?;
    let told = |line: &LogLine| line.message().contains("cannot be told");
    seawall.log_contains(DEADLINE, "a warning", told).await?;
    seawall.terminate()?;
    ensure!(seawall.wait(DEADLINE).await?.success());
    Ok(())
}

/// A root with the unit, the program and what the unit refers to.
fn root_with_unit() -> Result<PathBuf> {
    let root = scratch("systemd")?;
    let units = root.join("usr/lib/systemd/system");
    for dir in [&units, &root.join("usr/bin"), &root.join("bin"), &root.join("etc")] {
        fs::create_dir_all(dir)?;
    }
    for unit in ["seawall.service", "seawall.socket"] {
        fs::copy(repo().join("deploy/systemd").join(unit), units.join(unit))?;
    }
    for target in ["basic", "multi-user", "network-online", "shutdown", "sockets", "sysinit"] {
        fs::write(units.join(format!("{target}.target")), "[Unit]\nDescription=it is there\n")?;
    }
    // Programs are looked at and never run.
    for program in ["usr/bin/seawall", "bin/kill"] {
        fs::write(root.join(program), "")?;
        fs::set_permissions(root.join(program), Permissions::from_mode(0o755))?;
    }
    Ok(root)
}

#[test]
fn systemd_takes_the_units_and_finds_them_hardened() -> Result<()> {
    let Some(analyze) =
        tool("systemd", "systemd-analyze", "the service of systemd was NOT verified")
    else {
        return Ok(());
    };
    let root = root_with_unit()?;
    let within = format!("--root={}", root.display());
    // What it does not understand it only warns of.
    for unit in ["seawall.service", "seawall.socket"] {
        let (_, warnings) = run(&analyze, &["verify", "--man=no", &within, unit])?;
        ensure!(warnings.is_empty(), "{warnings}");
    }
    // Fails above the threshold, which is ten times the exposure: 2.0 is the end of "OK".
    let args = ["security", "--offline=true", "--threshold=15", &within, "seawall.service"];
    run(&analyze, &args)?;
    Ok(())
}

/// `log.audit_file` could not be opened, since the unit let nothing be written.
#[test]
fn the_unit_lets_files_be_written_where_the_example_has_them() -> Result<()> {
    let unit = read("deploy/systemd/seawall.service")?;
    let example = read("config/example.yaml")?;
    for (directory, below, key) in
        [("LogsDirectory", "/var/log", "audit_file"), ("StateDirectory", "/var/lib", "file")]
    {
        let name = unit.lines().find_map(|line| line.strip_prefix(directory)?.strip_prefix('='));
        let place = format!("#{key}: {below}/{}/", name.context(directory)?);
        ensure!(example.contains(&place), "no {place} in the example");
    }
    Ok(())
}

/// A socket that no listener takes answers nobody.
#[test]
fn the_socket_unit_has_the_addresses_of_the_layouts() -> Result<()> {
    let unit = read("deploy/systemd/seawall.socket")?;
    let addresses = unit.lines().filter_map(|line| line.strip_prefix("ListenStream="));
    let addresses = addresses.map(str::parse).collect::<Result<Vec<SocketAddr>, _>>()?;
    for layout in layouts::all()? {
        let settings = layouts::settings(&layout)?;
        let admin = settings.admin.context("an admin port")?.address;
        let listeners = settings.listeners.iter().map(|it| it.listener.address);
        let expected: Vec<_> = listeners.chain([admin]).collect();
        ensure!(addresses == expected, "{}: {expected:?}", layout.display());
    }
    Ok(())
}

/// systemd has to wait as long as a drain takes.
#[test]
fn the_unit_lets_a_drain_end() -> Result<()> {
    let unit = read("deploy/systemd/seawall.service")?;
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let patience = value("TimeoutStopSec").and_then(|text| text.strip_suffix('s'));
    let drain = layouts::longest_drain()?;
    ensure!(patience.context("a time in seconds")?.parse::<u64>()? > drain.as_secs());
    assert_eq!(value("Type"), Some("notify"));
    assert_eq!(value("RestartPreventExitStatus"), Some("2"), "a wrong configuration's code");
    Ok(())
}
