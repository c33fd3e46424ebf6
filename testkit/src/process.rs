use anyhow::{Context, Result, bail};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{ChildStderr, Command, ExitStatus, Stdio},
    sync::{LazyLock, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::sync::watch;

/// A child process that is killed when this value goes, and when the test process dies.
///
/// A thread of its own spawns it and waits for it. That thread outlives every runtime, so a
/// process may be shared by tests that each have their own; and the kernel's parent-death signal,
/// which follows the spawning *thread*, fires no earlier than it should.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    exit: watch::Receiver<Option<ExitStatus>>,
    waiter: Option<JoinHandle<()>>,
}

/// What to run. The environment of the test does not leak into it, but for PATH.
#[derive(Clone, Debug)]
pub struct Program {
    pub path: PathBuf,
    pub args: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
}

impl Process {
    /// Starts it. What it prints as errors goes to `stderr`, everything else nowhere.
    pub fn spawn(program: &Program, stderr: impl Into<Stdio>) -> Result<Self> {
        Ok(Self::spawn_piped(program, stderr.into())?.0)
    }

    /// Also returns the reading end, when `stderr` is a pipe.
    pub(crate) fn spawn_piped(
        program: &Program,
        stderr: Stdio,
    ) -> Result<(Self, Option<ChildStderr>)> {
        if !program.path.is_file() {
            bail!("there is no program {}", program.path.display());
        }
        let mut command = program.command();
        command.stderr(stderr);
        let (started, start) = mpsc::sync_channel(1);
        let (exited, exit) = watch::channel(None);
        let waiter = thread::spawn(move || match command.spawn() {
            Ok(mut child) => {
                // The receivers outlive this thread: drop joins it, and spawn waits below.
                let _ = started.send(Ok((child.id(), child.stderr.take())));
                exited.send_replace(child.wait().ok());
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        });
        let (pid, stderr) = start
            .recv()
            .context("the spawning thread ended")?
            .with_context(|| format!("starting {}", program.path.display()))?;
        let pid = Pid::from_raw(pid.try_into().context("a pid is positive")?);
        Ok((Self { pid, exit, waiter: Some(waiter) }, stderr))
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    pub fn is_running(&self) -> bool {
        self.exit.borrow().is_none()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_running() {
            bail!("process {} has ended, it cannot take {signal}", self.pid);
        }
        kill(self.pid, signal).with_context(|| format!("sending {signal} to {}", self.pid))
    }

    /// Stops all its threads. Sent, the signal has not arrived yet: what comes meanwhile would still be
    /// answered.
    pub(crate) fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        let seen = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        let stopped = waitid(Id::Pid(self.pid), seen);
        stopped.map(drop).with_context(|| format!("waiting for {} to stop", self.pid))
    }

    /// Waits for the end. Cancel-safe.
    pub async fn wait(&self) -> Result<ExitStatus> {
        let mut exit = self.exit.clone();
        let status = exit.wait_for(Option::is_some).await.context("waiting for a process")?;
        status.context("a process without a status")
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only when it has just ended by itself.
        self.signal(Signal::SIGKILL).ok();
        if let Some(waiter) = self.waiter.take() {
            waiter.join().ok();
        }
    }
}

/// Whether children can be given the parent-death signal. Doing that ourselves would take unsafe
/// code between fork and exec.
static SETPRIV: LazyLock<bool> = LazyLock::new(|| {
    let probe = Command::new("setpriv").args(["--pdeathsig", "KILL", "true"]).output();
    probe.is_ok_and(|output| output.status.success())
});

impl Program {
    fn command(&self) -> Command {
        let mut command = if *SETPRIV {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).arg(&self.path);
            command
        } else {
            Command::new(&self.path)
        };
        command
            .args(&self.args)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Ctrl-C in the terminal is for the test or the demo, which then ends its servers.
            .process_group(0);
        command
    }
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Memory resident now.
    pub rss_bytes: u64,
    /// The most memory that was ever resident.
    pub peak_rss_bytes: u64,
    /// Processor time, user and system, of all threads.
    pub cpu: Duration,
}

impl Usage {
    /// Reads it from /proc.
    pub fn of(pid: u32) -> Result<Self> {
        let process = procfs::process::Process::new(pid.try_into()?)?;
        let (stat, status) = (process.stat()?, process.status()?);
        let cpu_ticks = stat.utime + stat.stime;
        Ok(Self {
            rss_bytes: status.vmrss.unwrap_or_default() * 1024,
            peak_rss_bytes: status.vmhwm.unwrap_or_default() * 1024,
            cpu: Duration::from_secs(cpu_ticks) / u32::try_from(procfs::ticks_per_second())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventually;
    use anyhow::ensure;
    use std::io::{BufRead, BufReader};

    fn shell(script: &str) -> Program {
        Program {
            path: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("GIVEN".into(), "7".into())],
        }
    }

    #[tokio::test]
    async fn reports_how_a_process_ended() -> Result<()> {
        let process = Process::spawn(&shell("exit $GIVEN"), Stdio::null())?;
        assert_eq!(process.wait().await?.code(), Some(7));
        assert!(process.signal(Signal::SIGTERM).is_err());
        Ok(())
    }

    #[tokio::test]
    async fn a_dropped_process_is_gone_even_if_it_was_paused() -> Result<()> {
        let process = Process::spawn(&shell("exec sleep 1000"), Stdio::null())?;
        let pid = process.pid();
        assert!(Usage::of(pid)?.rss_bytes > 0);
        process.signal(Signal::SIGSTOP)?;
        drop(process);
        assert!(Usage::of(pid).is_err());
        Ok(())
    }

    /// Runs itself again as the process that is killed, which prints what it started.
    #[tokio::test]
    async fn a_process_dies_with_a_killed_test() -> Result<()> {
        if std::env::var_os("SEAWALL_TEST_HOLD").is_some() {
            let process = Process::spawn(&shell("exec sleep 1000"), Stdio::null())?;
            // Only when the shell runs has setpriv done its work.
            eventually(Duration::from_secs(10), "the program to run", async || {
                let stat = procfs::process::Process::new(process.pid().try_into()?)?.stat()?;
                ensure!(stat.comm == "sleep", "{} runs", stat.comm);
                Ok(())
            })
            .await?;
            println!("holding {}.", process.pid());
            return std::future::pending().await;
        }
        if !*SETPRIV {
            eprintln!("skipped: there is no setpriv here");
            return Ok(());
        }
        let mut test = Command::new(std::env::current_exe()?)
            .args(["--exact", "process::tests::a_process_dies_with_a_killed_test", "--nocapture"])
            .env("SEAWALL_TEST_HOLD", "1")
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(test.stdout.take().context("stdout is a pipe")?);
        let held = output.lines().map_while(Result::ok).find_map(|line| {
            let (_, rest) = line.split_once("holding ")?;
            rest.trim_end_matches('.').parse::<u32>().ok()
        });
        let held = held.context("it names what it started")?;
        Usage::of(held)?;
        test.kill()?;
        test.wait()?;
        eventually(Duration::from_secs(10), "its process to end", async || {
            // Who inherits it may be slow to collect it; without memory it has ended all the same.
            let runs = Usage::of(held).is_ok_and(|usage| usage.rss_bytes > 0);
            ensure!(!runs, "{held} runs on");
            Ok(())
        })
        .await
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let program = Program { path: "/nonexistent/etcd".into(), ..shell("") };
        let error = Process::spawn(&program, Stdio::null()).expect_err("there is none");
        assert_eq!(error.to_string(), "there is no program /nonexistent/etcd");
    }
}
