//! What flags make of the file.

use super::{Flags, RouteFlag};
use crate::{
    config::{
        decode::{child, item},
        file::{Cluster, File, Listener, Route, ServerTls},
        origin::{Origin, Origins, Problem},
        units::Url,
        validate::{name_after, same_members},
    },
    upstream::Endpoint,
};
use std::collections::BTreeMap;

/// Lays `flags` over `file`, and says in `origins` what they gave.
pub(in crate::config) fn apply(
    flags: &Flags,
    file: &mut File,
    origins: &mut Origins,
) -> Vec<Problem> {
    let mut overlay = Overlay { origins, problems: Vec::new() };
    overlay.process(flags, file);
    overlay.cluster(flags, file);
    overlay.listener(flags, file);
    overlay.problems
}

struct Overlay<'a> {
    origins: &'a mut Origins,
    problems: Vec<Problem>,
}

impl Overlay<'_> {
    /// Puts a flag's value in its place.
    fn set<T: Clone>(&mut self, place: &mut T, value: &Option<T>, path: &str, flag: &'static str) {
        if let Some(value) = value {
            place.clone_from(value);
            self.origins.set(path, Origin::Flag(flag));
        }
    }

    /// The same for a place that may be empty.
    fn give<T: Clone>(
        &mut self,
        place: &mut Option<T>,
        value: &Option<T>,
        path: &str,
        flag: &'static str,
    ) {
        if value.is_some() {
            place.clone_from(value);
            self.origins.set(path, Origin::Flag(flag));
        }
    }

    /// The same for a list, which replaces the file's.
    fn list<T: Clone>(&mut self, place: &mut Vec<T>, values: &[T], path: &str, flag: &'static str) {
        if !values.is_empty() {
            *place = values.to_vec();
            self.list_origin(path, values.len(), flag);
        }
    }

    fn list_origin(&mut self, path: &str, len: usize, flag: &'static str) {
        self.origins.set(path, Origin::Flag(flag));
        for index in 0..len {
            self.origins.set(item(path, index), Origin::Flag(flag));
        }
    }

    fn refuse(&mut self, flags: &[&'static str], text: &str) {
        self.problems.extend(flags.iter().map(|flag| Problem::of_flag(flag, text)));
    }

    fn process(&mut self, flags: &Flags, file: &mut File) {
        self.set(&mut file.admin.address, &flags.admin, "admin.address", "--admin");
        let token = (&mut file.admin.token_file, &flags.admin_token_file);
        self.give(token.0, token.1, "admin.token_file", "--admin-token-file");
        self.admin_tls(flags, &mut file.admin.tls);
        self.set(&mut file.workers, &flags.workers, "workers", "--workers");
        let mode = &mut file.protection.mode;
        self.set(mode, &flags.protection, "protection.mode", "--protection");
        self.set(&mut file.mirror.mode, &flags.mirror, "mirror.mode", "--mirror");
        let trace = &mut file.attribution.trace.file;
        self.give(trace, &flags.record, "attribution.trace.file", "--record");
        self.set(&mut file.log.level, &flags.log_level, "log.level", "--log-level");
        self.set(&mut file.log.format, &flags.log_format, "log.format", "--log-format");
    }

    fn cluster(&mut self, flags: &Flags, file: &mut File) {
        let given = flags.given_for_cluster();
        if given.is_empty() {
            return;
        }
        if file.clusters.is_empty() && !flags.upstream.is_empty() {
            file.clusters.insert("main".into(), Cluster::default());
        }
        let names: Vec<&str> = file.clusters.keys().map(String::as_str).collect();
        let text = format!("the file has several clusters ({}); say it there", names.join(", "));
        let mut clusters = file.clusters.iter_mut();
        match (clusters.next(), clusters.next()) {
            (Some((name, cluster)), None) => {
                let at = |key: &str| format!("clusters.{name}.{key}");
                let tls = &mut cluster.tls;
                let (ca, cert, key) =
                    (&flags.upstream_cacert, &flags.upstream_cert, &flags.upstream_key);
                self.list(&mut cluster.endpoints, &flags.upstream, &at("endpoints"), "--upstream");
                self.give(&mut tls.ca_file, ca, &at("tls.ca_file"), "--upstream-cacert");
                self.give(&mut tls.cert_file, cert, &at("tls.cert_file"), "--upstream-cert");
                self.give(&mut tls.key_file, key, &at("tls.key_file"), "--upstream-key");
            }
            (Some(_), Some(_)) => self.refuse(&given, &text),
            (None, _) => {
                self.refuse(&given, "there is no cluster it could be for; give --upstream")
            }
        }
    }

    fn listener(&mut self, flags: &Flags, file: &mut File) {
        let given = flags.given_for_listener();
        if given.is_empty() {
            return;
        }
        if file.listeners.is_empty() {
            file.listeners.push(Listener::default());
        }
        let [listener] = &mut file.listeners[..] else {
            return self.refuse(&given, "the file has several listeners; say it there");
        };
        let at = |key: &str| format!("listeners[0].{key}");
        let overrides =
            Some(flags.etcd_servers_overrides.join(",")).filter(|text| !text.is_empty());
        self.set(&mut listener.address, &flags.listen, &at("address"), "--listen");
        self.list(&mut listener.advertise, &flags.advertise, &at("advertise"), "--advertise");
        self.set(
            &mut listener.etcd_prefix,
            &flags.etcd_prefix,
            &at("etcd_prefix"),
            "--etcd-prefix",
        );
        self.give(
            &mut listener.etcd_servers_overrides,
            &overrides,
            &at("etcd_servers_overrides"),
            "--etcd-servers-overrides",
        );
        self.listener_tls(flags, &mut listener.tls);
        for route in &flags.route {
            self.route(route, listener, &mut file.clusters);
        }
    }

    fn listener_tls(&mut self, flags: &Flags, place: &mut Option<ServerTls>) {
        let Some(first) = flags.given_for_listener_tls().first().copied() else { return };
        let at = |key: &str| format!("listeners[0].tls.{key}");
        if place.is_none() {
            self.origins.set("listeners[0].tls", Origin::Flag(first));
        }
        let tls = place.get_or_insert_default();
        let (auth, ca) = (&flags.client_cert_auth, &flags.trusted_ca_file);
        self.set(&mut tls.cert_file, &flags.cert_file, &at("cert_file"), "--cert-file");
        self.set(&mut tls.key_file, &flags.key_file, &at("key_file"), "--key-file");
        self.give(&mut tls.trusted_ca_file, ca, &at("trusted_ca_file"), "--trusted-ca-file");
        self.give(&mut tls.client_cert_auth, auth, &at("client_cert_auth"), "--client-cert-auth");
    }

    fn admin_tls(&mut self, flags: &Flags, place: &mut Option<ServerTls>) {
        let Some(first) = flags.given_for_admin_tls().first().copied() else { return };
        let at = |key: &str| format!("admin.tls.{key}");
        if place.is_none() {
            self.origins.set("admin.tls", Origin::Flag(first));
        }
        let tls = place.get_or_insert_default();
        let (cert, key) = (&flags.admin_cert_file, &flags.admin_key_file);
        let ca = &flags.admin_trusted_ca_file;
        self.set(&mut tls.cert_file, cert, &at("cert_file"), "--admin-cert-file");
        self.set(&mut tls.key_file, key, &at("key_file"), "--admin-key-file");
        self.give(&mut tls.trusted_ca_file, ca, &at("trusted_ca_file"), "--admin-trusted-ca-file");
    }

    /// Routes to the cluster that has these members, or to a new one with the settings of the
    /// default cluster, its certificates included.
    fn route(
        &mut self,
        flag: &RouteFlag,
        listener: &mut Listener,
        clusters: &mut BTreeMap<String, Cluster>,
    ) {
        let sole = clusters.keys().next().filter(|_| clusters.len() == 1);
        let Some(default) = listener.default.clone().or_else(|| sole.cloned()) else {
            let text = "it is not clear which cluster takes all other keys; give --upstream, or in the \
                        file the listener's default";
            return self.refuse(&["--route"], text);
        };
        let members =
            |urls: &[Url]| urls.iter().map(|url| url.0.clone()).collect::<Vec<Endpoint>>();
        let wanted = members(&flag.urls);
        let same =
            |(_, known): &(&String, &Cluster)| same_members(&members(&known.endpoints), &wanted);
        let cluster = match clusters.iter().find(same) {
            Some((name, _)) => name.clone(),
            None => {
                let name = name_after(&flag.prefix, |name| clusters.contains_key(name));
                let template = clusters.get(&default).cloned().unwrap_or_default();
                let endpoints = flag.urls.clone();
                clusters.insert(name.clone(), Cluster { endpoints, ..template });
                let path = format!("clusters.{name}");
                self.origins.copy(&format!("clusters.{default}"), &path);
                self.list_origin(&format!("{path}.endpoints"), flag.urls.len(), "--route");
                name
            }
        };
        let path = item("listeners[0].routes", listener.routes.len());
        for key in ["prefix", "cluster"] {
            self.origins.set(child(&path, key), Origin::Flag("--route"));
        }
        listener.routes.push(Route { prefix: flag.prefix.clone(), cluster });
        if listener.default.is_none() {
            let origin = self.origins.of(&format!("clusters.{default}.endpoints")).clone();
            self.origins.set("listeners[0].default", origin);
            listener.default = Some(default);
        }
    }
}
