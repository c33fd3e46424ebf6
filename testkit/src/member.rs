use crate::{
    FaultProxy, Usage, disk, eventually, http,
    ports::Port,
    process::{Process, Program},
};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use std::{
    fs::{self, File},
    net::SocketAddr,
    path::PathBuf,
    process::ExitStatus,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// One etcd server of a [`Cluster`](crate::Cluster). It may be down; its ports and data stay.
#[derive(Debug)]
pub struct Member {
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) ports: Ports,
    pub(crate) scheme: &'static str,
    pub(crate) program: Program,
    pub(crate) data: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) peer_proxy: Option<FaultProxy>,
    pub(crate) pids: Arc<Pids>,
    /// The server while it was not seen to end. Held for moments, never over an await.
    pub(crate) process: Mutex<Option<Arc<Process>>>,
}

#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) client: Port,
    pub(crate) peer: Port,
    pub(crate) metrics: Port,
}

/// Generous, for machines that build something else at the same time.
pub(crate) const START_DEADLINE: Duration = Duration::from_secs(60);

impl Member {
    /// Its place in the cluster, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL clients use.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.address())
    }

    pub fn address(&self) -> SocketAddr {
        self.ports.client.address()
    }

    /// The URL its peers use, which is that of its [`Member::peer_proxy`] when it has one.
    pub fn peer_url(&self) -> String {
        peer_url(&self.ports.peer, self.peer_proxy.as_ref())
    }

    /// What stands between it and those who call it, when the cluster was built with peer proxies.
    pub fn peer_proxy(&self) -> Option<&FaultProxy> {
        self.peer_proxy.as_ref()
    }

    /// A plain HTTP URL with /metrics and /health, also when clients need TLS.
    pub fn metrics_url(&self) -> String {
        format!("http://{}", self.ports.metrics.address())
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process().ok().map(|process| process.pid())
    }

    /// Ends it at once, as a crash does (SIGKILL).
    pub async fn kill(&self) -> Result<()> {
        self.end(Signal::SIGKILL).await.map(drop)
    }

    /// Asks it to end (SIGTERM) and waits for that. etcd shuts down and then ends by this signal.
    pub async fn terminate(&self) -> Result<ExitStatus> {
        self.end(Signal::SIGTERM).await
    }

    /// Freezes it (SIGSTOP): its connections stay open and nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.process()?.pause()
    }

    pub fn resume(&self) -> Result<()> {
        self.process()?.signal(Signal::SIGCONT)
    }

    /// Leaves no byte on its disk, which must be its own (`ClusterBuilder::disk_bytes`).
    pub fn fill_disk(&self) -> Result<()> {
        disk::fill(self.process()?.pid(), &self.data)
    }

    /// Starts it again with the same data and ports, after killing it if it runs, and waits until
    /// it serves. While a quorum is missing use [`Member::launch`].
    pub async fn restart(&self) -> Result<()> {
        if self.process().is_ok() {
            self.kill().await?;
        }
        self.launch()?;
        self.serving().await
    }

    /// Starts it with the same data and ports and does not wait.
    pub fn launch(&self) -> Result<()> {
        ensure!(self.process().is_err(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log)?;
        let process = Process::spawn(&self.program, log)?;
        self.pids.set(self.index, process.pid());
        *self.slot() = Some(Arc::new(process));
        Ok(())
    }

    /// Waits until it answers a linearizable read, so it knows a leader that has a quorum.
    pub async fn serving(&self) -> Result<()> {
        self.await_alive("serving", async || {
            // An alarm does not stop it from serving reads.
            let health = http::get(self.ports.metrics.address(), "/health?exclude=NOSPACE").await?;
            ensure!(health.contains(r#""health":"true""#), "it answers {health}");
            Ok(())
        })
        .await
    }

    pub(crate) async fn await_alive(
        &self,
        what: &str,
        condition: impl AsyncFnMut() -> Result<()>,
    ) -> Result<()> {
        let process = self.process()?;
        let result = tokio::select! {
            result = eventually(START_DEADLINE, what, condition) => result,
            status = process.wait() => match status {
                Ok(status) => Err(anyhow::anyhow!("it ended: {status}")),
                Err(error) => Err(error),
            },
        };
        result.with_context(|| format!("{} of etcd, which logged\n{}", self.name, self.log_tail()))
    }

    /// Its metrics in Prometheus' text format.
    pub async fn metrics(&self) -> Result<String> {
        http::get(self.ports.metrics.address(), "/metrics").await
    }

    /// Its member id, as etcd reports it in `ResponseHeader.member_id`.
    pub async fn id(&self) -> Result<u64> {
        let metrics = self.metrics().await?;
        let id = metrics
            .split_once("etcd_server_id{server_id=\"")
            .and_then(|(_, rest)| rest.split_once('"'))
            .context("the metrics name no server id")?
            .0;
        u64::from_str_radix(id, 16).with_context(|| format!("server id {id}"))
    }

    pub async fn is_leader(&self) -> Result<bool> {
        self.gauge_is_set("etcd_server_is_leader").await
    }

    pub async fn has_leader(&self) -> Result<bool> {
        self.gauge_is_set("etcd_server_has_leader").await
    }

    /// Memory and processor time of the server.
    pub fn usage(&self) -> Result<Usage> {
        self.process()?.usage()
    }

    /// All it has logged, over restarts.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("reading {}", self.log.display()))
    }

    async fn gauge_is_set(&self, name: &str) -> Result<bool> {
        let metrics = self.metrics().await?;
        Ok(metrics.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest == " 1")))
    }

    async fn end(&self, signal: Signal) -> Result<ExitStatus> {
        let process = self.process()?;
        process.signal(signal)?;
        let status = process.wait().await?;
        self.pids.set(self.index, NO_PROCESS);
        self.slot().take();
        Ok(status)
    }

    fn process(&self) -> Result<Arc<Process>> {
        match &*self.slot() {
            Some(process) if process.is_running() => Ok(process.clone()),
            _ => bail!("{} does not run", self.name),
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<Process>>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_tail(&self) -> String {
        let log = self.log().unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

pub(crate) fn peer_url(port: &Port, proxy: Option<&FaultProxy>) -> String {
    let address = proxy.map_or_else(|| port.address(), FaultProxy::address);
    format!("http://{address}")
}

/// The processes of a cluster by member index, for its peer proxies: a member is cut off only if
/// the connections it opens are held as well, and those are known by the process that opened them.
#[derive(Debug, Default)]
pub(crate) struct Pids(Mutex<Vec<u32>>);

const NO_PROCESS: u32 = 0;

impl Pids {
    fn set(&self, index: usize, pid: u32) {
        let mut pids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pids.len() <= index {
            pids.resize(index + 1, NO_PROCESS);
        }
        pids[index] = pid;
    }

    /// The member whose process holds the socket with this local address.
    pub(crate) fn owner_of(&self, socket: SocketAddr) -> Option<usize> {
        /// The kernel's table is no snapshot: while sockets come and go, one may be passed over.
        const LOOKS: usize = 5;
        (0..LOOKS).find_map(|_| self.seen_with(socket))
    }

    fn seen_with(&self, socket: SocketAddr) -> Option<usize> {
        let sockets = procfs::net::tcp().ok()?;
        let inode = sockets.iter().find(|entry| entry.local_address == socket)?.inode;
        let pids = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        pids.iter().position(|pid| holds_socket(*pid, inode))
    }
}

fn holds_socket(pid: u32, inode: u64) -> bool {
    let descriptors = || procfs::process::Process::new(pid.try_into().ok()?).ok()?.fd().ok();
    descriptors().into_iter().flatten().flatten().any(|descriptor| {
        matches!(descriptor.target, procfs::process::FDTarget::Socket(held) if held == inode)
    })
}
