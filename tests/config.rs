//! What the configuration file means, and what is said about a wrong one.

use proptest::prelude::*;
use seawall::config::{self, Flags, Loaded};
use std::path::Path;

fn build(text: &str) -> Result<Loaded, config::Error> {
    config::build(Some((Path::new("seawall.yaml"), text)), &Flags::default())
}

fn settings(text: &str) -> config::Settings {
    build(text).expect("the configuration is sound").settings
}

/// The lines that are printed about a wrong configuration.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let error = build(text).expect_err("the configuration is wrong").to_string();
    assert_eq!(error.lines().collect::<Vec<_>>(), expected, "\n{error}\n");
}

const CLUSTER: &str = "clusters: {main: {endpoints: [http://127.0.0.1:2379]}}\n";

/// With a sound cluster below it, so that only `text` is wrong.
#[track_caller]
fn check_with_cluster(text: &str, expected: &[&str]) {
    check(&format!("{text}{CLUSTER}"), expected);
}

#[test]
fn one_cluster_is_enough() {
    let settings = settings(CLUSTER);
    assert_eq!(settings.listeners.len(), 1);
    assert_eq!(settings.listeners[0].default, "main");
    assert_eq!(settings.listeners[0].listener.address.to_string(), "127.0.0.1:23790");
    assert_eq!(settings.clusters[0].endpoints[0].to_string(), "http://127.0.0.1:2379");
    assert!((1..=8).contains(&settings.workers));
}

#[test]
fn all_problems_are_found_at_once_in_the_order_of_the_file() {
    check(
        "listeners:
  - address: localhost:2379
    defualt: main
    routes:
      - prefix: /registry/events/
        cluster: evnts
      - prefix: //
        cluster: main
clusters:
  main:
    endpoints: [127.0.0.1:2379]
    probe: {interval: 1}
    lanes:
      watch:
        streams_max: 0
  events:
    endpoints: []
drain:
  grace: soon
log:
  level: chatty
",
        &[
            "seawall.yaml:2:5: listeners[0].default: expected the name of a cluster (events, main), met nothing; only with a single cluster it can be left out",
            r#"seawall.yaml:2:14: listeners[0].address: expected an IP address with a port such as 127.0.0.1:2379, 0.0.0.0:2379 or [::1]:2379, met "localhost:2379""#,
            "seawall.yaml:3:5: listeners[0].defualt: there is no such key; did you mean default?",
            r#"seawall.yaml:6:18: listeners[0].routes[0].cluster: expected the name of a cluster (events, main), met "evnts""#,
            r#"seawall.yaml:7:17: listeners[0].routes[1].prefix: the prefix "//" has an empty segment (`//`)"#,
            r#"seawall.yaml:11:17: clusters.main.endpoints[0]: expected a URL of scheme, host and port such as https://10.0.0.1:2379, met "127.0.0.1:2379""#,
            r#"seawall.yaml:12:23: clusters.main.probe.interval: expected a duration such as 250ms, 10s or 2m, met "1""#,
            "seawall.yaml:15:22: clusters.main.lanes.watch.streams_max: expected at least 1, met 0",
            "seawall.yaml:17:5: clusters.events.endpoints: expected at least one URL such as https://10.0.0.1:2379, met none",
            r#"seawall.yaml:19:10: drain.grace: expected a duration such as 250ms, 10s or 2m, met "soon""#,
            r#"seawall.yaml:21:10: log.level: expected error, warn, info, debug, trace, or a filter such as info,seawall::upstream=debug, met "chatty""#,
        ],
    );
}

#[test]
fn unknown_keys_are_errors_that_help() {
    check_with_cluster(
        "listener:\n  name: main\nadmin:\n  port: 2381\n",
        &[
            "seawall.yaml:1:1: listener: there is no such key; did you mean listeners?",
            "seawall.yaml:4:3: admin.port: there is no such key; known here: address, livez_after",
        ],
    );
}

#[test]
fn a_file_that_is_not_yaml_says_where() {
    check(
        "listeners: [\n",
        &["seawall.yaml:2:1: while parsing a node, did not find expected node content"],
    );
    check("a: 1\n---\nb: 2\n", &["seawall.yaml:2:1: a second document begins here"]);
}

#[test]
fn keys_given_twice_are_errors() {
    check_with_cluster(
        "workers: 2\nworkers: 3\n",
        &["seawall.yaml:2:1: workers was already given on line 1"],
    );
}

