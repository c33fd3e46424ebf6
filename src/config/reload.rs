//! What a running process takes over from a changed configuration.

use super::{Listener, Settings};
use crate::{access, admin, admission, attribution, drain, listener, mirror, telemetry, upstream};

/// How to go on after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The running settings with everything that changes live, and nothing else.
    pub settings: Settings,
    /// Key paths of what changes live.
    pub live: Vec<String>,
    /// Key paths of what waits for a restart.
    pub restart: Vec<String>,
}

impl Plan {
    /// Listeners and clusters are the same when their names are.
    pub fn new(running: &Settings, wanted: Settings) -> Self {
        let mut changes = Changes::default();
        let Settings {
            listeners,
            clusters,
            access,
            protection,
            mirror,
            attribution,
            admin,
            workers,
            drain,
            log,
            tracing,
        } = wanted;
        let listeners = changes.listeners(&running.listeners, &listeners);
        let settings = Settings {
            clusters: changes.clusters(&running.clusters, clusters, &listeners),
            listeners,
            access: changes.access(running.access.as_ref(), access.as_ref()),
            protection: changes.protection(&running.protection, protection),
            mirror: changes.mirror(&running.mirror, &mirror),
            attribution: changes.attribution(&running.attribution, &attribution),
            admin: changes.admin(running.admin.as_ref(), admin.as_ref()),
            workers: changes.restart("workers", &running.workers, &workers),
            drain: changes.drain(&running.drain, &drain),
            log: changes.log(&running.log, &log),
            tracing: changes.restart("tracing", &running.tracing, &tracing),
        };
        Self { settings, live: changes.live, restart: changes.restart }
    }
}

#[derive(Default)]
struct Changes {
    live: Vec<String>,
    restart: Vec<String>,
}

/// Settings are taken apart without `..`, so that none can be forgotten.
impl Changes {
    /// Takes the wanted value.
    fn live<T: PartialEq + Clone>(&mut self, path: &str, running: &T, wanted: &T) -> T {
        if running != wanted {
            self.live.push(path.into());
        }
        wanted.clone()
    }

    /// Keeps the running value.
    fn restart<T: PartialEq + Clone>(&mut self, path: &str, running: &T, wanted: &T) -> T {
        if running != wanted {
            self.restart.push(path.into());
        }
        running.clone()
    }

    /// The listeners that run stay those that run.
    fn listeners(&mut self, running: &[Listener], wanted: &[Listener]) -> Vec<Listener> {
        let named = |all: &[Listener], name: &str| {
            all.iter().find(|listener| listener.listener.name == name).cloned()
        };
        for Listener { listener, .. } in wanted {
            if named(running, &listener.name).is_none() {
                self.restart.push(format!("listeners.{} (added)", listener.name));
            }
        }
        let merge = |running: &Listener| match named(wanted, &running.listener.name) {
            Some(wanted) => self.listener(running, &wanted),
            None => {
                self.restart.push(format!("listeners.{} (removed)", running.listener.name));
                running.clone()
            }
        };
        running.iter().map(merge).collect()
    }

    fn listener(&mut self, running: &Listener, wanted: &Listener) -> Listener {
        let Listener { listener, advertise, default, routes } = running;
        let path = |key: &str| format!("listeners.{}.{key}", listener.name);
        Listener {
            advertise: self.live(&path("advertise"), advertise, &wanted.advertise),
            default: self.live(&path("default"), default, &wanted.default),
            routes: self.live(&path("routes"), routes, &wanted.routes),
            listener: self.socket(listener, &wanted.listener),
        }
    }

