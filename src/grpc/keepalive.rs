//! HTTP/2 pings that find out whether the other side is still there.

use h2::{Ping, PingPong};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep};

/// Pings a connection that has been silent, and tells when no answer came.
///
/// ```text
/// Quiet --interval passed, calls open--> Pinged --answered--> Quiet
///                                          `--timeout passed--> dead
/// ```
#[derive(Debug)]
pub struct Keepalive {
    pings: PingPong,
    interval: Duration,
    timeout: Duration,
    pinged: bool,
    timer: Pin<Box<Sleep>>,
    /// When the last bytes arrived, as last told.
    heard: Instant,
}

/// No answer to a ping came in time.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("no answer to an HTTP/2 ping for {}s", .0.as_secs_f32())]
pub struct Dead(pub Duration);

impl Keepalive {
    pub fn new(pings: PingPong, interval: Duration, timeout: Duration) -> Self {
        let timer = Box::pin(sleep(interval));
        Self { pings, interval, timeout, pinged: false, timer, heard: Instant::now() }
    }

    /// Notes that bytes arrived, which answers for a ping.
    pub fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// Ready when the connection is dead. `busy` says whether calls are open on it: etcd answers
    /// pings on an idle connection with GOAWAY.
    pub fn poll_dead(&mut self, cx: &mut Context<'_>, busy: bool) -> Poll<Dead> {
        loop {
            if self.pinged && self.pings.poll_pong(cx).is_ready() {
                self.pinged = false;
                self.timer.as_mut().reset(Instant::now() + self.interval);
            }
            ready!(self.timer.as_mut().poll(cx));
            let due = self.heard + if self.pinged { self.timeout } else { self.interval };
            if due > Instant::now() {
                self.timer.as_mut().reset(due);
            } else if self.pinged {
                return Poll::Ready(Dead(self.timeout));
            } else if busy && self.pings.send_ping(Ping::opaque()).is_ok() {
                self.pinged = true;
                self.heard = Instant::now();
                self.timer.as_mut().reset(self.heard + self.timeout);
            } else {
                self.timer.as_mut().reset(Instant::now() + self.interval);
            }
        }
    }
}
