//! Another process in the place of this one, without a gap.
//!
//! ```text
//! this one:   SIGUSR2 -> starts the program again -> hands it its sockets -> waits ------> drains
//! the other:                                          takes them, reaches etcd, -> "ready"
//! ```
//!
//! Both have the same sockets then, so that no connection is refused or reset: what the kernel has
//! queued, whichever accepts takes. A successor that ends or says nothing changes nothing.

use anyhow::{Context, bail};
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

const NAMES_BYTES_MAX: usize = 64 << 10;

/// A successor that is not ready after this long is ended.
const READY_MAX: Duration = Duration::from_secs(60);

const READY: &[u8] = b"ready";

/// What came from a predecessor, if there is one.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<(String, TcpListener)>,
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
            return Ok(Self::default());
        }
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        Self::from(UnixStream::from(stdin)).context("taking sockets over")
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
        let sockets: Vec<_> = sockets.map(TcpListener::from).collect();
        let names: Vec<_> = String::from_utf8(names)?.lines().map(str::to_owned).collect();
        if names.len() != sockets.len() {
            bail!("{} names for {} sockets", names.len(), sockets.len());
        }
        Ok(Self { sockets: names.into_iter().zip(sockets).collect(), predecessor: Some(stream) })
    }

    /// Whether there is a predecessor.
    pub fn is_successor(&self) -> bool {
        self.predecessor.is_some()
    }

    /// The socket of this name, if it is the one of `address`; port 0 is any.
    pub fn take(&mut self, name: &str, address: SocketAddr) -> Option<TcpListener> {
        let serves = |socket: &TcpListener| {
            socket.local_addr().is_ok_and(|own| {
                own.ip() == address.ip() && [own.port(), 0].contains(&address.port())
            })
        };
        let found = self.sockets.iter().position(|(own, socket)| own == name && serves(socket))?;
        Some(self.sockets.swap_remove(found).1)
    }

    /// Tells the predecessor that it may go. Sockets that were not taken are closed.
    ///
    /// # Errors
    ///
    /// When there is none any more, or it has given this process up.
    pub fn ready(self) -> anyhow::Result<()> {
        let Some(mut predecessor) = self.predecessor else { return Ok(()) };
        predecessor.write_all(READY).context("the predecessor is gone")
    }
}

/// Starts this program again with these sockets and waits until it serves. Returns its process id.
///
/// # Errors
///
/// When it does not come to that; then it has ended.
pub async fn hand_over(sockets: &[(String, OwnedFd)]) -> anyhow::Result<u32> {
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
    send(&ours, sockets).context("handing sockets over")?;
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
        send(&here, &[("main".into(), main.into()), ("@admin".into(), admin.into())])
            .expect("they are sent");
        let mut inherited = Inherited::from(there).expect("they arrive");
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
}
