use crate::{Binaries, Identity};
use anyhow::{Context, Result, bail};
use std::{
    ffi::OsString,
    path::Path,
    process::{ExitStatus, Stdio},
};
use tokio::{io::AsyncWriteExt, process::Command};

/// etcdctl aimed at some endpoints: those of a cluster, or of Seawall.
#[derive(Clone, Debug)]
pub struct Etcdctl {
    binaries: Binaries,
    flags: Vec<OsString>,
}

/// Runs etcdctl once, without TLS.
pub async fn etcdctl(binaries: &Binaries, endpoint: &str, args: &[&str]) -> Result<Output> {
    Etcdctl::new(binaries, [endpoint]).run(args).await
}

impl Etcdctl {
    pub fn new<S: AsRef<str>>(binaries: &Binaries, endpoints: impl IntoIterator<Item = S>) -> Self {
        let endpoints: Vec<S> = endpoints.into_iter().collect();
        let endpoints: Vec<&str> = endpoints.iter().map(AsRef::as_ref).collect();
        let flag = format!("--endpoints={}", endpoints.join(","));
        Self { binaries: binaries.clone(), flags: vec![flag.into()] }
    }

    /// Trusts servers whose certificate `ca` signed.
    pub fn ca(self, ca: &Path) -> Self {
        self.flag("--cacert", ca)
    }

    /// Shows this client certificate.
    pub fn identity(self, identity: &Identity) -> Self {
        self.flag("--cert", &identity.cert).flag("--key", &identity.key)
    }

    fn flag(mut self, name: &str, value: &Path) -> Self {
        self.flags.extend([name.into(), value.into()]);
        self
    }

    /// The command itself, for one that runs on, such as a watch. It is killed when its child drops.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.binaries.etcdctl());
        command.args(&self.flags).args(args).env_clear().kill_on_drop(true);
        // Before 3.4 this was not the default, and a distribution may have kept that.
        command.env("ETCDCTL_API", "3");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end. A command that fails is an [`Output`] too; see [`Output::success`].
    pub async fn run(&self, args: &[&str]) -> Result<Output> {
        self.run_with_input(args, "").await
    }

    /// The same with text on standard input, as `txn` and `put` without a value take it.
    pub async fn run_with_input(&self, args: &[&str], input: &str) -> Result<Output> {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", self.binaries.etcdctl().display()))?;
        let mut stdin = child.stdin.take().context("stdin is a pipe")?;
        // A command that reads no input closes the pipe early, which is its right.
        stdin.write_all(input.as_bytes()).await.ok();
        drop(stdin);
        let output = child.wait_with_output().await?;
        Ok(Output {
            command: args.join(" "),
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// What etcdctl printed, and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Its standard output.
    ///
    /// # Errors
    ///
    /// With everything it printed, when it did not succeed.
    pub fn success(self) -> Result<String> {
        if !self.status.success() {
            bail!("etcdctl {}: {}: {}{}", self.command, self.status, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }

    /// Its standard output as JSON, as `-w json` makes it.
    pub fn json(self) -> Result<serde_json::Value> {
        let text = self.success()?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }
}
