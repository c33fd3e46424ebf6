//! Accepting connections and finding out what they speak.

use super::{Config, Metrics, http1, http2, metrics::ListenerMetrics};
use crate::{pipeline::Peer, rpc::Edge, tls, worker::Workers};
use arc_swap::ArcSwapOption;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::{
    io,
    net::{self, SocketAddr, TcpStream as StdStream},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A client that has said nothing after this long is disconnected, as it would be by TLS.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(30);

/// The same once the listener drains: what has only just connected is told to go elsewhere, not cut.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause after an error of `accept`, which is about resources of the whole process.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that the kernel keeps for us until they are accepted.
const BACKLOG: u32 = 1024;

/// There is always one data thread.
const FIRST_WORKER: usize = 1;

/// The first bytes of an HTTP/2 client; no HTTP/1 method starts like this.
const HTTP2_PREFACE: &[u8] = b"PRI ";

/// One address that clients connect to.
#[derive(Debug)]
pub struct Listener {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    /// Until it is closed: see [`Listener::run`].
    socket: Mutex<Option<Arc<TcpListener>>>,
}

/// What the connections of a listener share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) edge: Arc<Edge>,
    pub(super) metrics: ListenerMetrics,
    /// Replaced when the configuration names other files; the files' own changes it sees itself.
    tls: ArcSwapOption<tls::Acceptor>,
    /// Every connection; waited for when draining.
    connections: TaskTracker,
}

impl Listener {
    /// Takes the address, or the socket of it that a predecessor left. Nothing is accepted before
    /// [`Listener::run`].
    ///
    /// # Errors
    ///
    /// When the address or the TLS files cannot be used.
    pub fn bind(
        config: Config,
        inherited: Option<net::TcpListener>,
        edge: Arc<Edge>,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        use anyhow::Context;
        let (name, address) = (config.name.clone(), config.address);
        let socket = inherited.map_or_else(|| listen(address), take_over);
        let socket =
            socket.with_context(|| format!("listener {name:?} cannot listen on {address}"))?;
        let address = socket.local_addr()?;
        let tls = acceptor(&config)?;
        let metrics = metrics.listener(&name);
        let shared = Shared {
            config,
            edge,
            metrics,
            tls: ArcSwapOption::new(tls.map(Arc::new)),
            connections: TaskTracker::new(),
        };
        Ok(Self { address, shared: Arc::new(shared), socket: Mutex::new(Some(Arc::new(socket))) })
    }

    /// Another handle of the socket, for a successor; none once it was closed.
    ///
    /// # Errors
    ///
    /// When the system has none to give.
    pub fn socket(&self) -> io::Result<Option<OwnedFd>> {
        self.socket.lock().as_ref().map(|socket| socket.as_fd().try_clone_to_owned()).transpose()
    }

