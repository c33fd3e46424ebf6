use crate::{
    Binaries, Etcdctl, Fault, FaultProxy, Member, Output, Pki, disk, eventually,
    member::{Pids, Ports, START_DEADLINE, peer_url},
    ports::Port,
    process::Program,
    scratch::Scratch,
};
use anyhow::{Context, Result, ensure};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// A real etcd cluster on free ports of 127.0.0.1. Its servers and data go when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    // Before the plan, whose directory they use, so that the servers end first.
    members: Vec<Member>,
    plan: Plan,
}

/// What a cluster is to be; one member of the version in `SEAWALL_ETCD` unless told otherwise.
#[derive(Clone, Debug)]
#[must_use]
pub struct ClusterBuilder {
    members: usize,
    binaries: Option<Binaries>,
    pki: Option<Pki>,
    client_cert_auth: bool,
    peer_proxies: bool,
    extra_args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    root: Option<PathBuf>,
    disk_bytes: Option<u64>,
}

/// A reserved port is lost only to a program that binds ports without asking for a free one.
const START_ATTEMPTS: usize = 3;

impl ClusterBuilder {
    pub fn members(mut self, count: usize) -> Self {
        self.members = count;
        self
    }

    pub fn binaries(mut self, binaries: &Binaries) -> Self {
        self.binaries = Some(binaries.clone());
        self
    }

    /// Serves clients over TLS with a certificate of this authority. Peers stay on plain TCP.
    pub fn tls(mut self, pki: &Pki) -> Self {
        self.pki = Some(pki.clone());
        self
    }

    /// Admits only clients with a certificate of the authority given to [`ClusterBuilder::tls`].
    pub fn client_cert_auth(mut self) -> Self {
        self.client_cert_auth = true;
        self
    }

    /// Puts a [`FaultProxy`] in front of every peer port, for [`Cluster::isolate`].
    pub fn peer_proxies(mut self) -> Self {
        self.peer_proxies = true;
        self
    }

    /// Flags of etcd that come after ours, and win over them.
    pub fn extra_args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.extra_args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Keeps data and logs in a directory below this one, rather than in memory where there is room.
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// Each member keeps its data on a disk of its own, of so many bytes, which lasts as long as its
    /// process. See [`has_own_disks`](crate::has_own_disks).
    pub fn disk_bytes(mut self, bytes: u64) -> Self {
        self.disk_bytes = Some(bytes);
        self
    }