    fn socket(
        &mut self,
        running: &listener::Config,
        wanted: &listener::Config,
    ) -> listener::Config {
        let listener::Config {
            name,
            address,
            tls,
            connections_max,
            streams_per_connection_max,
            stream_window,
            connection_window,
            request_bytes_max,
            keepalive_interval,
            keepalive_timeout,
        } = running;
        let path = |key: &str| format!("listeners.{name}.{key}");
        let mut number =
            |key: &str, running: &usize, wanted: &usize| self.restart(&path(key), running, wanted);
        let connections_max = number("connections_max", connections_max, &wanted.connections_max);
        let request_bytes_max =
            number("request_size_max", request_bytes_max, &wanted.request_bytes_max);
        let mut number =
            |key: &str, running: &u32, wanted: &u32| self.restart(&path(key), running, wanted);
        let streams = (streams_per_connection_max, &wanted.streams_per_connection_max);
        let streams_per_connection_max = number("streams_per_connection_max", streams.0, streams.1);
        let stream_window = number("stream_window", stream_window, &wanted.stream_window);
        let connection_window =
            number("connection_window", connection_window, &wanted.connection_window);
        let (interval, timeout) = (&wanted.keepalive_interval, &wanted.keepalive_timeout);
        listener::Config {
            name: name.clone(),
            address: self.restart(&path("address"), address, &wanted.address),
            tls: match (tls, &wanted.tls) {
                (Some(tls), Some(wanted)) => Some(self.live(&path("tls"), tls, wanted)),
                // A port cannot speak both, and clients expect what it spoke so far.
                (tls, wanted) => self.restart(&path("tls"), tls, wanted),
            },
            connections_max,
            streams_per_connection_max,
            stream_window,
            connection_window,
            request_bytes_max,
            keepalive_interval: self.restart(
                &path("keepalive_interval"),
                keepalive_interval,
                interval,
            ),
            keepalive_timeout: self.restart(&path("keepalive_timeout"), keepalive_timeout, timeout),
        }
    }

    /// `listeners` are those that will run: what they refer to stays.
    fn clusters(
        &mut self,
        running: &[upstream::Config],
        wanted: Vec<upstream::Config>,
        listeners: &[Listener],
    ) -> Vec<upstream::Config> {
        let mut merged = wanted;
        for cluster in &merged {
            match running.iter().find(|known| known.name == cluster.name) {
                Some(known) => self.cluster(known, cluster),
                None => self.live.push(format!("clusters.{} (added)", cluster.name)),
            }
        }
        for cluster in running {
            let path = format!("clusters.{} (removed)", cluster.name);
            let refers = |listener: &Listener| {
                let mut routed = listener.routes.iter().map(|route| &route.cluster);
                listener.default == cluster.name || routed.any(|name| *name == cluster.name)
            };
            if merged.iter().any(|wanted| wanted.name == cluster.name) {
                continue;
            }
            if listeners.iter().any(refers) {
                self.restart.push(path);
                merged.push(cluster.clone());
            } else {
                self.live.push(path);
            }
        }
        merged
    }

    fn cluster(&mut self, running: &upstream::Config, wanted: &upstream::Config) {
        let upstream::Config {
            name,
            endpoints,
            tls,
            connect_timeout,
            backoff_min,
            backoff_max,
            keepalive_interval,
            keepalive_timeout,
            probe,
            retry,
            lanes,
        } = running;
        let changed = [
            ("endpoints", *endpoints != wanted.endpoints),
            ("tls", *tls != wanted.tls),
            ("connect_timeout", *connect_timeout != wanted.connect_timeout),
            ("backoff_min", *backoff_min != wanted.backoff_min),
            ("backoff_max", *backoff_max != wanted.backoff_max),
            ("keepalive_interval", *keepalive_interval != wanted.keepalive_interval),
            ("keepalive_timeout", *keepalive_timeout != wanted.keepalive_timeout),
            ("probe", *probe != wanted.probe),
            ("retry", *retry != wanted.retry),
            ("lanes", *lanes != wanted.lanes),
        ];
        let changed = changed.into_iter().filter(|(_, changed)| *changed);
        self.live.extend(changed.map(|(key, _)| format!("clusters.{name}.{key}")));
    }

    fn protection(
        &mut self,
        running: &admission::Config,
        wanted: admission::Config,
    ) -> admission::Config {
        let admission::Config {
            mode,
            memory_bytes,
            coalescing,
            paging,
            queues,
            space,
            deletes,
            mirror,
            rules,
        } = running;
        if *mirror != wanted.mirror {
            self.live.push("mirror.mode".into());
        }
        let changed = [
            ("mode", *mode != wanted.mode),
            ("memory", *memory_bytes != wanted.memory_bytes),
            ("coalescing", *coalescing != wanted.coalescing),
            ("paging", *paging != wanted.paging),
            ("queues", *queues != wanted.queues),
            ("space", *space != wanted.space),
            ("deletes", *deletes != wanted.deletes),
            ("rules", *rules != wanted.rules),
        ];
        let changed = changed.into_iter().filter(|(_, changed)| *changed);
        self.live.extend(changed.map(|(key, _)| format!("protection.{key}")));
        wanted
    }

    fn access(
        &mut self,
        running: Option<&access::Config>,
        wanted: Option<&access::Config>,
    ) -> Option<access::Config> {
        self.live("access", &running, &wanted).cloned()
    }

