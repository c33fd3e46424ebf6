use anyhow::Result;
use std::{
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// A TCP proxy in front of one server that misbehaves on command.
///
/// A fault set with [`FaultProxy::set`] holds until the next one; connections that are open follow
/// it too, but for [`Fault::Refuse`], which concerns new ones. Lives in the runtime that started it.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    script: watch::Sender<Script>,
    counters: Arc<Counters>,
    listener: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// None: bytes flow.
    #[default]
    Forward,
    /// New connections are reset.
    Refuse,
    /// Connections are accepted and nothing passes. What was sent meanwhile passes afterwards.
    Blackhole,
    /// Nothing passes in this direction, the other one flows.
    Stall(Direction),
    /// What is read is held this long before it is passed on, in both directions.
    Delay(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// How many connections there were, and are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// All that were accepted, refused ones included.
    pub accepted: u64,
    pub refused: u64,
    pub open: u64,
}

/// Tells who is at the other end of an accepted connection.
pub(crate) type Identify = dyn Fn(SocketAddr) -> Option<usize> + Send + Sync;

#[derive(Debug, Default)]
struct Script {
    fault: Fault,
    /// Faults that hold for one source, whatever the general one is.
    by_source: HashMap<usize, Fault>,
    cuts: u64,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    refused: AtomicU64,
    closed: AtomicU64,
}

/// What a connection follows: the script, seen from its source.
#[derive(Clone)]
struct Follow {
    script: watch::Receiver<Script>,
    source: Option<usize>,
    /// How many cuts there were when it was accepted.
    cuts_before: u64,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 in front of `target`, which need not listen yet.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        Self::start_identifying(target, Arc::new(|_| None)).await
    }

    pub(crate) async fn start_identifying(
        target: SocketAddr,
        identify: Arc<Identify>,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (script, follow) = watch::channel(Script::default());
        let counters = Arc::new(Counters::default());
        let acceptor = Acceptor { target, identify, script: follow, counters: counters.clone() };
        let listener = tokio::spawn(acceptor.run(listener));
        Ok(Self { address, script, counters, listener })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, fault: Fault) {
        self.script.send_modify(|script| script.fault = fault);
    }

    pub(crate) fn set_for(&self, source: usize, fault: Fault) {
        self.script.send_modify(|script| _ = script.by_source.insert(source, fault));
    }

    /// Forwards again, for every source.
    pub fn heal(&self) {
        self.script.send_modify(|script| {
            script.fault = Fault::Forward;
            script.by_source.clear();
        });
    }

    /// Resets the connections that are open. New ones meet the fault that is set.
    pub fn cut(&self) {
        self.script.send_modify(|script| script.cuts += 1);
    }

    pub fn connections(&self) -> Connections {
        // Closed before accepted, so that a connection that comes meanwhile cannot make it negative.
        let closed = self.counters.closed.load(Ordering::SeqCst);
        let accepted = self.counters.accepted.load(Ordering::SeqCst);
        let refused = self.counters.refused.load(Ordering::SeqCst);
        Connections { accepted, refused, open: accepted - closed }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        // The connections are tasks of the listener's set, and end with it.
        self.listener.abort();
    }
}

struct Acceptor {
    target: SocketAddr,
    identify: Arc<Identify>,
    script: watch::Receiver<Script>,
    counters: Arc<Counters>,
}

impl Acceptor {
    async fn run(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            // An accept fails when the other end is gone already, which is its own affair.
            let Ok((client, peer)) = listener.accept().await else { continue };
            self.counters.accepted.fetch_add(1, Ordering::SeqCst);
            let cuts_before = self.script.borrow().cuts;
            let source = (self.identify)(peer);
            let follow = Follow { script: self.script.clone(), source, cuts_before };
            let (target, counters) = (self.target, self.counters.clone());
            connections.spawn(async move {
                if follow.fault() == Fault::Refuse {
                    counters.refused.fetch_add(1, Ordering::SeqCst);
                    reset(&client);
                } else {
                    carry(client, target, follow).await;
                }
                counters.closed.fetch_add(1, Ordering::SeqCst);
            });
            while connections.try_join_next().is_some() {}
        }
    }
}

/// One connection from its first byte to its last. However it ends, both sides learn it.
async fn carry(mut client: TcpStream, target: SocketAddr, mut follow: Follow) {
    let mut cut = follow.clone();
    let connected = async {
        follow.passes(Direction::ToServer).await;
        TcpStream::connect(target).await
    };
    let server = tokio::select! {
        () = cut.cut() => None,
        server = connected => server.ok(),
    };
    let Some(mut server) = server else { return reset(&client) };
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let both = async {
        tokio::try_join!(
            pump(client_read, server_write, Direction::ToServer, follow.clone()),
            pump(server_read, client_write, Direction::ToClient, follow.clone()),
        )
    };
    let ended_well = tokio::select! {
        () = cut.cut() => false,
        result = both => result.is_ok(),
    };
    if !ended_well {
        reset(&client);
        reset(&server);
    }
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    mut follow: Follow,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = from.read(&mut buffer).await?;
        follow.passes(direction).await;
        follow.delayed().await;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}

/// Makes the close that follows a reset instead of an orderly end.
fn reset(stream: &TcpStream) {
    // Fails on a socket that is closed already.
    stream.set_zero_linger().ok();
}

impl Follow {
    fn fault(&self) -> Fault {
        self.script.borrow().fault_for(self.source)
    }

    /// Waits until bytes may flow in this direction.
    async fn passes(&mut self, direction: Direction) {
        let source = self.source;
        let flows = |script: &Script| match script.fault_for(source) {
            Fault::Blackhole => false,
            Fault::Stall(stalled) => stalled != direction,
            Fault::Forward | Fault::Refuse | Fault::Delay(_) => true,
        };
        // Fails when the proxy is gone, and this task with it.
        self.script.wait_for(flows).await.ok();
    }

    /// Waits for the delay that is set now, or until another fault is set.
    async fn delayed(&mut self) {
        let fault = self.fault();
        if let Fault::Delay(delay) = fault {
            let source = self.source;
            let changed = self.script.wait_for(|script| script.fault_for(source) != fault);
            timeout(delay, changed).await.ok();
        }
    }

    /// Waits for a cut since it was accepted.
    async fn cut(&mut self) {
        let before = self.cuts_before;
        self.script.wait_for(|script| script.cuts != before).await.ok();
    }
}

impl Script {
    fn fault_for(&self, source: Option<usize>) -> Fault {
        source.and_then(|source| self.by_source.get(&source)).copied().unwrap_or(self.fault)
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("target", &self.target).finish_non_exhaustive()
    }
}
