//! Bytes that processes send and receive by TCP, as the kernel counts them for each socket.

use super::Group;
use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use procfs::process::{FDTarget, Process};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    ops::AddAssign,
};

/// What went over TCP, with all that HTTP/2 and TLS add.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Traffic {
    /// As far as it arrived.
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
}

/// Every socket that was seen to be of a group. One that has gone keeps what was last seen of it; what
/// it carried after that is lost, and so are sockets that came and went between two readings.
#[derive(Debug, Default)]
pub(super) struct Wire {
    seen: HashMap<Cookie, (Group, Traffic)>,
}

/// The kernel gives no two sockets the same one, as long as it runs.
type Cookie = [u8; 8];

impl Wire {
    /// # Errors
    ///
    /// When the kernel tells nothing of its sockets.
    pub(super) fn read(&mut self, processes: &[(Group, u32)]) -> Result<()> {
        let owners = owners(processes);
        each_socket(|socket| {
            let Some(traffic) = traffic(&socket) else { return };
            let cookie = socket.header.socket_id.cookie;
            // Once closed it is nobody's, and may still have something to send.
            let known = self.seen.get(&cookie).map(|(group, _)| *group);
            let owner = known.or_else(|| owners.get(&u64::from(socket.header.inode)).copied());
            if let Some(group) = owner {
                self.seen.insert(cookie, (group, traffic));
            }
        })
        .context("asking the kernel for its TCP sockets")
    }

    /// Of all sockets so far.
    pub(super) fn totals(&self) -> BTreeMap<Group, Traffic> {
        let mut totals = BTreeMap::<Group, Traffic>::new();
        for &(group, traffic) in self.seen.values() {
            *totals.entry(group).or_default() += traffic;
        }
        totals
    }
}

impl Traffic {
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes.saturating_sub(before.sent_bytes),
            received_bytes: self.received_bytes.saturating_sub(before.received_bytes),
        }
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
    }
}

/// Whose each inode of a socket is.
fn owners(processes: &[(Group, u32)]) -> HashMap<u64, Group> {
    let mut owners = HashMap::new();
    for &(group, pid) in processes {
        // One that has just ended holds no sockets, and whoever closes one meanwhile has it no more.
        let Some(files) = i32::try_from(pid).ok().and_then(files) else { continue };
        owners.extend(files.filter_map(|target| match target {
            FDTarget::Socket(inode) => Some((inode, group)),
            _ => None,
        }));
    }
    owners
}

fn files(pid: i32) -> Option<impl Iterator<Item = FDTarget>> {
    let files = Process::new(pid).ok()?.fd().ok()?;
    Some(files.filter_map(|file| Some(file.ok()?.target)))
}

/// None of a socket that is not counted.
fn traffic(socket: &InetResponse) -> Option<Traffic> {
    socket.nlas.iter().find_map(|attribute| match attribute {
        Nla::TcpInfo(info) => {
            Some(Traffic { sent_bytes: info.bytes_acked, received_bytes: info.bytes_received })
        }
        _ => None,
    })
}

fn each_socket(mut found: impl FnMut(InetResponse)) -> Result<()> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        socket.send(&request(family, any), 0)?;
        receive(&socket, &mut found)?;
    }
    Ok(())
}

/// For all TCP sockets of a family that have carried something.
fn request(family: u8, socket_id: SocketId) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::INFO,
        states: StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT,
        socket_id,
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// All messages of one answer.
fn receive(socket: &Socket, found: &mut impl FnMut(InetResponse)) -> Result<()> {
    /// The kernel sends no more at once.
    const DATAGRAM_MAX: usize = 64 << 10;
    const ALIGNMENT: usize = 4;
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let length = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = buffer.get(..length).context("a datagram that was cut off")?;
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(of)) => found(*of),
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                other => bail!("an answer that is none: {other:?}"),
            }
            let length = (message.header.length as usize).next_multiple_of(ALIGNMENT);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;
    use seawall_testkit::eventually;
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        process,
        time::Duration,
    };

    const BYTES: usize = 1 << 20;

    /// Two ends of a connection, of which the first has sent that much and the second has read it.
    fn used_pair(bind: &str) -> Result<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind(bind)?;
        let mut one = TcpStream::connect(listener.local_addr()?)?;
        let (mut other, _) = listener.accept()?;
        let writes = std::thread::spawn(move || one.write_all(&vec![7; BYTES]).map(|()| one));
        other.read_exact(&mut vec![0; BYTES])?;
        let one = writes.join().expect("it does not panic")?;
        Ok((one, other))
    }

    /// What the kernel says of the socket between two ports.
    fn traffic_of(stream: &TcpStream) -> Result<Traffic> {
        let (own, peer) = (stream.local_addr()?.port(), stream.peer_addr()?.port());
        let mut counted = None;
        each_socket(|socket| {
            let id = &socket.header.socket_id;
            if (id.source_port, id.destination_port) == (own, peer) {
                counted = traffic(&socket);
            }
        })?;
        counted.context("the socket is there")
    }

    #[tokio::test]
    async fn a_socket_has_carried_what_was_written_to_it() -> Result<()> {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            // Not every machine speaks IPv6.
            let Ok((one, other)) = used_pair(bind) else { continue };
            let deadline = Duration::from_secs(30);
            eventually(deadline, "all of it to be acknowledged", async || {
                let sent = traffic_of(&one)?;
                // The beginning of a connection counts as a byte.
                let whole = [BYTES as u64, BYTES as u64 + 1];
                ensure!(whole.contains(&sent.sent_bytes) && sent.received_bytes == 0, "{sent:?}");
                Ok(())
            })
            .await?;
            assert_eq!(traffic_of(&other)?.received_bytes, BYTES as u64);
        }
        Ok(())
    }

    #[test]
    fn a_group_has_what_its_sockets_carried_also_those_that_have_gone() -> Result<()> {
        let mut wire = Wire::default();
        let mut received = |processes: &[(Group, u32)]| -> Result<Option<u64>> {
            wire.read(processes)?;
            Ok(wire.totals().get(&Group::Peer).map(|traffic| traffic.received_bytes))
        };
        let here = [(Group::Peer, process::id())];
        let pair = used_pair("127.0.0.1:0")?;
        assert_eq!(received(&[])?, None, "they are nobody's");
        assert!(received(&here)? >= Some(BYTES as u64));
        drop(pair);
        assert!(received(&[])? >= Some(BYTES as u64));
        Ok(())
    }
}
