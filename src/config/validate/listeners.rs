//! Listeners, their routes, and the clusters that routes add.

use super::{Checks, MILLISECOND, SECOND, name_after, same_members};
use crate::{
    config::{
        Listener, Route,
        decode::item,
        file::{self, TlsVersion},
        origin::Origin,
        units::{Size, Url},
    },
    listener,
    routing::{self, overrides},
    tls, upstream,
};
use std::{collections::BTreeMap, path::PathBuf};

impl Checks<'_> {
    pub(super) fn listeners(
        &mut self,
        mut listeners: Vec<file::Listener>,
        clusters: &mut Vec<upstream::Config>,
    ) -> Vec<Listener> {
        if listeners.is_empty() {
            listeners.push(file::Listener::default());
        }
        // Only what was given by name can be named; what overrides add comes after.
        let named: Vec<String> = clusters.iter().map(|cluster| cluster.name.clone()).collect();
        let mut done: Vec<Listener> = Vec::new();
        for (index, file) in listeners.into_iter().enumerate() {
            let path = format!("listeners[{index}]");
            let listener = self.listener(&path, file, &named, clusters);
            self.differs(&path, &listener.listener, &done);
            done.push(listener);
        }
        done
    }

    fn differs(&mut self, path: &str, listener: &listener::Config, others: &[Listener]) {
        let mut others = others.iter().map(|other| &other.listener);
        let listener::Config { name, address, .. } = listener;
        if others.clone().any(|other| other.name == *name) {
            let text = format!("there are two listeners of the name {name}; give each its own");
            self.problem(&format!("{path}.name"), text);
        }
        if let Some(other) = others.find(|other| other.address == *address && address.port() != 0) {
            let text = format!("{address} is the address of the listener {} already", other.name);
            self.problem(&format!("{path}.address"), text);
        }
    }

    fn listener(
        &mut self,
        path: &str,
        file: file::Listener,
        named: &[String],
        clusters: &mut Vec<upstream::Config>,
    ) -> Listener {
        let at = |key: &str| format!("{path}.{key}");
        let file::Listener {
            name,
            address,
            tls,
            advertise,
            default,
            routes,
            etcd_servers_overrides,
            etcd_prefix,
            connections_max,
            streams_per_connection_max,
            stream_window,
            connection_window,
            request_size_max,
            keepalive_interval,
            keepalive_timeout,
        } = file;
        self.name(&at("name"), &name);
        let (stream_window, connection_window) =
            self.windows(path, stream_window, connection_window);
        let config = listener::Config {
            name,
            address: address.0,
            tls: tls.map(|tls| self.server_tls(&at("tls"), tls)),
            connections_max: self.at_least_one(&at("connections_max"), connections_max) as usize,
            streams_per_connection_max: self
                .at_least_one(&at("streams_per_connection_max"), streams_per_connection_max),
            stream_window,
            connection_window,
            request_bytes_max: self
                .size(&at("request_size_max"), request_size_max, REQUEST_MIN..=REQUEST_MAX)
                .try_into()
                .unwrap_or(usize::MAX),
            keepalive_interval: self.duration(
                &at("keepalive_interval"),
                keepalive_interval,
                SECOND,
            ),
            keepalive_timeout: self.duration(&at("keepalive_timeout"), keepalive_timeout, SECOND),
        };
        let default = self.default_cluster(&at("default"), default, named);
        let mut table = self.routes(&at("routes"), routes, named);
        if let Some(text) = etcd_servers_overrides {
            let key = at("etcd_servers_overrides");
            self.overrides(&key, &text, &etcd_prefix, &default, &mut table, clusters);
        }
        Listener {
            listener: config,
            advertise: advertise.iter().map(Url::to_string).collect(),
            default,
            routes: table.routes,
        }
    }

    pub(super) fn server_tls(&mut self, path: &str, file: file::ServerTls) -> tls::AcceptorConfig {
        let at = |key: &str| format!("{path}.{key}");
        let file::ServerTls {
            cert_file,
            key_file,
            trusted_ca_file,
            client_cert_auth,
            min_version,
            handshake_timeout,
            reload_interval,
        } = file;
        for (key, file) in [("cert_file", &cert_file), ("key_file", &key_file)] {
            if *file == PathBuf::new() {
                self.expected(&at(key), "the path of a PEM file", "nothing");
            }
        }
        if client_cert_auth == Some(true) && trusted_ca_file.is_none() {
            let what = "the PEM file of the authorities that sign client certificates";
            self.expected(&at("trusted_ca_file"), what, "nothing, with client_cert_auth");
        }
        tls::AcceptorConfig {
            client_cert_auth: client_cert_auth.unwrap_or_else(|| trusted_ca_file.is_some()),
            cert_file,
            key_file,
            trusted_ca_file,
            min_version: match min_version {
                TlsVersion::Tls12 => tls::TlsVersion::Tls12,
                TlsVersion::Tls13 => tls::TlsVersion::Tls13,
            },
            handshake_timeout: self.duration(
                &at("handshake_timeout"),
                handshake_timeout,
                MILLISECOND,
            ),
            reload_interval: self.duration(&at("reload_interval"), reload_interval, SECOND),
        }
    }

    fn default_cluster(&mut self, path: &str, given: Option<String>, named: &[String]) -> String {
        match (given, named) {
            (Some(name), _) => {
                self.known_cluster(path, &name, named);
                name
            }
            (None, [only]) => {
                let cluster = format!("clusters.{only}");
                self.origins.set(path, self.origins.of(&cluster).clone());
                only.clone()
            }
            // Reported already.
            (None, []) => String::new(),
            (None, several) => {
                let what = format!("the name of a cluster ({})", several.join(", "));
                self.expected(path, what, "nothing; only with a single cluster it can be left out");
                String::new()
            }
        }
    }

    fn known_cluster(&mut self, path: &str, name: &str, named: &[String]) {
        if !named.is_empty() && !named.iter().any(|known| known == name) {
            let what = format!("the name of a cluster ({})", named.join(", "));
            self.expected(path, what, format_args!("{name:?}"));
        }
    }

    fn routes(&mut self, path: &str, routes: Vec<file::Route>, named: &[String]) -> Routes {
        let mut table = Routes { path: path.into(), routes: Vec::new(), taken: BTreeMap::new() };
        for (index, file::Route { prefix, cluster }) in routes.into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            if cluster.is_empty() {
                let what = format!("the name of a cluster ({})", named.join(", "));
                self.expected(&format!("{path}.cluster"), what, "nothing");
            } else {
                self.known_cluster(&format!("{path}.cluster"), &cluster, named);
            }
            self.route(&format!("{path}.prefix"), prefix, cluster, &mut table);
        }
        table
    }

    fn route(&mut self, path: &str, mut prefix: String, cluster: String, table: &mut Routes) {
        if let Err(error) = routing::normalize(&prefix.clone().into()) {
            return self.problem(path, error.to_string());
        }
        if prefix.ends_with('/') {
            prefix.pop();
        }
        if let Some(earlier) = table.taken.get(&prefix) {
            let earlier = self.origins.of(earlier);
            return self
                .problem(path, format!("the prefix {prefix:?} is routed already ({earlier})"));
        }
        table.taken.insert(prefix.clone(), path.to_string());
        table.routes.push(Route { prefix, cluster });
    }

    /// Servers that no cluster has make a cluster with the settings of the default one: the flag
    /// knows one set of certificates for all servers.
    fn overrides(
        &mut self,
        path: &str,
        text: &str,
        etcd_prefix: &str,
        default: &str,
        table: &mut Routes,
        clusters: &mut Vec<upstream::Config>,
    ) {
        let overrides = match overrides::parse(text, etcd_prefix) {
            Ok(overrides) => overrides,
            Err(error) => return self.problem(path, error.to_string()),
        };
        let origin = self.origins.of(path).clone();
        for overrides::Override { resource, prefix, servers } in overrides {
            let urls: Result<Vec<Url>, _> = servers.iter().map(|server| server.parse()).collect();
            let endpoints: Vec<_> = match urls {
                Ok(urls) => urls.into_iter().map(|url| url.0).collect(),
                Err(expected) => {
                    self.problem(
                        path,
                        format!("{resource}: {expected}, met {}", servers.join(";")),
                    );
                    continue;
                }
            };
            let existing = clusters.iter().find(|known| same_members(&known.endpoints, &endpoints));
            let cluster = match existing {
                Some(cluster) => cluster.name.clone(),
                None => self.add_cluster(&prefix, endpoints, default, &origin, clusters),
            };
            let route = format!("{}[{}]", table.path, table.routes.len());
            for key in ["prefix", "cluster"] {
                self.origins.set(format!("{route}.{key}"), origin.clone());
            }
            self.route(path, prefix, cluster, table);
        }
    }

    fn add_cluster(
        &mut self,
        prefix: &str,
        endpoints: Vec<upstream::Endpoint>,
        template: &str,
        origin: &Origin,
        clusters: &mut Vec<upstream::Config>,
    ) -> String {
        let members = endpoints.len();
        let name = name_after(prefix, |name| clusters.iter().any(|known| known.name == name));
        if let Some(template) = clusters.iter().find(|known| known.name == template) {
            let cluster = upstream::Config { name: name.clone(), endpoints, ..template.clone() };
            clusters.push(cluster);
        }
        self.origins.copy(&format!("clusters.{template}"), &format!("clusters.{name}"));
        let endpoints = format!("clusters.{name}.endpoints");
        self.origins.set(&endpoints, origin.clone());
        for index in 0..members {
            self.origins.set(item(&endpoints, index), origin.clone());
        }
        name
    }
}

/// The routes of one listener so far.
struct Routes {
    path: String,
    routes: Vec<Route>,
    /// The key path of each prefix.
    taken: BTreeMap<String, String>,
}

/// Room for any key and its request.
const REQUEST_MIN: Size = Size(64 << 10);

/// Far above what etcd can be told to take, and small enough to hold in memory.
const REQUEST_MAX: Size = Size(256 << 20);
