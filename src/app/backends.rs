//! The clusters, what is held of them, and which of them a listener speaks for.

use crate::{
    admission::Protection,
    config::{Listener, Settings},
    mirror,
    pipeline::{Tokens, Topology, steer},
    routing::Table,
    tls,
    upstream::{self, Cluster},
};
use anyhow::Context;
use std::{collections::HashMap, sync::Arc};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// An etcd cluster and what is held of it.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    pub(super) cluster: Arc<Cluster>,
    pub(super) running: Arc<mirror::Running>,
    /// The gate outlives what is changed of a cluster: only one may open and narrow it.
    _steering: Arc<AbortOnDropHandle<()>>,
}

/// By the names of clusters.
pub(super) type Backends = HashMap<String, Backend>;

/// What is counted of clusters.
#[derive(Debug)]
pub(super) struct Families {
    pub(super) upstream: upstream::Metrics,
    pub(super) mirror: mirror::Families,
}

impl Families {
    /// Forgets what `gone` names and `left` does not: a member that nobody asks any more would be down for
    /// ever. Tells which clusters these are.
    pub(super) fn forget<'g>(
        &self,
        gone: &'g [upstream::Config],
        left: &[upstream::Config],
    ) -> Vec<&'g str> {
        let mut clusters = Vec::new();
        for cluster in gone {
            let left = left.iter().find(|left| left.name == cluster.name);
            for endpoint in &cluster.endpoints {
                if left.is_none_or(|left| !left.endpoints.contains(endpoint)) {
                    self.upstream.forget_member(&cluster.name, endpoint);
                }
            }
            if left.is_none() {
                self.upstream.forget_cluster(&cluster.name);
                self.mirror.forget(&cluster.name);
                clusters.push(&*cluster.name);
            }
        }
        clusters
    }
}

/// The clusters of `settings`; those whose settings have not changed stay the ones in `running`. What
/// was switched off by hand of the others stays so.
///
/// # Errors
///
/// When files cannot be used; then nothing was started.
pub(super) fn start_backends(
    settings: &Settings,
    running: &Backends,
    families: &Families,
    protection: &Arc<Protection>,
) -> anyhow::Result<Backends> {
    let same = |config: &&upstream::Config| {
        running.get(&config.name).filter(|before| *before.cluster.settings == **config).cloned()
    };
    let load = |config: &upstream::Config| {
        let connector = Cluster::connector(config);
        connector.with_context(|| format!("etcd cluster {:?}", config.name))
    };
    let found = settings.clusters.iter().map(|config| match same(&config) {
        Some(same) => Ok((config, Found::Running(same))),
        None => Ok((config, Found::Connector(load(config)?))),
    });
    let found: Vec<_> = found.collect::<anyhow::Result<_>>()?;
    // What starts shows itself in the place of what runs under its name.
    let start = |(config, found): (&upstream::Config, Found)| {
        let name = config.name.clone();
        let connector = match found {
            Found::Running(same) => return (name, same),
            Found::Connector(connector) => connector,
        };
        let workers = settings.workers + 1;
        let cluster = Cluster::start(config.clone(), connector, &families.upstream, workers);
        let gate = protection.gate(&cluster.name);
        let config = settings.mirror.clone();
        let (guarded, families) = (Arc::clone(protection), &families.mirror);
        let mirror = mirror::start(&cluster, Arc::clone(&gate), guarded, config, families);
        if let Some(before) = running.get(&name) {
            let all = before.running.mirror.collections().into_iter();
            let off = all.filter(|collection| collection.is_off());
            off.for_each(|collection| mirror.mirror.start_off(&collection.name));
        }
        let steering = steer(
            Arc::downgrade(&cluster),
            gate,
            Arc::clone(protection),
            Arc::clone(&mirror.mirror),
        );
        let _steering = Arc::new(AbortOnDropHandle::new(tokio::spawn(steering)));
        (name, Backend { cluster, running: Arc::new(mirror), _steering })
    };
    Ok(found.into_iter().map(start).collect())
}

/// What there is of a cluster before any is started.
enum Found {
    Running(Backend),
    Connector(tls::Connector),
}

