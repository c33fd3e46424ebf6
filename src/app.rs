//! The composition root: settings become components, and a change of settings changes them.
//! The only part that knows them all.

mod backends;
#[cfg(test)]
mod leases;
mod process;
mod reaching;
mod succession;
mod switched;

pub use process::run;

use crate::{
    access::Access,
    admin::{Admin, View, metrics_text},
    admission::Protection,
    attribution::Attribution,
    config::{Reloader, Settings, reload::Plan},
    drain::{Signals, drain},
    handover::Inherited,
    listener::{self, Listener},
    mirror,
    pipeline::{self, Reads, Topology},
    rpc::{Common, Edge, Page},
    telemetry::{Log, Process, Traces, audit::audit},
    tls, upstream,
    worker::Workers,
};
use anyhow::Context;
use backends::{Backends, Families, start_backends, topology};
use futures_util::future::join_all;
use prometheus_client::registry::Registry;
use reaching::await_etcd;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use succession::{ADMIN, AdminPort, reach_etcd};
use switched::Switched;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

/// A running Seawall. Dropping it cuts everything off; [`App::stop`] takes leave.
#[derive(Debug)]
pub struct App {
    settings: Settings,
    backends: Backends,
    listeners: Vec<Arc<Listener>>,
    admin: Option<AdminPort>,
    signals: Signals,
    /// What the operator's port goes by.
    livez_after: watch::Sender<Duration>,
    protection: Arc<Protection>,
    access: Arc<Access>,
    reads: Arc<Reads>,
    attribution: Arc<Attribution>,
    traces: Option<Arc<Traces>>,
    families: Families,
    calls: Arc<pipeline::Metrics>,
    workers: Arc<Workers>,
    /// The operator's port, and asking data threads for turns.
    tasks: Vec<AbortOnDropHandle<()>>,
    accepting: Vec<AbortOnDropHandle<()>>,
    /// Tells when etcd is reached.
    reaching: Option<AbortOnDropHandle<()>>,
}

/// What takes the place of what runs.
struct Prepared {
    backends: Backends,
    /// Of each listener.
    topologies: Vec<Topology>,
    /// Of the listeners whose TLS changes.
    acceptors: Vec<(Arc<Listener>, Option<tls::Acceptor>)>,
}

impl App {
    /// Starts everything; clients can connect when this returns, whether or not etcd answers: the log says
    /// `ready` when it does. A successor first sees to it that it
    /// reaches etcd as its predecessor does.
    ///
    /// # Errors
    ///
    /// When an address or a file cannot be used, or a successor's etcd does not answer.
    pub async fn start(settings: Settings, inherited: &mut Inherited) -> anyhow::Result<Self> {
        let started = Instant::now();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        let ours = registry.sub_registry_with_prefix("seawall");
        let families = Families {
            upstream: upstream::Metrics::register(ours),
            mirror: mirror::Families::register(ours),
        };
        let listener_metrics = listener::Metrics::register(ours);
        let call_metrics = Arc::new(pipeline::Metrics::register(ours));
        let attribution = Attribution::new(settings.attribution.clone(), settings.workers, ours);
        let protection = Protection::new(settings.protection.clone(), ours);
        let access = Access::new(settings.access.clone(), ours);
        let reads = Reads::new(Arc::clone(&protection), ours);
        let registry = Arc::new(registry);

        let workers = Arc::new(Workers::start(settings.workers).context("data threads")?);
        let signals = Signals::default();
        let backends = start_backends(&settings, &Backends::new(), &families, &protection)?;
        if let Some(note) = inherited.note() {
            Switched::read(note).take_over(&protection, &backends);
        }
        let traces = settings.tracing.as_ref().map(Traces::start).transpose()?.map(Arc::new);
        let page = Page(Arc::new({
            let registry = Arc::clone(&registry);
            move || metrics_text(&registry)
        }));
        let common = Common {
            metrics: Arc::clone(&call_metrics),
            protection: Arc::clone(&protection),
            access: Arc::clone(&access),
            reads: Arc::clone(&reads),
            attribution: Arc::clone(&attribution),
            traces: traces.clone(),
            metrics_page: page,
            draining: signals.draining.clone(),
        };
        let mut listeners = Vec::new();
        for settings in &settings.listeners {
            let topology = topology(settings, &backends, &protection, &signals.draining)?;
            let edge = Edge::new(topology, settings.listener.request_bytes_max, common.clone());
            let config = settings.listener.clone();
            let (edge, socket) = (Arc::new(edge), inherited.take(&config.name, config.address));
            listeners.push(Arc::new(Listener::bind(config, socket, edge, &listener_metrics)?));
        }
        if inherited.is_successor() {
            reach_etcd(&listeners).await?;
        }
        let livez_after = watch::Sender::new(livez_after(&settings));
        let view = View {
            started,
            listeners: listeners
                .iter()
                .zip(&settings.listeners)
                .map(|(listener, settings)| {
                    let name = settings.listener.name.clone();
                    (name, listener.address, Arc::clone(listener.edge()))
                })
                .collect(),
            livez_after: livez_after.subscribe(),
            token_file: settings.admin.as_ref().and_then(|admin| admin.token_file.clone()),
            signals: signals.clone(),
            registry,
            attribution: Arc::clone(&attribution),
            protection: Arc::clone(&protection),
            calls: Arc::clone(&call_metrics),
            workers: Arc::clone(&workers),
        };
        let mut app = Self {
            backends,
            listeners,
            admin: None,
            signals,
            livez_after,
            protection,
            access,
            reads,
            attribution,
            traces,
            families,
            calls: call_metrics,
            workers,
            tasks: Vec::new(),
            accepting: Vec::new(),
            reaching: None,
            settings,
        };
        app.serve_admin(view, inherited).await?;
        let workers = Arc::clone(&app.workers);
        let asking = async move { workers.ask().await };
        app.tasks.push(AbortOnDropHandle::new(tokio::spawn(asking)));
        app.accept();
        let protections: Vec<_> = app
            .protection
            .standings()
            .iter()
            .map(|standing| format!("{}: {}", standing.protection, standing.mode))
            .collect();
        tracing::info!(?protections, "protecting");
        tracing::info!(workers = app.settings.workers, "started");
        app.reaching = Some(await_etcd(&app.listeners, &app.signals.leaving));
        Ok(app)
    }

