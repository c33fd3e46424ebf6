//! Flags that say what the file says, for simple setups and for exceptions.
//!
//! They speak of one listener and one cluster; where the file has several, a flag that could mean
//! any of them is refused.

mod overlay;

pub(super) use overlay::apply;

use super::{
    file::{LogFormat, Mode},
    units::{Address, OptionalAddress, Url},
};
use crate::routing;
use std::path::PathBuf;

/// What may be said on the command line instead of in the file, or on top of it.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// IP address and port that clients connect to.
    ///
    /// Default: 127.0.0.1:23790. An address other than loopback should have certificates.
    #[arg(long, value_name = "ADDRESS", help_heading = "Listener")]
    listen: Option<Address>,

    /// PEM file with the certificate shown to clients; without it the port speaks plaintext.
    #[arg(long, value_name = "FILE", help_heading = "Listener")]
    cert_file: Option<PathBuf>,

    /// PEM file with the key of --cert-file.
    #[arg(long, value_name = "FILE", help_heading = "Listener")]
    key_file: Option<PathBuf>,

    /// PEM file with the authorities that sign client certificates; asks every client for one.
    #[arg(long, value_name = "FILE", help_heading = "Listener")]
    trusted_ca_file: Option<PathBuf>,

    /// Whether to refuse clients without a certificate of --trusted-ca-file.
    ///
    /// Default: true with --trusted-ca-file. With `false`, certificates are optional but checked.
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", help_heading = "Listener")]
    client_cert_auth: Option<bool>,

    /// URL that clients are told when they ask for the members of the cluster; repeatable.
    ///
    /// Default: to each client the address it connected to.
    #[arg(long, value_name = "URL", value_delimiter = ',', help_heading = "Listener")]
    advertise: Vec<Url>,

    /// Client URLs of the etcd cluster that holds all keys without a route.
    ///
    /// List every member, separated by commas. The cluster is called `main`.
    #[arg(long, value_name = "URL[,URL]", value_delimiter = ',', help_heading = "Clusters")]
    upstream: Vec<Url>,

    /// Sends a prefix of keys to another cluster; repeatable.
    ///
    /// Takes the key PREFIX and all keys below PREFIX/; the longest prefix wins. The cluster is
    /// called after the last segment of the prefix.
    #[arg(long, value_name = "PREFIX=URL[,URL]", value_parser = parse_route, help_heading = "Clusters")]
    route: Vec<RouteFlag>,

    /// The flag of kube-apiserver with this name: `/events#URL;URL`, separated by commas.
    #[arg(long, value_name = "GROUP/RESOURCE#URL[;URL]", help_heading = "Clusters")]
    etcd_servers_overrides: Vec<String>,

    /// kube-apiserver's --etcd-prefix, which --etcd-servers-overrides goes by.
    ///
    /// Default: /registry
    #[arg(long, value_name = "PREFIX", help_heading = "Clusters")]
    etcd_prefix: Option<String>,

    /// PEM file with the authorities that sign etcd's certificates.
    ///
    /// Default: those of the system. Holds for all clusters that flags name.
    #[arg(long, value_name = "FILE", help_heading = "Clusters")]
    upstream_cacert: Option<PathBuf>,

    /// PEM file with the client certificate shown to etcd.
    #[arg(long, value_name = "FILE", help_heading = "Clusters")]
    upstream_cert: Option<PathBuf>,

    /// PEM file with the key of --upstream-cert.
    #[arg(long, value_name = "FILE", help_heading = "Clusters")]
    upstream_key: Option<PathBuf>,

    /// IP address and port of the operator's port (metrics, readiness, status), or `off`.
    ///
    /// Default: 127.0.0.1:23791
    #[arg(long, value_name = "ADDRESS|off", help_heading = "Process")]
    admin: Option<OptionalAddress>,

    /// PEM file with the certificate shown on the operator's port; without it that speaks plaintext.
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    admin_cert_file: Option<PathBuf>,

    /// PEM file with the key of --admin-cert-file.
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    admin_key_file: Option<PathBuf>,

    /// PEM file with the authorities of operators' certificates; asks everybody on that port for one.
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    admin_trusted_ca_file: Option<PathBuf>,

    /// File with the token that whoever switches anything on the operator's port has to show.
    ///
    /// Default: none; switches are taken from this machine only.
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    admin_token_file: Option<PathBuf>,

    /// Threads that carry calls, each with its own connections to etcd.
    ///
    /// Default: one per core, at most 8.
    #[arg(long, value_name = "NUMBER", help_heading = "Process")]
    workers: Option<u32>,

    /// How far protections of etcd go at most: `observe` counts what they would do, and does nothing.
    ///
    /// Default: enforce
    #[arg(long, value_name = "MODE", help_heading = "Process")]
    protection: Option<Mode>,

    /// How far answers from memory go: `off` holds nothing, `observe` holds, follows and counts, and
    /// etcd answers, `enforce` answers.
    ///
    /// Default: enforce
    #[arg(long, value_name = "MODE", help_heading = "Process", hide_possible_values = true)]
    mirror: Option<Mode>,

    /// File that every call is recorded in, without values: for replaying, and for
    /// explain --trace.
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    record: Option<PathBuf>,

    /// error, warn, info, debug, trace, or a filter such as info,seawall::upstream=debug.
    ///
    /// Default: info
    #[arg(long, value_name = "LEVEL", help_heading = "Process")]
    log_level: Option<String>,

    /// For people or for machines.
    ///
    /// Default: text
    #[arg(long, value_name = "FORMAT", help_heading = "Process")]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Clone)]
