//! Another process in the place of this one, without a gap.
//!
//! ```text
//! this one:   SIGUSR2 -> starts the program again -> hands it its sockets -> waits ------> drains
//! the other:                                          takes them, reaches etcd, -> "ready"
//! ```
//!
//! Both have the same sockets then, so that no connection is refused or reset: what the kernel has
//! queued, whichever accepts takes. A successor that ends or says nothing changes nothing.
//!
//! What else the successor is to know comes as one more socket, which holds a text: a version that
//! does not ask for it takes it for a listener's that it does not have.
//!
//! A service manager may hold the sockets, too, as systemd does for a `.socket` unit: connections
//! then wait in them also while a process that has crashed is started again.

use anyhow::{Context, bail};
use listenfd::ListenFd;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::{
    env,
    ffi::OsStr,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    time::timeout,
};

/// Says that standard input is the other end of this.
const MARK: &str = "SEAWALL_HANDOVER";

/// What systemd tells this process of itself; the other one has a number of its own.
const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// The kernel sends no more at once.
const SOCKETS_MAX: usize = 253;

/// The name of the socket that holds a text; no listener has such a one.
const NOTE: &str = "@note";

/// More than the kernel keeps of it.
const NOTE_BYTES_MAX: u64 = 1 << 20;

const NAMES_BYTES_MAX: usize = 64 << 10;

/// A successor that is not ready after this long is ended.
const READY_MAX: Duration = Duration::from_secs(60);

const READY: &[u8] = b"ready";

/// What came from a predecessor, or from the service manager, if anything did.
#[derive(Debug, Default)]
pub struct Inherited {
    /// With the names by which a predecessor tells them apart.
    sockets: Vec<(Option<String>, TcpListener)>,
    note: Option<String>,
    predecessor: Option<UnixStream>,
}

impl Inherited {
    /// Takes over what this process was started with.
    ///
    /// # Errors
    ///
    /// When it was started by a predecessor that hands nothing over.
    pub fn receive() -> anyhow::Result<Self> {
        if env::var_os(MARK).as_deref() != Some(OsStr::new("stdin")) {
            return Ok(Self::passed(ListenFd::from_env()));
        }
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        Self::from(UnixStream::from(stdin)).context("taking sockets over")
    }

    /// What the service manager holds, as `LISTEN_FDS` tells.
    fn passed(mut descriptors: ListenFd) -> Self {
        let mut this = Self::default();
        for index in 0..descriptors.len() {
            match descriptors.take_tcp_listener(index) {
                Ok(socket) => this.sockets.extend(socket.map(|socket| (None, socket))),
                Err(error) => {
                    tracing::warn!(%error, "passed by the service manager, and of no use")
                }
            }
        }
        let addresses = this.sockets.iter().filter_map(|(_, socket)| socket.local_addr().ok());
        let addresses: Vec<_> = addresses.collect();
        if !addresses.is_empty() {
            tracing::info!(?addresses, "sockets were passed by the service manager");
        }
        this
    }

    fn from(mut stream: UnixStream) -> anyhow::Result<Self> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut names = vec![0; NAMES_BYTES_MAX];
        let into = &mut [IoSliceMut::new(&mut names)];
        let received = recvmsg(&stream, into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        names.truncate(received.bytes);
        while names.last().is_some_and(|last| *last != b'\n') && names.len() < NAMES_BYTES_MAX {
            let mut next = [0];
            stream.read_exact(&mut next)?;
            names.extend(next);
        }
        let sockets = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => sockets.collect(),
            _ => Vec::new(),
        });
        let sockets: Vec<OwnedFd> = sockets.collect();
        let names: Vec<_> = String::from_utf8(names)?.lines().map(str::to_owned).collect();
        if names.len() != sockets.len() {
            bail!("{} names for {} sockets", names.len(), sockets.len());
        }
        let (notes, sockets): (Vec<_>, Vec<_>) =
            names.into_iter().zip(sockets).partition(|(name, _)| name == NOTE);
        let note = notes.into_iter().next().map(|(_, socket)| read(socket)).transpose()?;
        let listener = |(name, socket)| (Some(name), TcpListener::from(socket));
        let sockets = sockets.into_iter().map(listener).collect();
        Ok(Self { sockets, note, predecessor: Some(stream) })
    }

    /// Whether there is a predecessor.
    pub fn is_successor(&self) -> bool {
        self.predecessor.is_some()
    }

    /// The text that came along, of a predecessor whose version sends one.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The socket of this name, if it is the one of `address`, where port 0 is any; or one without a
    /// name that is.
    pub fn take(&mut self, name: &str, address: SocketAddr) -> Option<TcpListener> {
        let serves = |(own, socket): &(Option<String>, TcpListener)| {
            let Ok(served) = socket.local_addr() else { return false };
            match own {
                None => served == address,
                Some(own) => {
                    let port = [served.port(), 0].contains(&address.port());
                    own == name && served.ip() == address.ip() && port
                }
            }
        };
        let found = self.sockets.iter().position(serves)?;
        Some(self.sockets.swap_remove(found).1)
    }

    /// Tells the predecessor that it may go. Sockets that were not taken are closed.
    ///
    /// # Errors
    ///
    /// When there is none any more, or it has given this process up.
    pub fn ready(self) -> anyhow::Result<()> {
        // What the service manager holds stays open, and those who connect wait for nobody.
        let passed = self.sockets.iter().filter(|(name, _)| name.is_none());
        for address in passed.filter_map(|(_, socket)| socket.local_addr().ok()) {
            tracing::warn!(%address, "a socket was passed, and no listener has its address");
        }
        let Some(mut predecessor) = self.predecessor else { return Ok(()) };
        predecessor.write_all(READY).context("the predecessor is gone")
    }
}