    /// The calls' side of the listener.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.shared.edge
    }

    /// Shows other certificates from the next connection on; see [`acceptor`].
    pub fn show(&self, tls: Option<tls::Acceptor>) {
        self.shared.tls.store(tls.map(Arc::new));
    }

    /// Accepts connections until `draining` is cancelled, and then closes the socket.
    pub async fn run(&self, workers: Arc<Workers>, draining: CancellationToken) {
        let Some(socket) = self.socket.lock().clone() else { return };
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = draining.cancelled() => break,
            };
            let stream = accepted.and_then(|(stream, address)| Ok((stream.into_std()?, address)));
            match stream {
                Ok((stream, address)) => self.hand_out(stream, address, &workers),
                Err(error) => {
                    tracing::warn!(listener = self.shared.config.name, %error, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        self.socket.lock().take();
    }

    /// Serves a connection that did not come by the socket to its end, on the thread it is called
    /// on.
    ///
    /// # Errors
    ///
    /// When what comes is no HTTP.
    pub async fn serve<T>(&self, stream: T, address: SocketAddr) -> Result<(), String>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let peer = Arc::new(Peer::new(address, self.address, None, false));
        detect(&self.shared, stream, peer, FIRST_WORKER).await
    }

    /// Resolves when no connection is left. Call after [`Listener::run`] has returned.
    pub async fn drained(&self) {
        self.shared.connections.close();
        self.shared.connections.wait().await;
    }

    fn hand_out(&self, stream: StdStream, address: SocketAddr, workers: &Workers) {
        let shared = &self.shared;
        if shared.connections.len() >= shared.config.connections_max {
            shared.metrics.refused.inc();
            return;
        }
        shared.metrics.accepted.inc();
        let (worker, load) = workers.least_loaded();
        let serving = serve(Arc::clone(shared), stream, address, worker.index);
        let counted = shared.connections.track_future(async move {
            serving.await;
            drop(load);
        });
        // Ends with the connection, and with the data thread at the latest.
        worker.handle.spawn(counted);
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn take_over(socket: net::TcpListener) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// What shows the certificates of a listener, if it has any.
///
/// # Errors
///
/// When a file cannot be used.
pub fn acceptor(config: &Config) -> anyhow::Result<Option<tls::Acceptor>> {
    use anyhow::Context;
    let load =
        |tls: &tls::AcceptorConfig| tls::Acceptor::load(tls.clone(), tls::Protocols::Http2OrHttp1);
    let loaded = config.tls.as_ref().map(load).transpose();
    loaded.with_context(|| format!("TLS of listener {:?}", config.name))
}

/// Serves one connection to its end.
async fn serve(shared: Arc<Shared>, stream: StdStream, address: SocketAddr, worker: usize) {
    shared.metrics.connections.inc();
    if let Err(reason) = handshake(&shared, stream, address, worker).await {
        shared.metrics.handshake_failures.inc();
        tracing::debug!(listener = shared.config.name, client = %address, reason, "connection failed");
    }
    shared.metrics.connections.dec();
}

async fn handshake(
    shared: &Arc<Shared>,
    stream: StdStream,
    address: SocketAddr,
    worker: usize,
) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let stream = TcpStream::from_std(stream).map_err(text)?;
    stream.set_nodelay(true).map_err(text)?;
    let local = stream.local_addr().map_err(text)?;
    match shared.tls.load_full() {
        None => {
            let peer = Arc::new(Peer::new(address, local, None, false));
            detect(shared, stream, peer, worker).await
        }
        Some(acceptor) => {
            let accepted = tokio::select! {
                accepted = acceptor.accept(stream) => accepted,
                () = too_late(shared) => return Ok(()),
            };
            let stream = accepted.map_err(|error| error.to_string())?;
            let name = tls::client_name(&stream);
            let peer = Arc::new(Peer::new(address, local, name.as_deref(), true));
            detect(shared, stream, peer, worker).await
        }
    }
}

/// Reads the first bytes and goes on in the protocol that they belong to.
async fn detect<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    shared: &Arc<Shared>,
    mut stream: T,
    peer: Arc<Peer>,
    worker: usize,
) -> Result<(), String> {
    let first = tokio::select! {
        first = timeout(FIRST_BYTES_TIMEOUT, first_bytes(&mut stream)) => first,
        () = too_late(shared) => return Ok(()),
    };
    let first = first.map_err(|_| "the client says nothing")?.map_err(|error| error.to_string())?;
    match &first[..] {
        // A probe that only looks whether the port is open.
        [] => Ok(()),
        first_bytes if first_bytes.starts_with(HTTP2_PREFACE) => {
            http2::serve(shared, stream, first, peer, worker).await
        }
        _ => http1::serve(shared, stream, first, peer, worker).await,
    }
}

/// Resolves when a client that has said nothing yet is not waited for any more.
async fn too_late(shared: &Shared) {
    shared.edge.draining.cancelled().await;
    sleep(LAST_WORDS_TIMEOUT).await;
}

/// Enough bytes to tell the protocols apart; none if the client closes at once.
async fn first_bytes(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let mut first = BytesMut::with_capacity(1 << 10);
    while first.len() < HTTP2_PREFACE.len() {
        if stream.read_buf(&mut first).await? == 0 {
            break;
        }
    }
    Ok(first.freeze())
}
