//! How a running Seawall leaves its place to another process.

use super::{App, switched::Switched};
use crate::{handover, listener::Listener, telemetry::notify};
use anyhow::Context;
use std::{net::SocketAddr, os::fd::OwnedFd, sync::Arc, time::Duration};
use tokio::time::timeout;

impl App {
    /// Starts another process and hands it the sockets, on which it serves when this returns, and what
    /// was switched by hand.
    pub(super) async fn hand_over(&self) -> anyhow::Result<()> {
        let mut sockets = Vec::new();
        for (listener, settings) in self.listeners.iter().zip(&self.settings.listeners) {
            let name = settings.listener.name.clone();
            sockets.extend(listener.socket()?.map(|socket| (name, socket)));
        }
        if let Some(admin) = &self.admin {
            sockets.push((ADMIN.to_owned(), admin.socket.try_clone()?));
        }
        tracing::info!("starting a successor");
        let switched = self.switched();
        let pid = handover::hand_over(sockets, &serde_json::to_string(&switched)?).await?;
        tracing::info!(pid, "a successor has taken over");
        let (before, now) = (switched, self.switched());
        if before != now {
            tracing::warn!(?before, ?now, "switched too late for the successor: switch it again");
        }
        notify::succeeded_by(pid);
        Ok(())
    }

    fn switched(&self) -> Switched {
        Switched::of(&self.protection, &self.backends)
    }

    /// Takes leave of the clients for a successor: new connections are its own from now on, and no
    /// balancer needs to look elsewhere.
    pub(super) async fn leave(mut self) {
        self.tasks.clear();
        self.settings.drain.delay = Duration::ZERO;
        self.stop().await;
    }
}

/// The operator's port, and a handle of it for a successor.
#[derive(Debug)]
pub(super) struct AdminPort {
    pub(super) address: SocketAddr,
    pub(super) socket: OwnedFd,
}

/// The name of that socket among those that are handed over; no listener has such a one.
pub(super) const ADMIN: &str = "@admin";

/// A successor that has not reached etcd after this long does not take over.
const REACH_MAX: Duration = Duration::from_secs(30);

/// Waits until the default cluster of each listener answers.
pub(super) async fn reach_etcd(listeners: &[Arc<Listener>]) -> anyhow::Result<()> {
    for listener in listeners {
        let topology = listener.edge().topology();
        let cluster = topology.default().cluster;
        let reached = timeout(REACH_MAX, cluster.healthy()).await;
        reached.with_context(|| format!("etcd cluster {:?} does not answer", &*cluster.name))?;
    }
    Ok(())
}