/// The clusters behind a listener, the default one first, until `draining` is cancelled.
pub(super) fn topology(
    settings: &Listener,
    backends: &Backends,
    protection: &Protection,
    draining: &CancellationToken,
) -> anyhow::Result<Topology> {
    let mut used: Vec<&Backend> = Vec::new();
    let mut index_of = |name: &str| {
        let known = used.iter().position(|backend| *backend.cluster.name == *name);
        if let Some(index) = known {
            return Ok(index);
        }
        let backend = backends.get(name).with_context(|| format!("no etcd cluster {name:?}"))?;
        used.push(backend);
        anyhow::Ok(used.len() - 1)
    };
    let default = index_of(&settings.default)?;
    let routes =
        settings.routes.iter().map(|route| Ok((route.prefix.clone(), index_of(&route.cluster)?)));
    let routes: Vec<_> = routes.collect::<anyhow::Result<_>>()?;
    let table = Table::new(default, routes)
        .with_context(|| format!("routes of listener {:?}", settings.listener.name))?;
    let names = used.iter().map(|backend| Arc::clone(&backend.cluster.name));
    let tokens = Tokens::new(names.collect());
    let gates = used.iter().map(|backend| protection.gate(&backend.cluster.name));
    Ok(Topology {
        gates: gates.collect(),
        mirrors: used.iter().map(|backend| Arc::clone(&backend.running.mirror)).collect(),
        clusters: used.into_iter().map(|backend| Arc::clone(&backend.cluster)).collect(),
        table,
        advertise: settings.advertise.clone(),
        tokens,
        ended: draining.child_token(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{self, Flags},
        etcd::key_range::KeyRange,
        upstream::loopback,
    };
    use prometheus_client::{encoding::text, registry::Registry};
    use std::{path::Path, time::Duration};
    use tokio::task::yield_now;

    /// What starts the clusters of a configuration, as an `App` does.
    struct Starting {
        registry: Registry,
        families: Families,
        protection: Arc<Protection>,
    }

    impl Starting {
        /// With the settings of one cluster, `main` at `host`.
        fn new(host: &str) -> (Self, Settings) {
            let text = format!("clusters: {{main: {{endpoints: ['http://{host}:2379']}}}}");
            let built = config::build(Some((Path::new("seawall.yaml"), &text)), &Flags::default());
            let settings = built.expect("a configuration").settings;
            let mut registry = Registry::default();
            let families = Families {
                upstream: upstream::Metrics::register(&mut registry),
                mirror: mirror::Families::register(&mut registry),
            };
            let protection = Protection::new(settings.protection.clone(), &mut registry);
            (Self { registry, families, protection }, settings)
        }

        fn start(&self, settings: &Settings, running: &Backends) -> anyhow::Result<Backends> {
            start_backends(settings, running, &self.families, &self.protection)
        }

        fn member_state(&self) -> String {
            let mut shown = String::new();
            text::encode(&mut shown, &self.registry).expect("text");
            let state = shown.lines().find(|line| line.starts_with("upstream_member_state{"));
            state.expect("it is shown").to_owned()
        }
    }

    /// Any change of its cluster switched a collection on again, without a word.
    #[tokio::test(start_paused = true)]
    async fn a_collection_that_is_off_stays_off_when_its_cluster_starts_anew() {
        let (starting, mut settings) = Starting::new("main");
        let before = starting.start(&settings, &Backends::new()).expect("it starts");
        before["main"].running.mirror.start_off(b"/registry/pods");
        settings.clusters[0].backoff_max += Duration::from_secs(1);
        let after = starting.start(&settings, &before).expect("it starts");
        assert!(!Arc::ptr_eq(&before["main"].cluster, &after["main"].cluster));
        let all = after["main"].running.mirror.collections();
        let off = all.iter().filter(|it| it.is_off()).map(|it| &it.name[..]);
        assert_eq!(off.collect::<Vec<_>>(), [b"/registry/pods"]);
    }

    /// The members of a cluster that a reload was to change were of unknown state, and the mirror not
    /// live, from a reload on that had failed: what was about to take their place had shown itself.
    #[tokio::test(start_paused = true)]
    async fn a_reload_that_fails_has_started_nothing() {
        // Whoever dials is refused.
        drop(loopback::listen("refused"));
        let (starting, mut settings) = Starting::new("refused");
        let running = starting.start(&settings, &Backends::new()).expect("it starts");
        running["main"].cluster.changed().await;
        let before = starting.member_state();
        let mut broken = settings.clusters[0].clone();
        broken.name = "broken".into();
        broken.tls.ca_file = Some("/nowhere".into());
        settings.clusters[0].backoff_max += Duration::from_secs(1);
        settings.clusters.push(broken);
        starting.start(&settings, &running).map(drop).expect_err("it needs a file");
        assert_eq!(starting.member_state(), before);
    }

    /// While somebody waited in the line of a lock, a cluster as it was before a reload went on to open and
    /// narrow the gate of the one that was there now, by what its members had said last.
    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_is_gone_steers_nothing() {
        let (starting, settings) = Starting::new("main");
        let gate = starting.protection.gate(&"main".into());
        let before = Arc::strong_count(&gate);
        let backends = starting.start(&settings, &Backends::new()).expect("it starts");
        assert!(Arc::strong_count(&gate) > before);
        let _kept = Arc::clone(&backends["main"].cluster);
        drop(backends);
        yield_now().await;
        assert_eq!(Arc::strong_count(&gate), before);
    }

    /// Whoever waits in the line of a lock is left alone by a reload, and kept all that had been in memory
    /// of the cluster as it was before, beside all that `mirror.memory` counts.
    #[tokio::test(start_paused = true)]
    async fn nothing_is_held_of_a_cluster_that_is_gone() {
        let (starting, settings) = Starting::new("main");
        let backends = starting.start(&settings, &Backends::new()).expect("it starts");
        let kept = Arc::clone(&backends["main"].running.mirror);
        let pods = KeyRange::prefix("/registry/pods/".into());
        let pods = kept.collection(&pods, true).expect("a collection");
        let limits = mirror::Limits { events: 1, bytes: 1 << 10 };
        pods.take(mirror::Writer::load([], 3, mirror::Tier::Value, limits).store());
        assert!(pods.store().is_some());
        drop(backends);
        yield_now().await;
        assert!(pods.store().is_none());
    }
}