/// Starts this program again with these sockets and a text, and waits until it serves. Returns its
/// process id.
///
/// # Errors
///
/// When it does not come to that; then it has ended.
pub async fn hand_over(mut sockets: Vec<(String, OwnedFd)>, note: &str) -> anyhow::Result<u32> {
    sockets
        .push((NOTE.into(), written(note).context("more is to be told than there is room for")?));
    let (ours, theirs) = UnixStream::pair()?;
    let mut args = env::args_os();
    let program = args.next().context("the name of the program")?;
    let child = Command::new(program)
        .args(args)
        .env(MARK, "stdin")
        .env_remove(WATCHDOG_PID)
        .stdin(OwnedFd::from(theirs))
        .spawn()
        .context("starting the successor")?;
    let mut successor = Successor(Some(child));
    send(&ours, &sockets).context("handing sockets over")?;
    ours.set_nonblocking(true)?;
    let mut ours = tokio::net::UnixStream::from_std(ours)?;
    let mut said = [0; READY.len()];
    let reading = timeout(READY_MAX, ours.read_exact(&mut said)).await;
    match reading.context("the successor is not ready in time")? {
        Ok(_) if said == READY => successor.stays().context("the successor has ended"),
        Ok(_) => bail!("the successor does not say that it is ready"),
        Err(_) => bail!("the successor has ended; the log tells why"),
    }
}

fn send(stream: &UnixStream, sockets: &[(String, OwnedFd)]) -> anyhow::Result<()> {
    if sockets.len() > SOCKETS_MAX {
        bail!("{} sockets are more than {SOCKETS_MAX}", sockets.len());
    }
    let names: String = sockets.iter().map(|(name, _)| format!("{name}\n")).collect();
    let handles: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&handles)) {
        bail!("no room for {} sockets", handles.len());
    }
    let sent =
        sendmsg(stream, &[IoSlice::new(names.as_bytes())], &mut control, SendFlags::empty())?;
    let mut stream = stream;
    Ok(stream.write_all(&names.as_bytes()[sent..])?)
}

/// A socket out of which this text can be read to its end.
fn written(note: &str) -> io::Result<OwnedFd> {
    let (mut ours, theirs) = UnixStream::pair()?;
    // Nobody reads yet: what does not fit must not be waited for.
    ours.set_nonblocking(true)?;
    ours.write_all(note.as_bytes())?;
    Ok(theirs.into())
}

fn read(note: OwnedFd) -> io::Result<String> {
    let mut text = String::new();
    UnixStream::from(note).take(NOTE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The other process, which is ended with this value unless it stays.
struct Successor(Option<Child>);

impl Successor {
    fn stays(&mut self) -> Option<u32> {
        self.0.take()?.id()
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        // Fails when it has ended by itself.
        if let Some(child) = &mut self.0 {
            let _ = child.start_kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").expect("a port")
    }

    #[test]
    fn sockets_arrive_under_their_names() {
        let (here, there) = UnixStream::pair().expect("a pair");
        let (main, admin) = (listen(), listen());
        let addresses = [&main, &admin].map(|socket| socket.local_addr().expect("an address"));
        let note = written("a note").expect("there is room");
        let sockets =
            [("main".into(), main.into()), (NOTE.into(), note), ("@admin".into(), admin.into())];
        send(&here, &sockets).expect("they are sent");
        let mut inherited = Inherited::from(there).expect("they arrive");
        assert_eq!(inherited.note(), Some("a note"));
        assert!(inherited.take("other", addresses[0]).is_none());
        assert!(inherited.take("main", addresses[1]).is_none(), "another address");
        let any = SocketAddr::new(addresses[1].ip(), 0);
        let taken = inherited.take("@admin", any).expect("it is there");
        assert_eq!(taken.local_addr().expect("an address"), addresses[1]);
        assert!(inherited.take("main", addresses[0]).is_some());
        inherited.ready().expect("it is told");
        let mut said = [0; READY.len()];
        (&here).read_exact(&mut said).expect("it is told");
        assert_eq!(said, READY);
    }

    #[test]
    fn sockets_without_names_are_told_apart_by_their_addresses() {
        let sockets = [listen(), listen()];
        let addresses = sockets.each_ref().map(|socket| socket.local_addr().expect("an address"));
        let sockets = sockets.into_iter().map(|socket| (None, socket)).collect();
        let mut inherited = Inherited { sockets, ..Inherited::default() };
        let any = SocketAddr::new(addresses[1].ip(), 0);
        assert!(inherited.take("main", any).is_none(), "which one, nobody has said");
        let taken = inherited.take("main", addresses[1]).expect("it is there");
        assert_eq!(taken.local_addr().expect("an address"), addresses[1]);
        assert!(inherited.take("main", addresses[1]).is_none(), "it is taken");
        inherited.ready().expect("there is nobody to tell");
    }

    #[test]
    fn a_note_without_room_is_an_error_and_no_wait() {
        written(&"a".repeat(64 << 10)).expect("there is room");
        written(&"a".repeat(16 << 20)).expect_err("there is none");
    }
}