#[test]
fn a_file_without_clusters_says_what_to_do() {
    check(
        "",
        &["seawall.yaml: clusters: expected at least one etcd cluster, met none; \
           give --upstream URL, or in the file clusters: {main: {endpoints: [URL]}}"],
    );
}

#[test]
fn a_value_that_does_not_fit_is_reported_once() {
    // Neither that the cluster has no endpoints nor that it is missing is worth another line.
    check(
        "clusters: {main: {endpoints: {a: 1}}}\n",
        &["seawall.yaml:1:30: clusters.main.endpoints: expected a list, met keys with values"],
    );
    check(
        "clusters: [main]\n",
        &["seawall.yaml:1:11: clusters: expected keys with values (key: value), met a list"],
    );
}

#[test]
fn listeners_must_differ() {
    check_with_cluster(
        "listeners:\n- address: 127.0.0.1:1\n- address: 127.0.0.1:1\nadmin: {address: 127.0.0.1:1}\n",
        &[
            "seawall.yaml:3:3: listeners[1].name: there are two listeners of the name main; give each its own",
            "seawall.yaml:3:12: listeners[1].address: 127.0.0.1:1 is the address of the listener main already",
            "seawall.yaml:4:18: admin.address: 127.0.0.1:1 is the address of the listener main",
        ],
    );
}