struct RouteFlag {
    prefix: String,
    urls: Vec<Url>,
}

fn parse_route(text: &str) -> Result<RouteFlag, String> {
    let form = "expected PREFIX=URL[,URL] such as /registry/events=http://127.0.0.1:2379";
    let (prefix, urls) = text.split_once('=').ok_or(form)?;
    routing::normalize(&prefix.to_string().into()).map_err(|error| error.to_string())?;
    let urls: Result<Vec<Url>, _> = urls.split(',').map(str::parse).collect();
    let urls = urls.map_err(|error| format!("{error} after the ="))?;
    Ok(RouteFlag { prefix: prefix.into(), urls })
}

impl Flags {
    fn given_for_cluster(&self) -> Vec<&'static str> {
        names([
            ("--upstream", !self.upstream.is_empty()),
            ("--upstream-cacert", self.upstream_cacert.is_some()),
            ("--upstream-cert", self.upstream_cert.is_some()),
            ("--upstream-key", self.upstream_key.is_some()),
        ])
    }

    fn given_for_listener_tls(&self) -> Vec<&'static str> {
        names([
            ("--cert-file", self.cert_file.is_some()),
            ("--key-file", self.key_file.is_some()),
            ("--trusted-ca-file", self.trusted_ca_file.is_some()),
            ("--client-cert-auth", self.client_cert_auth.is_some()),
        ])
    }

    fn given_for_admin_tls(&self) -> Vec<&'static str> {
        names([
            ("--admin-cert-file", self.admin_cert_file.is_some()),
            ("--admin-key-file", self.admin_key_file.is_some()),
            ("--admin-trusted-ca-file", self.admin_trusted_ca_file.is_some()),
        ])
    }

    fn given_for_listener(&self) -> Vec<&'static str> {
        let mut given = names([
            ("--listen", self.listen.is_some()),
            ("--advertise", !self.advertise.is_empty()),
            ("--route", !self.route.is_empty()),
            ("--etcd-servers-overrides", !self.etcd_servers_overrides.is_empty()),
            ("--etcd-prefix", self.etcd_prefix.is_some()),
        ]);
        given.extend(self.given_for_listener_tls());
        given
    }
}