    /// Starts all members and waits until each of them serves.
    pub async fn start(self) -> Result<Cluster> {
        ensure!(self.members > 0, "a cluster has at least one member");
        ensure!(self.pki.is_some() || !self.client_cert_auth, "client_cert_auth needs tls");
        let mut attempt = 1;
        loop {
            let cluster = Plan::new(self.clone())?.launch().await?;
            match cluster.serving().await {
                Ok(()) => return Ok(cluster),
                Err(_) if attempt < START_ATTEMPTS && cluster.lost_a_port() => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Cluster {
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder {
            members: 1,
            binaries: None,
            pki: None,
            client_cert_auth: false,
            peer_proxies: false,
            extra_args: Vec::new(),
            env: Vec::new(),
            root: None,
            disk_bytes: None,
        }
    }

    /// One member with the defaults.
    pub async fn single() -> Result<Self> {
        Self::builder().start().await
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// # Panics
    ///
    /// When there is no such member.
    pub fn member(&self, index: usize) -> &Member {
        &self.members[index]
    }

    /// The client URLs of all members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    pub fn binaries(&self) -> &Binaries {
        &self.plan.binaries
    }

    /// Where data and logs lie.
    pub fn dir(&self) -> &Path {
        self.plan.scratch.path()
    }

    /// Waits until every member that runs serves.
    pub async fn serving(&self) -> Result<()> {
        for member in self.members.iter().filter(|member| member.pid().is_some()) {
            member.serving().await?;
        }
        Ok(())
    }

    /// The leader, once there is one.
    pub async fn leader(&self) -> Result<&Member> {
        eventually(START_DEADLINE, "one leader", async || {
            let mut leaders = Vec::new();
            for member in self.members.iter().filter(|member| member.pid().is_some()) {
                // One that is paused or cut off does not answer, and does not lead either.
                if member.is_leader().await.unwrap_or(false) {
                    leaders.push(member);
                }
            }
            ensure!(leaders.len() == 1, "{} members call themselves leader", leaders.len());
            leaders.pop().context("no leader")
        })
        .await
    }

    /// Hands leadership to this member and waits until it leads.
    pub async fn move_leader(&self, to: usize) -> Result<()> {
        let leader = self.leader().await?;
        if leader.index == to {
            return Ok(());
        }
        let id = format!("{:x}", self.member(to).id().await?);
        self.ctl([leader.endpoint()])?.run(&["move-leader", &id]).await?.success()?;
        eventually(START_DEADLINE, "the new leader", async || {
            let leads = self.member(to).is_leader().await?;
            ensure!(leads, "{} does not lead", self.member(to).name);
            Ok(())
        })
        .await
    }

    /// Runs etcdctl on all endpoints, with the certificates the cluster asks for.
    pub async fn etcdctl(&self, args: &[&str]) -> Result<Output> {
        self.ctl(self.endpoints())?.run(args).await
    }

    /// etcdctl on some endpoints with the certificates of this cluster. The client certificate, if
    /// one is asked for, names `root`, whom etcd's own authentication lets do everything.
    pub fn ctl(&self, endpoints: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Etcdctl> {
        let ctl = Etcdctl::new(self.binaries(), endpoints);
        let spec = &self.plan.spec;
        match &spec.pki {
            None => Ok(ctl),
            Some(pki) if spec.client_cert_auth => {
                Ok(ctl.ca(&pki.ca()).identity(&pki.client("root")?))
            }
            Some(pki) => Ok(ctl.ca(&pki.ca())),
        }
    }

    /// Cuts a member off from its peers in both directions; clients still reach it.
    pub fn isolate(&self, index: usize) -> Result<()> {
        for member in &self.members {
            let proxy = member.peer_proxy().context("isolate needs a cluster with peer_proxies")?;
            if member.index == index {
                proxy.set(Fault::Blackhole);
            } else {
                proxy.set_for(index, Fault::Blackhole);
            }
        }
        Ok(())
    }

    /// Lets all members reach each other again.
    pub fn heal(&self) {
        self.members.iter().filter_map(Member::peer_proxy).for_each(FaultProxy::heal);
    }

    /// Adds a learner, starts it, and returns it once it has heard of the leader.
    pub async fn add_learner(&mut self) -> Result<&Member> {
        let seat = self.plan.reserve(self.members.len()).await?;
        let (name, url) = (seat.name.clone(), seat.peer_url());
        self.etcdctl(&["member", "add", &name, "--learner", &format!("--peer-urls={url}")])
            .await?
            .success()?;
        let others = self.members.iter().map(|member| (member.name.as_str(), member.peer_url()));
        let initial = initial_cluster(others.chain([(name.as_str(), url)]));
        let member = self.plan.member(seat, &initial, "existing")?;
        member.launch()?;
        member
            .await_alive("a learner that has heard of the leader", async || {
                ensure!(member.has_leader().await?, "it knows no leader");
                Ok(())
            })
            .await?;
        self.members.push(member);
        self.members.last().context("it was just added")
    }

    fn lost_a_port(&self) -> bool {
        self.members
            .iter()
            .any(|member| member.log().is_ok_and(|log| log.contains("address already in use")))
    }
}

/// What a cluster was asked to be, and what its members share.
#[derive(Debug)]
struct Plan {
    spec: ClusterBuilder,
    binaries: Binaries,
    pids: Arc<Pids>,
    scratch: Scratch,
}

/// What must be known of every member before the first can start.
struct Seat {
    index: usize,
    name: String,
    ports: Ports,
    peer_proxy: Option<FaultProxy>,
}

impl Seat {
    fn peer_url(&self) -> String {
        peer_url(&self.ports.peer, self.peer_proxy.as_ref())
    }
}

impl Plan {
    fn new(spec: ClusterBuilder) -> Result<Self> {
        let binaries = spec.binaries.clone().map_or_else(Binaries::selected, Ok)?;
        let scratch = spec.root.as_deref().map_or_else(Scratch::new, Scratch::below)?;
        Ok(Self { spec, binaries, pids: Arc::default(), scratch })
    }

    async fn launch(self) -> Result<Cluster> {
        let mut seats = Vec::new();
        for index in 0..self.spec.members {
            seats.push(self.reserve(index).await?);
        }
        let initial =
            initial_cluster(seats.iter().map(|seat| (seat.name.as_str(), seat.peer_url())));
        let members = seats
            .into_iter()
            .map(|seat| self.member(seat, &initial, "new"))
            .collect::<Result<Vec<_>>>()?;
        for member in &members {
            member.launch()?;
        }
        Ok(Cluster { members, plan: self })
    }

    async fn reserve(&self, index: usize) -> Result<Seat> {
        let ports =
            Ports { client: Port::reserve()?, peer: Port::reserve()?, metrics: Port::reserve()? };
        let peer_proxy = if self.spec.peer_proxies {
            let (target, pids) = (ports.peer.address(), self.pids.clone());
            let identify = Arc::new(move |peer| pids.owner_of(peer));
            Some(FaultProxy::start_identifying(target, identify).await?)
        } else {
            None
        };
        Ok(Seat { index, name: format!("m{index}"), ports, peer_proxy })
    }

    fn member(&self, seat: Seat, initial_cluster: &str, state: &str) -> Result<Member> {
        let peer_url = seat.peer_url();
        let Seat { index, name, ports, peer_proxy } = seat;
        let scheme = if self.spec.pki.is_some() { "https" } else { "http" };
        let client_url = format!("{scheme}://{}", ports.client.address());
        let dir = self.scratch.path();
        let mut args: Vec<OsString> = vec![
            format!("--name={name}").into(),
            format!("--data-dir={}", dir.join(&name).display()).into(),
            format!("--listen-client-urls={client_url}").into(),
            format!("--advertise-client-urls={client_url}").into(),
            format!("--listen-peer-urls=http://{}", ports.peer.address()).into(),
            format!("--initial-advertise-peer-urls={peer_url}").into(),
            format!("--initial-cluster={initial_cluster}").into(),
            format!("--initial-cluster-state={state}").into(),
            format!("--listen-metrics-urls=http://{}", ports.metrics.address()).into(),
            "--logger=zap".into(),
        ];
        args.extend(self.spec.tls_args()?);
        args.extend(self.spec.extra_args.iter().cloned());
        let data = dir.join(&name);
        let env = self.spec.env.clone();
        let mut program = Program { path: self.binaries.etcd(), args, env };
        if let Some(bytes) = self.spec.disk_bytes {
            program = disk::with_own(program, &data, bytes);
        }
        Ok(Member {
            index,
            log: dir.join(format!("{name}.log")),
            name,
            ports,
            scheme,
            program,
            data,
            peer_proxy,
            pids: self.pids.clone(),
            process: Mutex::new(None),
        })
    }
}

impl ClusterBuilder {
    fn tls_args(&self) -> Result<Vec<OsString>> {
        let Some(pki) = &self.pki else { return Ok(Vec::new()) };
        let server = pki.server()?;
        let mut args = vec![
            format!("--cert-file={}", server.cert.display()).into(),
            format!("--key-file={}", server.key.display()).into(),
        ];
        if self.client_cert_auth {
            args.push("--client-cert-auth".into());
            args.push(format!("--trusted-ca-file={}", pki.ca().display()).into());
        }
        Ok(args)
    }
}

fn initial_cluster<'a>(members: impl Iterator<Item = (&'a str, String)>) -> String {
    members.map(|(name, url)| format!("{name}={url}")).collect::<Vec<_>>().join(",")
}
