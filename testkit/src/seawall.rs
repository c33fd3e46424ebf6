use crate::{
    Usage,
    process::{Process, Program},
};
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{ChildStderr, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};
use tokio::{sync::watch, time::timeout};

/// The built proxy, run as operators run it. It is killed when this value goes; a test that panics
/// shows the log, and one run with `SEAWALL_TEST_LOG` set shows it as it comes.
#[derive(Debug)]
pub struct SeawallProcess {
    process: Process,
    log: Log,
    startup: Startup,
}

/// How to start it: `<binary> run --log-format json --admin 127.0.0.1:0 --listen 127.0.0.1:0 <args>`.
#[derive(Clone, Debug)]
#[must_use]
pub struct SeawallBuilder {
    binary: Option<PathBuf>,
    listen: bool,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

const START_DEADLINE: Duration = Duration::from_secs(30);

impl SeawallBuilder {
    /// The program; without this it is what the environment names in `SEAWALL_BIN`.
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Leaves `--listen` out, for a configuration file that has listeners of its own.
    pub fn listeners_from_config(mut self) -> Self {
        self.listen = false;
        self
    }

    /// Starts it and waits until clients can connect, whether or not its etcd is there.
    pub async fn start(self) -> Result<SeawallProcess> {
        let binary = self.binary.or_else(|| env::var_os("SEAWALL_BIN").map(PathBuf::from));
        let path = binary.context(
            "no seawall to start: set SEAWALL_BIN to the built program, as `make test` does",
        )?;
        let mut args: Vec<OsString> =
            ["run", "--log-format", "json", "--admin", "127.0.0.1:0"].map(Into::into).into();
        if self.listen {
            args.extend(["--listen", "127.0.0.1:0"].map(Into::into));
        }
        args.extend(self.args);
        let program = Program { path, args, env: self.env };
        let (process, stderr) = Process::spawn_piped(&program, Stdio::piped())?;
        let log = Log::collect(stderr.context("stderr is a pipe")?);
        let startup = log.startup().await?;
        Ok(SeawallProcess { process, log, startup })
    }
}

impl SeawallProcess {
    pub fn builder() -> SeawallBuilder {
        SeawallBuilder { binary: None, listen: true, args: Vec::new(), env: Vec::new() }
    }

    /// Where a listener of this name serves. A setup by flags has the one called "main".
    pub fn address(&self, listener: &str) -> Result<SocketAddr> {
        let known = &self.startup.listeners;
        let address = known.get(listener).copied();
        address.with_context(|| format!("no listener {listener} among {known:?}"))
    }

    /// The URL of the listener "main", without TLS.
    pub fn endpoint(&self) -> Result<String> {
        Ok(format!("http://{}", self.address("main")?))
    }

    pub fn admin(&self) -> Result<SocketAddr> {
        self.startup.admin.context("it has reported no admin address")
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Asks it to drain and end (SIGTERM).
    pub fn terminate(&self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)
    }

    /// Asks it to read its configuration again (SIGHUP).
    pub fn reload(&self) -> Result<()> {
        self.process.signal(Signal::SIGHUP)
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)
    }

    /// Freezes it (SIGSTOP): its connections stay open and nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }

    pub fn resume(&self) -> Result<()> {
        self.process.signal(Signal::SIGCONT)
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// With its log, when it runs on past the deadline.
    pub async fn wait(&self, deadline: Duration) -> Result<ExitStatus> {
        timeout(deadline, self.process.wait())
            .await
            .with_context(|| format!("seawall runs on, it logged\n{}", self.log.text()))?
    }

    /// All lines it has logged so far.
    pub fn log(&self) -> Vec<LogLine> {
        self.log.lines()
    }

    /// The same as text, a line each.
    pub fn log_text(&self) -> String {
        self.log.text()
    }

    /// Waits for a line, which may have come already, and returns it.
    pub async fn log_contains(
        &self,
        deadline: Duration,
        what: &str,
        predicate: impl Fn(&LogLine) -> bool,
    ) -> Result<LogLine> {
        let search = |lines: &[LogLine]| lines.iter().find(|line| predicate(line)).cloned();
        self.log.wait_for(deadline, what, search).await
    }

    /// Memory and processor time.
    pub fn usage(&self) -> Result<Usage> {
        self.process.usage()
    }
}

impl Drop for SeawallProcess {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("seawall logged\n{}", self.log.text());
        }
    }
}

/// One line of the log: the fields of a JSON object. A line that is none, such as that of a panic,
/// is the message of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine(Map<String, Value>);

impl LogLine {
    fn parse(text: &str) -> Self {
        match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => Self(fields),
            _ => Self(Map::from_iter([("message".to_owned(), text.into())])),
        }
    }

    pub fn message(&self) -> &str {
        self.text("message").unwrap_or_default()
    }

    pub fn field(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// A field that is a string.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.field(name)?.as_str()
    }
}

/// What the first lines tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Startup {
    listeners: BTreeMap<String, SocketAddr>,
    admin: Option<SocketAddr>,
    done: bool,
}

impl Startup {
    fn of(lines: &[LogLine]) -> Self {
        let mut startup = Self::default();
        for line in lines {
            let address = line.text("address").and_then(|address| address.parse().ok());
            match (line.message(), line.text("listener"), address) {
                ("listening", Some(listener), Some(address)) => {
                    startup.listeners.insert(listener.to_owned(), address);
                }
                ("admin listening", _, Some(address)) => startup.admin = Some(address),
                ("started", ..) => startup.done = true,
                _ => {}
            }
        }
        startup
    }
}