fn names<const N: usize>(flags: [(&'static str, bool); N]) -> Vec<&'static str> {
    flags.into_iter().filter_map(|(name, given)| given.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Loaded, build};
    use super::*;
    use clap::Parser;
    use std::path::Path;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(args: &str) -> Flags {
        Cli::parse_from(std::iter::once("seawall").chain(args.split_whitespace())).flags
    }

    fn load(args: &str) -> Loaded {
        build(None, &flags(args)).unwrap_or_else(|error| panic!("{args}: {error}"))
    }

    #[track_caller]
    fn check_error(file: &str, args: &str, expected: &[&str]) {
        let file = (!file.is_empty()).then_some((Path::new("seawall.yaml"), file));
        let error = build(file, &flags(args)).expect_err(args).to_string();
        assert_eq!(error.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn flags_alone_are_enough() {
        let Loaded { settings, origins, .. } = load(
            "--upstream https://a:1,https://b:1 --upstream-cacert ca.crt --listen 127.0.0.1:0 \
             --route /registry/events=https://c:1 --route /registry/leases/=https://c:1 \
             --route /other/events=https://d:1 --route /registry/pods=https://b:1,https://a:1 \
             --admin off --workers 2 --log-level debug --log-format json",
        );
        let names: Vec<_> = settings.clusters.iter().map(|cluster| &cluster.name[..]).collect();
        assert_eq!(names, ["events", "events-2", "main"]);
        assert!(settings.clusters.iter().all(|cluster| cluster.tls.ca_file.is_some()));
        let listener = &settings.listeners[0];
        assert_eq!(listener.default, "main");
        let routes: Vec<_> =
            listener.routes.iter().map(|route| (&route.prefix[..], &route.cluster[..])).collect();
        assert_eq!(
            routes,
            [
                ("/registry/events", "events"),
                ("/registry/leases", "events"),
                ("/other/events", "events-2"),
                ("/registry/pods", "main"),
            ]
        );
        assert_eq!((settings.admin, settings.workers), (None, 2));
        let origin = |path: &str| origins.of(path).to_string();
        assert_eq!(origin("clusters.main.endpoints[1]"), "--upstream");
        assert_eq!(origin("clusters.events.endpoints"), "--route");
        assert_eq!(origin("clusters.events.tls.ca_file"), "--upstream-cacert");
        assert_eq!(origin("listeners[0].address"), "--listen");
        assert_eq!(origin("listeners[0].default"), "--upstream");
        assert_eq!(origin("drain.grace"), "default");
    }

    #[test]
    fn overrides_may_be_repeated() {
        let settings = load(
            "--upstream http://a:1 --etcd-prefix k8s --etcd-servers-overrides /events#http://b:1 \
             --etcd-servers-overrides /pods#http://c:1",
        )
        .settings;
        assert_eq!(settings.listeners[0].routes[1].prefix, "/k8s/pods");
        assert_eq!(settings.clusters.len(), 3);
    }

    #[test]
    fn listener_certificates_follow_etcd() {
        let settings =
            load("--upstream http://a:1 --cert-file a --key-file b --trusted-ca-file c").settings;
        let tls = settings.listeners[0].listener.tls.as_ref().expect("it has certificates");
        assert!(tls.client_cert_auth);
    }

    #[test]
    fn flags_are_laid_over_the_file() {
        let file =
            "clusters: {etcd: {endpoints: [http://a:1], probe: {failures: 5}}}\nworkers: 3\n";
        let args = flags("--upstream http://b:1 --route /x=http://c:1 --listen 127.0.0.1:5");
        let loaded = build(Some((Path::new("seawall.yaml"), file)), &args).expect("it is sound");
        let clusters = &loaded.settings.clusters;
        assert_eq!((&clusters[0].name[..], clusters[0].probe.failures), ("etcd", 5));
        assert_eq!(clusters[0].endpoints[0].host, "b");
        assert_eq!((&clusters[1].name[..], clusters[1].probe.failures), ("x", 5));
        assert_eq!(loaded.settings.workers, 3);
        assert_eq!(loaded.origins.of("clusters.x.probe.failures").to_string(), "seawall.yaml:1");
    }

    #[test]
    fn flags_that_could_mean_several_things_are_refused() {
        check_error(
            "clusters: {a: {endpoints: [http://a:1]}, b: {endpoints: [http://b:1]}}\n\
             listeners: [{name: x, default: a, address: 127.0.0.1:1}, {default: b}]\n",
            "--upstream http://c:1 --listen 127.0.0.1:2 --key-file k --workers 2",
            &[
                "--upstream: the file has several clusters (a, b); say it there",
                "--listen: the file has several listeners; say it there",
                "--key-file: the file has several listeners; say it there",
            ],
        );
    }

    #[test]
    fn a_route_needs_a_cluster_for_all_other_keys() {
        check_error(
            "",
            "--route /registry/events=http://c:1",
            &[
                "clusters: expected at least one etcd cluster, met none; give --upstream URL, or in \
                 the file clusters: {main: {endpoints: [URL]}}",
                "--route: it is not clear which cluster takes all other keys; give --upstream, or in \
                 the file the listener's default",
            ],
        );
    }

    #[test]
    fn problems_of_flags_name_the_flag() {
        check_error(
            "",
            "--upstream http://a:1,http://a:1 --client-cert-auth --route /a=http://b:1 --route /a=http://b:1",
            &[
                "--upstream: clusters.main.endpoints[1]: http://a:1 is listed twice",
                "--client-cert-auth: listeners[0].tls.cert_file: expected the path of a PEM file, met nothing",
                "--client-cert-auth: listeners[0].tls.key_file: expected the path of a PEM file, met nothing",
                "--client-cert-auth: listeners[0].tls.trusted_ca_file: expected the PEM file of the \
                 authorities that sign client certificates, met nothing, with client_cert_auth",
                r#"--route: listeners[0].routes[1].prefix: the prefix "/a" is routed already (--route)"#,
            ],
        );
    }

    #[test]
    fn wrong_values_are_usage_errors() {
        for (args, part) in [
            ("--route /a", "expected PREFIX=URL[,URL]"),
            (
                "--route /a=b",
                "expected a URL of scheme, host and port such as https://10.0.0.1:2379 after the =",
            ),
            ("--upstream a:1", "expected a URL"),
            ("--listen localhost:1", "expected an IP address"),
            ("--log-format xml", "possible values: text, json"),
        ] {
            let error = Cli::try_parse_from(["seawall"].into_iter().chain(args.split(' ')))
                .map(|_| ())
                .expect_err(args)
                .to_string();
            assert!(error.contains(part), "{args}: {error}");
        }
    }
}