    fn mirror(&mut self, running: &mirror::Config, wanted: &mirror::Config) -> mirror::Config {
        let mirror::Config {
            memory_bytes,
            history,
            wait_max,
            pinned,
            verify_interval,
            consistency_checks,
        } = running;
        let checks = &wanted.consistency_checks;
        mirror::Config {
            memory_bytes: self.live("mirror.memory", memory_bytes, &wanted.memory_bytes),
            // Of the collections that are loaded from then on.
            history: self.live("mirror.history", history, &wanted.history),
            wait_max: self.live("mirror.wait_max", wait_max, &wanted.wait_max),
            pinned: self.live("mirror.pinned", pinned, &wanted.pinned),
            verify_interval: self.live(
                "mirror.verify_interval",
                verify_interval,
                &wanted.verify_interval,
            ),
            consistency_checks: self.live("mirror.consistency_checks", consistency_checks, checks),
        }
    }

    fn attribution(
        &mut self,
        running: &attribution::Config,
        wanted: &attribution::Config,
    ) -> attribution::Config {
        let attribution::Config { entries, slow, heavy_bytes, log_per_minute, trace } = running;
        let lines = &wanted.log_per_minute;
        attribution::Config {
            // What was counted so far would have to be counted anew.
            entries: self.restart("attribution.entries", entries, &wanted.entries),
            slow: self.live("attribution.slow", slow, &wanted.slow),
            heavy_bytes: self.live("attribution.heavy", heavy_bytes, &wanted.heavy_bytes),
            log_per_minute: self.live("attribution.log_per_minute", log_per_minute, lines),
            trace: self.restart("attribution.trace", trace, &wanted.trace),
        }
    }

    fn admin(
        &mut self,
        running: Option<&admin::Config>,
        wanted: Option<&admin::Config>,
    ) -> Option<admin::Config> {
        match (running, wanted) {
            (Some(admin::Config { address, tls, token_file, livez_after }), Some(wanted)) => {
                Some(admin::Config {
                    address: self.restart("admin.address", address, &wanted.address),
                    tls: self.restart("admin.tls", tls, &wanted.tls),
                    token_file: self.restart("admin.token_file", token_file, &wanted.token_file),
                    livez_after: self.live("admin.livez_after", livez_after, &wanted.livez_after),
                })
            }
            (running, wanted) => self.restart("admin.address", &running, &wanted).cloned(),
        }
    }

    fn drain(&mut self, running: &drain::Config, wanted: &drain::Config) -> drain::Config {
        let drain::Config { delay, grace } = running;
        drain::Config {
            delay: self.live("drain.delay", delay, &wanted.delay),
            grace: self.live("drain.grace", grace, &wanted.grace),
        }
    }