/// The lines of stderr, collected by a thread until the process ends.
#[derive(Clone, Debug)]
struct Log {
    /// Held for moments, never over an await.
    lines: Arc<Mutex<Vec<LogLine>>>,
    /// Changes with every line, closes at the end.
    length: watch::Receiver<usize>,
}

impl Log {
    fn collect(stderr: ChildStderr) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (grow, length) = watch::channel(0);
        let log = Self { lines: lines.clone(), length };
        thread::spawn(move || {
            let echo = env::var_os("SEAWALL_TEST_LOG").is_some();
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if echo {
                    eprintln!("{line}");
                }
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.push(LogLine::parse(&line));
                grow.send_replace(lines.len());
            }
        });
        log
    }

    fn lines(&self) -> Vec<LogLine> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn text(&self) -> String {
        let lines = self.lines();
        lines.into_iter().map(|line| format!("{}\n", Value::Object(line.0))).collect()
    }

    async fn startup(&self) -> Result<Startup> {
        let started = |lines: &[LogLine]| Some(Startup::of(lines)).filter(|startup| startup.done);
        self.wait_for(START_DEADLINE, "it to start", started).await
    }

    /// Waits until `search` finds something in all lines so far.
    async fn wait_for<T>(
        &self,
        deadline: Duration,
        what: &str,
        search: impl Fn(&[LogLine]) -> Option<T>,
    ) -> Result<T> {
        let mut length = self.length.clone();
        let found = async {
            loop {
                length.borrow_and_update();
                if let Some(found) = search(&self.lines()) {
                    return Ok(found);
                }
                if length.changed().await.is_err() {
                    bail!("seawall ended");
                }
            }
        };
        timeout(deadline, found)
            .await
            .unwrap_or_else(|_| bail!("not within {deadline:?}"))
            .with_context(|| format!("waiting for {what}, seawall logged\n{}", self.text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTUP: &str = r#"
{"level":"INFO","message":"listening","listener":"main","address":"127.0.0.1:4001","tls":false}
{"level":"INFO","message":"listening","listener":"events","address":"[::1]:4002"}
{"level":"INFO","message":"admin listening","address":"127.0.0.1:4003"}"#;

    const SHELL: &str = "#!/usr/bin/env -S --default-signal=HUP sh";

    /// A shell script in the place of the proxy. A shell cannot trap what is ignored when it starts, as
    /// SIGHUP is below nohup.
    async fn started(script: &str) -> Result<SeawallProcess> {
        let dir = tempfile::tempdir()?;
        let binary = dir.path().join("seawall");
        std::fs::write(&binary, format!("{SHELL}\n{script}\n"))?;
        std::fs::set_permissions(&binary, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        SeawallProcess::builder().binary(binary).args(["--upstream", "u"]).start().await
    }

    #[test]
    fn reads_addresses_from_the_log() -> Result<()> {
        let parse = |text: &str| text.trim().lines().map(LogLine::parse).collect::<Vec<_>>();
        let startup = Startup::of(&parse(STARTUP));
        assert_eq!(startup.listeners["main"], "127.0.0.1:4001".parse()?);
        assert_eq!(startup.listeners["events"], "[::1]:4002".parse()?);
        assert_eq!(startup.admin, Some("127.0.0.1:4003".parse()?));
        assert!(!startup.done);
        assert!(Startup::of(&parse(r#"{"message":"started"}"#)).done);
        assert_eq!(Startup::of(&parse("thread 'main' panicked\n[]\n{\"a\":")), Startup::default());
        Ok(())
    }

    #[tokio::test]
    async fn follows_the_process_from_start_to_end() -> Result<()> {
        let script = format!(
            r#"trap 'echo "{{\"message\":\"reloaded\",\"what\":\"$*\"}}" >&2' HUP
            trap 'exit 3' TERM
            echo '{STARTUP}
            {{"message":"started"}}' >&2
            while :; do sleep 0.05; done"#
        );
        let seawall = started(&script).await?;
        assert_eq!(seawall.endpoint()?, "http://127.0.0.1:4001");
        assert_eq!(seawall.address("events")?, "[::1]:4002".parse()?);
        assert_eq!(seawall.admin()?, "127.0.0.1:4003".parse()?);
        assert!(seawall.address("other").is_err());
        seawall.reload()?;
        let reloaded =
            seawall.log_contains(START_DEADLINE, "a reload", |line| line.message() == "reloaded");
        let args = "run --log-format json --admin 127.0.0.1:0 --listen 127.0.0.1:0 --upstream u";
        assert_eq!(reloaded.await?.text("what"), Some(args));
        seawall.terminate()?;
        assert_eq!(seawall.wait(START_DEADLINE).await?.code(), Some(3));
        Ok(())
    }

    #[tokio::test]
    async fn a_start_that_fails_shows_the_log() {
        let failed = started("echo 'error: no such file' >&2; exit 1").await;
        let text = format!("{:#}", failed.expect_err("it ended"));
        assert!(text.contains("error: no such file") && text.contains("seawall ended"), "{text}");
    }
}