    async fn serve_admin(&mut self, view: View, inherited: &mut Inherited) -> anyhow::Result<()> {
        let Some(config) = &self.settings.admin else { return Ok(()) };
        let admin = Admin::bind(config, inherited.take(ADMIN, config.address)).await?;
        let (tls, token) = (config.tls.is_some(), config.token_file.is_some());
        tracing::info!(address = %admin.address, tls, token, "admin listening");
        self.admin = Some(AdminPort { address: admin.address, socket: admin.socket()? });
        let serving = tokio::spawn(admin.run(Arc::new(view)));
        self.tasks.push(AbortOnDropHandle::new(serving));
        Ok(())
    }

    fn accept(&mut self) {
        for (listener, settings) in self.listeners.iter().zip(&self.settings.listeners) {
            let routes: Vec<_> = settings
                .routes
                .iter()
                .map(|route| format!("{} -> {}", route.prefix, route.cluster))
                .collect();
            tracing::info!(
                listener = settings.listener.name,
                address = %listener.address,
                tls = settings.listener.tls.is_some(),
                default = settings.default,
                ?routes,
                "listening"
            );
            let (listener, workers) = (Arc::clone(listener), Arc::clone(&self.workers));
            let draining = self.signals.draining.clone();
            let accepting = async move { listener.run(workers, draining).await };
            self.accepting.push(AbortOnDropHandle::new(tokio::spawn(accepting)));
        }
    }

