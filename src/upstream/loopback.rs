//! Members in the process of a test, on its own thread, by the names of their hosts.

use std::{cell::RefCell, collections::HashMap, io};
use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc,
};

thread_local! {
    static LISTENING: RefCell<HashMap<String, mpsc::Sender<DuplexStream>>> = RefCell::default();
}

/// Connections that nobody has taken yet; more are refused.
const BACKLOG: usize = 64;

/// Bytes under way in each direction.
const BUFFER: usize = 1 << 16;

/// The connections that are made to `host` from now on.
pub(crate) fn listen(host: &str) -> mpsc::Receiver<DuplexStream> {
    let (connections, taken) = mpsc::channel(BACKLOG);
    LISTENING.with_borrow_mut(|listening| listening.insert(host.to_owned(), connections));
    taken
}

/// A connection to `host`, where it is such a member.
pub(super) fn dial(host: &str) -> Option<io::Result<DuplexStream>> {
    LISTENING.with_borrow(|listening| {
        let connections = listening.get(host)?;
        let (ours, theirs) = duplex(BUFFER);
        let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
        Some(connections.try_send(theirs).map_err(refused).map(|()| ours))
    })
}
