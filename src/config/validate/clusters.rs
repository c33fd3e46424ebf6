//! Clusters, and names for those that were given by their URLs alone.

use super::{Checks, MILLISECOND, SECOND};
use crate::{
    config::{
        file,
        units::{Duration, Url},
    },
    upstream,
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time,
};

impl Checks<'_> {
    pub(super) fn clusters(
        &mut self,
        clusters: BTreeMap<String, file::Cluster>,
    ) -> Vec<upstream::Config> {
        if clusters.is_empty() {
            let text = "expected at least one etcd cluster, met none; give --upstream URL, or in the \
                        file clusters: {main: {endpoints: [URL]}}";
            self.problem("clusters", text);
        }
        clusters.into_iter().map(|(name, cluster)| self.cluster(name, cluster)).collect()
    }

    fn cluster(&mut self, name: String, file: file::Cluster) -> upstream::Config {
        let path = format!("clusters.{name}");
        let at = |key: &str| format!("{path}.{key}");
        let file::Cluster {
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
        } = file;
        self.name(&path, &name);
        let endpoints = self.endpoints(&at("endpoints"), endpoints);
        if backoff_max < backoff_min {
            let least = format!("at least the backoff_min of {backoff_min}");
            self.expected(&at("backoff_max"), least, backoff_max);
        }
        let file::Retry { budget } = retry;
        if budget.0 > 100 {
            self.expected(&at("retry.budget"), "at most 100%", budget);
        }
        upstream::Config {
            tls: self.cluster_tls(&at("tls"), tls, &endpoints),
            endpoints,
            connect_timeout: self.duration(&at("connect_timeout"), connect_timeout, MILLISECOND),
            backoff_min: self.duration(&at("backoff_min"), backoff_min, MILLISECOND),
            backoff_max: backoff_max.0,
            keepalive_interval: self.duration(
                &at("keepalive_interval"),
                keepalive_interval,
                KEEPALIVE_INTERVAL_MIN,
            ),
            keepalive_timeout: self.duration(&at("keepalive_timeout"), keepalive_timeout, SECOND),
            probe: self.probe(&at("probe"), &probe),
            retry: upstream::RetryConfig { budget_percent: budget.0 },
            lanes: self.lanes(&at("lanes"), &lanes),
            name,
        }
    }

    /// A store under two names would be taken for two: a lease is revoked in each but the default one
    /// when its id is granted there.
    pub(super) fn members_apart(&mut self, clusters: &[upstream::Config]) {
        let mut owners = HashMap::new();
        for cluster in clusters {
            let name = &cluster.name;
            for (index, endpoint) in cluster.endpoints.iter().enumerate() {
                let owner = *owners.entry(endpoint.authority()).or_insert(name);
                if owner != name {
                    let path = format!("clusters.{name}.endpoints[{index}]");
                    let text = format!("{endpoint} is a member of cluster {owner} already");
                    self.problem(&path, text);
                }
            }
        }
    }

    fn endpoints(&mut self, path: &str, urls: Vec<Url>) -> Vec<upstream::Endpoint> {
        if urls.is_empty() {
            self.expected(path, "at least one URL such as https://10.0.0.1:2379", "none");
        }
        if urls.len() > upstream::MEMBERS_MAX {
            let most = format!("at most {} URLs", upstream::MEMBERS_MAX);
            self.expected(path, most, urls.len());
        }
        let mut seen = HashSet::new();
        for (index, url) in urls.iter().enumerate() {
            if !seen.insert(url) {
                self.problem(&format!("{path}[{index}]"), format!("{url} is listed twice"));
            }
        }
        urls.into_iter().map(|url| url.0).collect()
    }

    fn cluster_tls(
        &mut self,
        path: &str,
        file: file::ClusterTls,
        endpoints: &[upstream::Endpoint],
    ) -> upstream::TlsConfig {
        let file::ClusterTls { ca_file, cert_file, key_file, server_name, reload_interval } = file;
        let at = |key: &str| format!("{path}.{key}");
        match (&cert_file, &key_file) {
            (Some(_), None) => self.expected(&at("key_file"), "the key of cert_file", "nothing"),
            (None, Some(_)) => {
                self.expected(&at("cert_file"), "the certificate of key_file", "nothing")
            }
            _ => {}
        }
        let given = ca_file.is_some() || cert_file.is_some() || server_name.is_some();
        if given && !endpoints.is_empty() && endpoints.iter().all(|endpoint| !endpoint.tls) {
            self.problem(path, "there are certificates, but no endpoint is https");
        }
        upstream::TlsConfig {
            ca_file,
            cert_file,
            key_file,
            server_name,
            reload_interval: self.duration(&at("reload_interval"), reload_interval, SECOND),
        }
    }

    fn probe(&mut self, path: &str, file: &file::Probe) -> upstream::ProbeConfig {
        let file::Probe { interval, timeout, failures } = *file;
        upstream::ProbeConfig {
            interval: self.duration(&format!("{path}.interval"), interval, PROBE_INTERVAL_MIN),
            timeout: self.duration(&format!("{path}.timeout"), timeout, MILLISECOND),
            failures: self.at_least_one(&format!("{path}.failures"), failures),
        }
    }

    fn lanes(&mut self, path: &str, file: &file::Lanes) -> upstream::Lanes<upstream::LaneConfig> {
        let file::Lanes { watch, light, heavy } = file;
        let defaults = file::Lanes::default();
        upstream::Lanes {
            watch: self.lane(&format!("{path}.watch"), watch, &defaults.watch),
            light: self.lane(&format!("{path}.light"), light, &defaults.light),
            heavy: self.lane(&format!("{path}.heavy"), heavy, &defaults.heavy),
        }
    }

    fn lane(
        &mut self,
        path: &str,
        file: &file::Lane,
        default: &file::Lane,
    ) -> upstream::LaneConfig {
        let mut number = |key: &str, given: Option<u32>, default: Option<u32>| {
            let value = given.or(default).unwrap_or_default();
            self.at_least_one(&format!("{path}.{key}"), value) as usize
        };
        let connections_max =
            number("connections_max", file.connections_max, default.connections_max);
        let streams_max = number("streams_max", file.streams_max, default.streams_max);
        // A default does not stand in the way of a lower bound that was asked for.
        let bound = file.streams_max.unwrap_or(u32::MAX).max(1);
        let default_spread = default.streams_spread.map(|spread| spread.min(bound));
        let streams_spread = number("streams_spread", file.streams_spread, default_spread);
        if (1..streams_spread).contains(&streams_max) {
            let most = format!("at most the streams_max of {streams_max}");
            self.expected(&format!("{path}.streams_spread"), most, streams_spread);
        }
        let (stream_window, connection_window) = self.windows(
            path,
            file.stream_window.or(default.stream_window).unwrap_or_default(),
            file.connection_window.or(default.connection_window).unwrap_or_default(),
        );
        upstream::LaneConfig {
            connections_max,
            streams_spread,
            streams_max,
            stream_window,
            connection_window,
        }
    }
}

/// Whether two lists name the same members, in whatever order.
pub(in crate::config) fn same_members(
    one: &[upstream::Endpoint],
    other: &[upstream::Endpoint],
) -> bool {
    one.iter().collect::<HashSet<_>>() == other.iter().collect()
}

/// A name for the cluster that takes `prefix`: its last segment, numbered where that is taken.
pub(in crate::config) fn name_after(prefix: &str, taken: impl Fn(&str) -> bool) -> String {
    let segment = prefix.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '-' };
    let name: String = segment.chars().map(plain).take(60).collect();
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.clone()).chain(numbered);
    names.find(|name| !taken(name)).unwrap_or(name)
}

/// etcd closes connections that ping more often than every 5 s, and some of its releases count
/// roughly.
const KEEPALIVE_INTERVAL_MIN: Duration = Duration(time::Duration::from_secs(10));

/// Each probe is a consensus read on every member.
const PROBE_INTERVAL_MIN: Duration = Duration(time::Duration::from_millis(100));