    fn log(
        &mut self,
        running: &telemetry::LogConfig,
        wanted: &telemetry::LogConfig,
    ) -> telemetry::LogConfig {
        let telemetry::LogConfig { level, format, audit_file } = running;
        telemetry::LogConfig {
            level: self.live("log.level", level, &wanted.level),
            format: self.restart("log.format", format, &wanted.format),
            audit_file: self.restart("log.audit_file", audit_file, &wanted.audit_file),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Flags, build};
    use super::*;
    use std::path::Path;

    const RUNNING: &str = "
listeners:
- {name: one, address: 127.0.0.1:1, default: main, routes: [{prefix: /e, cluster: events}]}
- {name: two, address: 127.0.0.1:2, default: old}
clusters:
  main: {endpoints: [http://a:1]}
  events: {endpoints: [http://b:1]}
  old: {endpoints: [http://c:1]}
workers: 2
";

    fn settings(text: &str) -> Settings {
        build(Some((Path::new("seawall.yaml"), text)), &Flags::default())
            .unwrap_or_else(|error| panic!("{error}"))
            .settings
    }

    /// Changes the running file by replacements.
    fn plan(changes: &[(&str, &str)]) -> Plan {
        let changed = changes.iter().fold(RUNNING.to_string(), |text, (old, new)| {
            assert!(text.contains(old), "{old}");
            text.replace(old, new)
        });
        Plan::new(&settings(RUNNING), settings(&changed))
    }

    #[test]
    fn nothing_changes_without_a_change() {
        let plan = plan(&[]);
        assert_eq!((plan.live.len(), plan.restart.len()), (0, 0));
        assert_eq!(plan.settings, settings(RUNNING));
    }

    #[test]
    fn routes_clusters_drain_and_the_log_level_change_live() {
        let plan = plan(&[
            ("prefix: /e,", "prefix: /f,"),
            (
                "[http://b:1]}",
                "[http://b:1, http://d:1], retry: {budget: 0%}}\n  new: {endpoints: [http://n:1]}",
            ),
            (
                "workers: 2",
                "workers: 2\ndrain: {grace: 5s}\nlog: {level: debug}\nadmin: {livez_after: 5s}",
            ),
        ]);
        assert_eq!(plan.restart, [""; 0]);
        assert_eq!(
            plan.live,
            [
                "listeners.one.routes",
                "clusters.events.endpoints",
                "clusters.events.retry",
                "clusters.new (added)",
                "admin.livez_after",
                "drain.grace",
                "log.level",
            ]
        );
        assert_eq!(plan.settings.listeners[0].routes[0].prefix, "/f");
        assert_eq!(plan.settings.clusters.len(), 4);
    }

    #[test]
    fn protections_change_live() {
        let plan = plan(&[(
            "workers: 2",
            "workers: 2
protection:
  mode: observe
  memory: 2GiB
  coalescing: {enabled: false}
  paging: {page_size: 2MiB}
  queues: {lists: {concurrency: 8}}
  space: {quota: 8GiB}
  deletes: {clients: [operator]}
  rules: [{name: events, match: {clusters: [events]}, limit: {requests: 10/s}}]
attribution: {entries: 10, slow: 2s, heavy: 1MiB, log_per_minute: 1}",
        )]);
        let protections =
            ["mode", "memory", "coalescing", "paging", "queues", "space", "deletes", "rules"];
        let attributions = ["slow", "heavy", "log_per_minute"];
        let live = protections.iter().map(|key| format!("protection.{key}"));
        let live = live.chain(attributions.iter().map(|key| format!("attribution.{key}")));
        assert_eq!(plan.live, live.collect::<Vec<_>>());
        assert_eq!(plan.restart, ["attribution.entries"]);
        assert_eq!(plan.settings.protection.rules[0].name, "events");
        assert_eq!(plan.settings.attribution.entries, 1_000);
    }

    #[test]
    fn sockets_and_threads_wait_for_a_restart() {
        let plan = plan(&[
            (
                "address: 127.0.0.1:1,",
                "address: 127.0.0.1:9, tls: {cert_file: a, key_file: b}, stream_window: 2MiB,",
            ),
            ("workers: 2", "workers: 3\nlog: {format: json}\nadmin: {address: off}"),
        ]);
        assert_eq!(plan.live, [""; 0]);
        assert_eq!(
            plan.restart,
            [
                "listeners.one.stream_window",
                "listeners.one.address",
                "listeners.one.tls",
                "admin.address",
                "workers",
                "log.format",
            ]
        );
        assert_eq!(plan.settings, settings(RUNNING));
    }

    #[test]
    fn certificates_change_live() {
        let with = |tls: &str| {
            let tls = format!("address: 127.0.0.1:1, tls: {{key_file: k, cert_file: {tls}}},");
            settings(&RUNNING.replace("address: 127.0.0.1:1,", &tls))
        };
        let plan = Plan::new(&with("a"), with("b"));
        assert_eq!((plan.live, plan.restart), (vec!["listeners.one.tls".into()], vec![]));
        assert_eq!(plan.settings, with("b"));
    }

    #[test]
    fn a_cluster_stays_while_a_running_listener_refers_to_it() {
        let plan = plan(&[
            ("- {name: two, address: 127.0.0.1:2, default: old}", "- {name: three, default: main}"),
            ("  old: {endpoints: [http://c:1]}", ""),
        ]);
        assert_eq!(plan.live, [""; 0]);
        assert_eq!(
            plan.restart,
            ["listeners.three (added)", "listeners.two (removed)", "clusters.old (removed)"]
        );
        let names: Vec<_> =
            plan.settings.clusters.iter().map(|cluster| &cluster.name[..]).collect();
        assert_eq!(names, ["events", "main", "old"]);
    }

    #[test]
    fn a_cluster_that_nothing_refers_to_goes_at_once() {
        let plan =
            plan(&[("default: old", "default: main"), ("  old: {endpoints: [http://c:1]}", "")]);
        assert_eq!(plan.live, ["listeners.two.default", "clusters.old (removed)"]);
        assert_eq!(plan.settings.clusters.len(), 2);
    }
}