#[test]
fn certificates_come_in_pairs_and_with_their_authorities() {
    check(
        "listeners:
- tls:
    cert_file: a.crt
    client_cert_auth: true
clusters:
  main:
    endpoints: [https://127.0.0.1:2379]
    tls: {cert_file: a.crt}
  other:
    endpoints: [http://127.0.0.1:2379]
    tls: {ca_file: ca.crt}
",
        &[
            "seawall.yaml:2:3: listeners[0].tls.key_file: expected the path of a PEM file, met nothing",
            "seawall.yaml:2:3: listeners[0].tls.trusted_ca_file: expected the PEM file of the authorities that sign client certificates, met nothing, with client_cert_auth",
            "seawall.yaml:2:3: listeners[0].default: expected the name of a cluster (main, other), met nothing; only with a single cluster it can be left out",
            "seawall.yaml:8:5: clusters.main.tls.key_file: expected the key of cert_file, met nothing",
            "seawall.yaml:11:5: clusters.other.tls: there are certificates, but no endpoint is https",
        ],
    );
}

#[test]
fn a_trusted_authority_asks_for_certificates_as_at_etcd() {
    let auth = |more: &str| {
        let tls = format!("listeners: [{{tls: {{cert_file: a, key_file: b{more}}}}}]\n{CLUSTER}");
        settings(&tls).listeners[0].listener.tls.as_ref().map(|tls| tls.client_cert_auth)
    };
    assert_eq!(auth(""), Some(false));
    assert_eq!(auth(", trusted_ca_file: c"), Some(true));
    assert_eq!(auth(", trusted_ca_file: c, client_cert_auth: false"), Some(false));
}

#[test]
fn numbers_have_bounds() {
    check(
        "listeners:
- stream_window: 8MiB
  request_size_max: 1GiB
  connections_max: 0
  keepalive_interval: 0s
clusters:
  main:
    endpoints: [http://a:1, http://a:1]
    keepalive_interval: 1s
    backoff_min: 20s
    retry: {budget: 200%}
    probe: {interval: 1ms, failures: 0}
    lanes: {heavy: {streams_spread: 17, connection_window: 4KiB}}
  b c:
    endpoints: [http://a:1]
workers: 1000
",
        &[
            "seawall.yaml:2:3: listeners[0].connection_window: expected at least the stream_window of 8MiB, met 4MiB",
            "seawall.yaml:2:3: listeners[0].default: expected the name of a cluster (b c, main), met nothing; only with a single cluster it can be left out",
            "seawall.yaml:3:21: listeners[0].request_size_max: expected a size from 64KiB to 256MiB, met 1GiB",
            "seawall.yaml:4:20: listeners[0].connections_max: expected at least 1, met 0",
            "seawall.yaml:5:23: listeners[0].keepalive_interval: expected at least 1s, met 0s",
            "seawall.yaml:7:3: clusters.main.backoff_max: expected at least the backoff_min of 20s, met 10s",
            "seawall.yaml:8:29: clusters.main.endpoints[1]: http://a:1 is listed twice",
            "seawall.yaml:9:25: clusters.main.keepalive_interval: expected at least 10s, met 1s",
            "seawall.yaml:11:21: clusters.main.retry.budget: expected at most 100%, met 200%",
            "seawall.yaml:12:23: clusters.main.probe.interval: expected at least 100ms, met 1ms",
            "seawall.yaml:12:38: clusters.main.probe.failures: expected at least 1, met 0",
            "seawall.yaml:13:37: clusters.main.lanes.heavy.streams_spread: expected at most the streams_max of 16, met 17",
            "seawall.yaml:13:60: clusters.main.lanes.heavy.connection_window: expected a size from 64KiB to 1GiB, met 4KiB",
            r#"seawall.yaml:14:3: clusters.b c: expected a name of at most 63 letters, digits, - and _, met "b c""#,
            "seawall.yaml:16:10: workers: expected at most 256, met 1000",
        ],
    );
}

#[test]
fn a_default_does_not_stand_in_the_way_of_a_lower_bound() {
    let lanes = "clusters: {main: {endpoints: [http://a:1], lanes: {watch: {streams_max: 8}}}}";
    let watch = &settings(lanes).clusters[0].lanes.watch;
    assert_eq!((watch.streams_spread, watch.streams_max, watch.connections_max), (8, 8, 64));
}

#[test]
fn prefixes_are_routed_once() {
    check_with_cluster(
        "listeners:
- routes:
  - {prefix: /a, cluster: main}
  - {prefix: /a/, cluster: main}
  - {prefix: /, cluster: main}
  - {prefix: /b}
  etcd_servers_overrides: /a#http://127.0.0.1:2379
  etcd_prefix: /
",
        &[
            r#"seawall.yaml:4:14: listeners[0].routes[1].prefix: the prefix "/a" is routed already (seawall.yaml:3)"#,
            r#"seawall.yaml:5:14: listeners[0].routes[2].prefix: the prefix "/" would take every key; name the cluster as the default instead"#,
            "seawall.yaml:6:5: listeners[0].routes[3].cluster: expected the name of a cluster (main), met nothing",
            r#"seawall.yaml:7:27: listeners[0].etcd_servers_overrides: the prefix "/a" is routed already (seawall.yaml:3)"#,
        ],
    );
}

#[test]
fn overrides_make_clusters_like_the_default_one() {
    let loaded = build(
        "listeners:
- etcd_servers_overrides: /events#https://b:1;https://c:1,batch/jobs#https://c:1;https://b:1,/pods#https://a:1
clusters:
  main:
    endpoints: [https://a:1]
    tls: {ca_file: ca.crt}
    retry: {budget: 5%}
",
    )
    .expect("the configuration is sound");
    let config::Settings { listeners, clusters, .. } = loaded.settings;
    let routes: Vec<_> =
        listeners[0].routes.iter().map(|route| (&route.prefix[..], &route.cluster[..])).collect();
    let expected =
        [("/registry/events", "events"), ("/registry/jobs", "events"), ("/registry/pods", "main")];
    assert_eq!(routes, expected);
    assert_eq!(clusters.len(), 2);
    assert_eq!(clusters[1].endpoints.len(), 2);
    assert_eq!((&clusters[1].tls, &clusters[1].retry), (&clusters[0].tls, &clusters[0].retry));
    let origin = |path: &str| loaded.origins.of(path).to_string();
    assert_eq!(origin("clusters.events.endpoints"), "seawall.yaml:2");
    assert_eq!(origin("clusters.events.tls.ca_file"), "seawall.yaml:6");
    assert_eq!(origin("listeners[0].routes[0].prefix"), "seawall.yaml:2");
}

#[test]
fn wrong_overrides_say_what_is_wrong() {
    check_with_cluster(
        "listeners: [{etcd_servers_overrides: apps/*#http://a:1}]\n",
        &[
            r#"seawall.yaml:1:38: listeners[0].etcd_servers_overrides: "apps/*" cannot be told from keys, where built-in resources lie at /registry/<resource> without their group; list its resources one by one"#,
        ],
    );
    check_with_cluster(
        "listeners: [{etcd_servers_overrides: /pods#http://a}]\n",
        &["seawall.yaml:1:38: listeners[0].etcd_servers_overrides: /pods: \
           expected a URL of scheme, host and port such as https://10.0.0.1:2379, met http://a"],
    );
}

#[test]
fn a_file_of_something_else_entirely_is_refused_in_good_time() {
    let text: String = (0..50_000).map(|number| format!("key{number}: 1\n")).collect();
    assert_eq!(build(&text).expect_err("it is wrong").problems.len(), 100);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(
        tokens in proptest::collection::vec(
            prop::sample::select(vec![
                "listeners", "clusters", "main", "tls", "routes", "endpoints", "prefix", "lanes",
                "watch", "log", ": ", ":", "- ", "\n", "\n  ", "\n    ", "[", "]", "{", "}", ", ",
                "http://a:1", "1", "5s", "~", "\"", "#", "&a ", "*a", "a.b", "!!x ", "|", "---\n",
            ]),
            0..40,
        )
    ) {
        if let Err(error) = build(&tokens.concat()) {
            prop_assert!(!error.problems.is_empty());
        }
    }
}

#[test]
fn the_effective_configuration_reads_back_as_the_same() {
    for name in ["minimal", "example", "kubernetes"] {
        let first = build(&published(name)).expect(name);
        let printed = config::effective(&first.settings, &first.origins);
        let second = build(&printed).unwrap_or_else(|error| panic!("{error}\n{printed}"));
        assert_eq!(first.settings, second.settings, "{name}");
    }
}

fn published(name: &str) -> String {
    let path = format!("{}/config/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("the file is there")
}

/// Turns `#key: value` into `key: value`, and leaves prose alone.
fn uncomment(text: &str) -> String {
    let line = |line: &str| {
        let indent = line.len() - line.trim_start().len();
        match line[indent..].strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{}{rest}\n", &line[..indent]),
            _ => format!("{line}\n"),
        }
    };
    text.lines().map(line).collect()
}

#[test]
fn the_example_shows_the_defaults() {
    let example = settings(&published("example"));
    let minimal = settings("clusters: {main: {endpoints: [https://127.0.0.1:2379]}}");
    assert_eq!(example, minimal);
    assert_eq!(settings(&published("minimal")).listeners, minimal.listeners);

    let full = settings(&uncomment(&published("example")));
    let tls = "{cert_file: /etc/kubernetes/pki/etcd/server.crt, \
                key_file: /etc/kubernetes/pki/etcd/server.key, \
                trusted_ca_file: /etc/kubernetes/pki/etcd/ca.crt}";
    let defaults = settings(&format!("listeners: [{{tls: {tls}}}]\n{CLUSTER}"));
    assert_eq!(full.listeners[0].listener.tls, defaults.listeners[0].listener.tls);
}

#[test]
fn the_example_shows_every_key() {
    let loaded = build(&uncomment(&published("example"))).expect("the example is sound");
    for path in key_paths() {
        assert_ne!(*loaded.origins.of(&path), config::Origin::Default, "{path} is missing");
    }
}

#[test]
fn the_reference_names_every_key() {
    let path = format!("{}/docs/configuration.md", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("the file is there");
    for path in key_paths() {
        let key = path.rsplit('.').next().unwrap_or(&path).trim_end_matches("[0]");
        let named = [format!("`{key}`"), format!("`{key}."), format!(".{key}`")]
            .iter()
            .any(|name| text.contains(name));
        assert!(named || key == "main", "{path} is missing");
    }
}

#[test]
fn the_published_schema_is_that_of_this_version() {
    let path = format!("{}/config/schema.json", env!("CARGO_MANIFEST_DIR"));
    let published: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("the file is there"))
            .expect("the file is JSON");
    assert_eq!(
        published,
        config::schema().to_value(),
        "renew it with: cargo run -- schema > config/schema.json"
    );
}

/// Of the schema, with one item in each list and the cluster `main`.
fn key_paths() -> Vec<String> {
    fn walk(
        schema: &serde_json::Value,
        root: &serde_json::Value,
        path: &str,
        paths: &mut Vec<String>,
    ) {
        let target = schema["$ref"].as_str().or_else(|| {
            let mut choices = schema["anyOf"].as_array()?.iter();
            choices.find_map(|choice| choice["$ref"].as_str())
        });
        if let Some(target) = target {
            let target = root.pointer(target.trim_start_matches('#')).expect("it is defined");
            walk(target, root, path, paths);
        }
        for (key, value) in schema["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            paths.push(path.clone());
            walk(value, root, &path, paths);
        }
        if schema["items"].is_object() {
            walk(&schema["items"], root, &format!("{path}[0]"), paths);
        }
        if schema["additionalProperties"].is_object() {
            walk(&schema["additionalProperties"], root, &format!("{path}.main"), paths);
        }
    }
    let schema = config::schema().to_value();
    let mut paths = Vec::new();
    walk(&schema, &schema, "", &mut paths);
    assert!(paths.len() > 60, "{paths:?}");
    paths
}