    /// The listener of this name.
    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        let mut named = self.settings.listeners.iter().zip(&self.listeners);
        named.find(|(settings, _)| settings.listener.name == name).map(|(_, listener)| listener)
    }

    /// Where the listener of this name can be reached.
    pub fn address(&self, listener: &str) -> Option<SocketAddr> {
        self.listener(listener).map(|listener| listener.address)
    }

    /// Where the operator's port can be reached.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|admin| admin.address)
    }

    /// Reads the configuration again and takes over what may change; anything wrong with it leaves
    /// everything as it is.
    fn reload(&mut self, reloader: &Reloader, log: &Log) {
        if let Err(error) = log.reopen() {
            tracing::error!(error = format!("{error:#}"), "the audit goes on in the old file");
        }
        let wanted = match reloader.load() {
            Ok(wanted) => wanted,
            Err(error) => {
                return tracing::error!(%error, "configuration not reloaded; the last good one stays");
            }
        };
        let plan = Plan::new(&self.settings, wanted);
        if !plan.restart.is_empty() {
            tracing::warn!(keys = ?plan.restart, "changed, but taken over only by a restart");
        }
        if plan.live.is_empty() {
            return tracing::info!("configuration read again: nothing to take over");
        }
        match self.apply(plan.settings).and_then(|()| log.set_level(&self.settings.log.level)) {
            Ok(()) => {
                audit!("configuration_changed", keys = ?plan.live, "the configuration was changed");
                tracing::info!(keys = ?plan.live, "configuration reloaded");
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "configuration not reloaded; the last good one stays");
            }
        }
    }

    /// Takes over settings that differ only in what may change live.
    ///
    /// # Errors
    ///
    /// When a file cannot be used; then nothing has changed.
    pub fn apply(&mut self, settings: Settings) -> anyhow::Result<()> {
        let prepared = self.prepare(&settings);
        // What was counted of clusters that are not to be.
        let Prepared { backends, topologies, acceptors } =
            prepared.inspect_err(|_| self.forget(&settings.clusters, &self.settings.clusters))?;
        for (listener, tls) in acceptors {
            listener.show(tls);
        }
        let mut elsewhere = false;
        // What may not be watched any more must not be seen any longer.
        let judged_anew = self.settings.access != settings.access;
        self.access.apply(settings.access.clone());
        let running = self.settings.listeners.iter().zip(&settings.listeners);
        for ((listener, topology), (before, after)) in
            self.listeners.iter().zip(topologies).zip(running)
        {
            let moved = topology.clusters.iter().any(|cluster| {
                let before = self.backends.get(&*cluster.name);
                before.is_none_or(|before| !Arc::ptr_eq(&before.cluster, cluster))
            });
            let same = (&before.default, &before.routes, &before.advertise)
                == (&after.default, &after.routes, &after.advertise);
            elsewhere |= moved || !same;
            if moved || !same || judged_anew {
                listener.edge().replace(topology);
            }
        }
        if elsewhere {
            self.reaching = Some(await_etcd(&self.listeners, &self.signals.leaving));
        }
        self.protection.apply(settings.protection.clone());
        self.reads.reconfigure();
        self.attribution.reconfigure(settings.attribution.clone());
        for backend in backends.values() {
            backend.running.mirror.reconfigure(settings.mirror.clone());
        }
        self.livez_after.send_replace(livez_after(&settings));
        self.forget(&self.settings.clusters, &settings.clusters);
        self.backends = backends;
        self.settings = settings;
        Ok(())
    }

    /// Shows nothing more of what `gone` names and `left` does not.
    fn forget(&self, gone: &[upstream::Config], left: &[upstream::Config]) {
        for cluster in self.families.forget(gone, left) {
            self.protection.forget(cluster);
            self.calls.forget(cluster);
            self.reads.forget(cluster);
        }
    }

    /// All that can fail of taking over `settings`.
    fn prepare(&self, settings: &Settings) -> anyhow::Result<Prepared> {
        let mut acceptors = Vec::new();
        let running = self.listeners.iter().zip(&self.settings.listeners);
        for ((listener, before), after) in running.zip(&settings.listeners) {
            // What has not changed looks at its files by itself, and keeps the good ones.
            if before.listener.tls != after.listener.tls {
                let tls = listener::acceptor(&after.listener)?;
                acceptors.push((Arc::clone(listener), tls));
            }
        }
        // What is started shows itself at once, and so comes when all files are known to be good.
        let (families, protection) = (&self.families, &self.protection);
        let backends = start_backends(settings, &self.backends, families, protection)?;
        let topologies = settings
            .listeners
            .iter()
            .map(|listener| topology(listener, &backends, protection, &self.signals.draining))
            .collect::<Result<_, _>>()?;
        Ok(Prepared { backends, topologies, acceptors })
    }

    /// Takes leave of the clients and ends.
    pub async fn stop(mut self) {
        let drained = async {
            // The sockets close as the draining signal reaches them.
            join_all(std::mem::take(&mut self.accepting)).await;
            join_all(self.listeners.iter().map(|listener| listener.drained())).await;
        };
        drain(&self.settings.drain, &self.signals, drained).await;
        if let Some(traces) = &self.traces {
            traces.stop().await;
        }
    }
}

fn livez_after(settings: &Settings) -> Duration {
    settings.admin.as_ref().map_or(Duration::MAX, |admin| admin.livez_after)
}
