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
            "seawall.yaml:4:3: admin.port: there is no such key; known here: address, tls, token_file, livez_after",
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
    endpoints: [http://127.0.0.2:2379]
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
    endpoints: [http://b:1]
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
            "seawall.yaml:13:37: clusters.main.lanes.heavy.streams_spread: expected at most the streams_max of 8, met 17",
            "seawall.yaml:13:60: clusters.main.lanes.heavy.connection_window: expected a size from 64KiB to 1GiB, met 4KiB",
            r#"seawall.yaml:14:3: clusters.b c: expected a name of at most 63 letters, digits, - and _, met "b c""#,
            "seawall.yaml:16:10: workers: expected at most 256, met 1000",
        ],
    );
}

/// A lease that had been granted was revoked, since what had it under the other name was taken for a
/// copy.
#[test]
fn a_member_belongs_to_one_cluster() {
    check(
        "listeners:
- default: main
  etcd_servers_overrides: /events#http://c:1;http://d:1
clusters:
  main:
    endpoints: [http://a:1, http://b:1, http://c:1]
  other:
    endpoints: [http://d:2, https://b:1]
",
        &[
            "seawall.yaml:3:27: clusters.events.endpoints[0]: http://c:1 is a member of cluster main already",
            "seawall.yaml:8:29: clusters.other.endpoints[1]: https://b:1 is a member of cluster main already",
        ],
    );
    let many: Vec<_> = (0..65).map(|port| format!("http://a:{}", port + 1)).collect();
    check(
        &format!("clusters: {{main: {{endpoints: [{}]}}}}\n", many.join(", ")),
        &["seawall.yaml:1:19: clusters.main.endpoints: expected at most 64 URLs, met 65"],
    );
}

#[test]
fn a_default_does_not_stand_in_the_way_of_a_lower_bound() {
    let lanes = "clusters: {main: {endpoints: [http://a:1], lanes: {watch: {streams_max: 8}}}}";
    let watch = &settings(lanes).clusters[0].lanes.watch;
    assert_eq!((watch.streams_spread, watch.streams_max, watch.connections_max), (8, 8, 64));
}

#[test]
fn protections_have_bounds() {
    check(
        "clusters: {main: {endpoints: [http://a:1]}}
protection:
  mode: on
  memory: 1MiB
  coalescing: {waiters_max: 0, pinned: 2GiB}
  paging: {page_size: 1GiB}
  queues:
    reads: {concurrency: 0, length_max: 2000000, wait_max: 0s}
    lists: {concurrency: 2}
    concurrency_min: 3
    latency_margin: 0s
  space: {warn: 0%, refuse: 120%, quota: 1B}
  deletes: {keys_max: 0, clients: [\"\"]}
attribution: {entries: 0, slow: 0s, heavy: 0B}
",
        &[
            r#"seawall.yaml:3:9: protection.mode: expected off or observe or enforce, met "on""#,
            "seawall.yaml:4:11: protection.memory: expected a size from 64MiB to 1024GiB, met 1MiB",
            "seawall.yaml:5:29: protection.coalescing.waiters_max: expected a number from 1 to 1000000, met 0",
            "seawall.yaml:5:40: protection.coalescing.pinned: expected at most the memory of 1MiB, met 2GiB",
            "seawall.yaml:6:23: protection.paging.page_size: expected a size from 64KiB to 64MiB, met 1GiB",
            "seawall.yaml:8:26: protection.queues.reads.concurrency: expected a number from 1 to 1000000, met 0",
            "seawall.yaml:8:41: protection.queues.reads.length_max: expected a number from 0 to 1000000, met 2000000",
            "seawall.yaml:8:60: protection.queues.reads.wait_max: expected at least 1ms, met 0s",
            "seawall.yaml:10:22: protection.queues.concurrency_min: expected at most the concurrency of lists, 2, met 3",
            "seawall.yaml:11:21: protection.queues.latency_margin: expected at least 1ms, met 0s",
            "seawall.yaml:12:17: protection.space.warn: expected a percentage from 1% to 100%, met 0%",
            "seawall.yaml:12:29: protection.space.refuse: expected a percentage from 1% to 100%, met 120%",
            "seawall.yaml:12:42: protection.space.quota: expected a size from 1MiB to 1024GiB, met 1B",
            "seawall.yaml:13:23: protection.deletes.keys_max: expected at least 1, met 0",
            "seawall.yaml:13:36: protection.deletes.clients[0]: expected a name, or a pattern such as team-*, met nothing",
            "seawall.yaml:14:24: attribution.entries: expected a number from 1 to 100000, met 0",
            "seawall.yaml:14:33: attribution.slow: expected at least 1ms, met 0s",
            "seawall.yaml:14:44: attribution.heavy: expected a size from 1B to 1024GiB, met 0B",
        ],
    );
}

#[test]
fn grants_say_who_what_and_which_keys() {
    check_with_cluster(
        "access: {}\n",
        &[
            "seawall.yaml:1:1: access.grants: expected at least one grant, met none, which refuses every call",
        ],
    );
    check_with_cluster(
        "access:
  grants:
    - {verbs: [read], prefixes: [/a]}
    - {clients: [a], verbs: [read]}
    - {clients: [a], verbs: [status], prefixes: [/a]}
    - {clients: [a], verbs: [raed], prefixes: [/a//b, /]}
    - {clients: [a]}
",
        &[
            r#"seawall.yaml:3:7: access.grants[0]: expected clients or addresses; clients: ["*"] is everybody, met neither"#,
            r#"seawall.yaml:4:7: access.grants[1].prefixes: expected the keys to read; "" is every key, met none"#,
            "seawall.yaml:5:39: access.grants[2].prefixes: expected none, since its verbs are about no keys, met /a",
            r#"seawall.yaml:6:30: access.grants[3].verbs[0]: there is no verb "raed"; did you mean read?"#,
            r#"seawall.yaml:6:48: access.grants[3].prefixes[0]: the prefix "/a//b" has an empty segment (`//`)"#,
            r#"seawall.yaml:6:55: access.grants[3].prefixes[1]: expected a prefix with a name, or "" for every key, met "/""#,
            "seawall.yaml:7:7: access.grants[4].verbs: expected at least one verb, or all, met none",
        ],
    );
    let text = "access: {grants: [{clients: [a], verbs: [all], prefixes: ['', /a/]}]}\n";
    let access = settings(&format!("{text}{CLUSTER}")).access.expect("it is given");
    assert_eq!(access.grants[0].verbs.len(), 9);
    assert_eq!(access.grants[0].prefixes, ["", "/a"]);
}

#[test]
fn the_slope_before_the_quota_goes_up() {
    check_with_cluster(
        "protection: {space: {warn: 90%, refuse_low: 85%, refuse: 80%}}\n",
        &[
            "seawall.yaml:1:45: protection.space.refuse_low: expected at least the warn of 90%, met 85%",
            "seawall.yaml:1:58: protection.space.refuse: expected at least the refuse_low of 85%, met 80%",
        ],
    );
    let level =
        format!("protection: {{space: {{warn: 80%, refuse_low: 80%, refuse: 80%}}}}\n{CLUSTER}");
    assert_eq!(settings(&level).protection.space.refuse_percent, 80);
}

#[test]
fn a_queue_keeps_the_defaults_of_its_kind() {
    let queues = |text: &str| {
        settings(&format!("protection: {{queues: {text}}}\n{CLUSTER}")).protection.queues
    };
    let (given, defaults) = (queues("{lists: {concurrency: 1}}"), queues("{}"));
    assert_eq!(given.lists.concurrency, 1);
    assert_eq!(given.lists.length_max, defaults.lists.length_max);
    assert_eq!(given.lists.wait_max, defaults.lists.wait_max);
    assert_ne!(defaults.lists, defaults.reads);
}

#[test]
fn names_in_rules_must_be_known() {
    check_with_cluster(
        "protection:
  rules:
  - name: a b
    deny: true
    match:
      prefixes: [\"\", /, //a, /registry/events]
      classes: [writes]
      shapes: [creat]
      methods: [txn]
      clusters: [mian]
      namespaces: [\"\"]
      addresses: [10.0.0.0/33]
  - {name: b, priority: highest}
  - {name: c, weight: 0, coalesc: true}
  - {name: c, limit: {requests: 0/s, cost: 10, concurrency: 0, burst: 0s, per: [cluster]}}
",
        &[
            r#"seawall.yaml:3:11: protection.rules[0].name: expected a name of at most 63 letters, digits, - and _, met "a b""#,
            r#"seawall.yaml:6:18: protection.rules[0].match.prefixes[0]: the prefix "" would take every key; leave prefixes out instead"#,
            r#"seawall.yaml:6:22: protection.rules[0].match.prefixes[1]: the prefix "/" would take every key; leave prefixes out instead"#,
            r#"seawall.yaml:6:25: protection.rules[0].match.prefixes[2]: the prefix "//a" has an empty segment (`//`)"#,
            r#"seawall.yaml:7:17: protection.rules[0].match.classes[0]: there is no class "writes"; did you mean write?"#,
            r#"seawall.yaml:8:16: protection.rules[0].match.shapes[0]: there is no shape "creat"; did you mean create?"#,
            r#"seawall.yaml:9:17: protection.rules[0].match.methods[0]: there is no method "txn"; did you mean Txn?"#,
            r#"seawall.yaml:10:18: protection.rules[0].match.clusters[0]: there is no cluster "mian"; did you mean main?"#,
            "seawall.yaml:11:20: protection.rules[0].match.namespaces[0]: expected a name, or a pattern such as team-*, met nothing",
            r#"seawall.yaml:12:19: protection.rules[0].match.addresses[0]: expected an IP address or a range of them such as 10.0.0.1, 10.0.0.0/8 or fd00::/8, met "10.0.0.0/33""#,
            r#"seawall.yaml:13:25: protection.rules[1].priority: expected high or normal or low, met "highest""#,
            "seawall.yaml:14:23: protection.rules[2].weight: expected a number from 1 to 1000, met 0",
            "seawall.yaml:14:26: protection.rules[2].coalesc: there is no such key; did you mean coalesce?",
            "seawall.yaml:15:12: protection.rules[3].name: there are two rules of the name c; give each its own",
            r#"seawall.yaml:15:33: protection.rules[3].limit.requests: expected a rate of at least 1 such as 10/s, 600/m or 5/h, met "0/s""#,
            r#"seawall.yaml:15:44: protection.rules[3].limit.cost: expected a rate of at least 1 such as 10/s, 600/m or 5/h, met "10""#,
            "seawall.yaml:15:61: protection.rules[3].limit.concurrency: expected at least 1, met 0",
            "seawall.yaml:15:71: protection.rules[3].limit.burst: expected at least 1ms, met 0s",
            r#"seawall.yaml:15:81: protection.rules[3].limit.per[0]: expected client or collection or namespace, met "cluster""#,
        ],
    );
}

#[test]
fn a_rule_says_something_that_can_be() {
    check_with_cluster(
        "protection:
  rules:
  - {name: nothing, match: {classes: [write]}, limit: {burst: 5s}}
  - {name: uncounted, quota: {objects: 5, bytes: 1GiB}}
  - {name: both, deny: true, limit: {requests: 10/s}}
  - {name: more, exempt: true, weight: 4, read_only: true}
  - {name: idle, quota: {per_namespace: true, value_size: 1KiB}}
  - {name: sound, mode: observe, exempt: true, match: {clients: [operator]}}
",
        &[
            "seawall.yaml:3:5: protection.rules[0]: expected a limit, a quota, weight, priority, mirror, coalesce, page, read_only, deny or exempt, met a rule that does nothing",
            "seawall.yaml:4:40: protection.rules[1].quota.objects: expected match.prefixes beside it, below which keys are counted, met none",
            "seawall.yaml:4:50: protection.rules[1].quota.bytes: expected match.prefixes beside it, below which keys are counted, met none",
            "seawall.yaml:5:24: protection.rules[2].deny: what is refused needs nothing else; take out limit.requests",
            "seawall.yaml:6:26: protection.rules[3].exempt: nothing holds for calls that are exempt; take out weight, read_only",
            "seawall.yaml:7:41: protection.rules[4].quota.per_namespace: expected objects or bytes beside it, met neither",
        ],
    );
}

#[test]
fn rules_may_name_clusters_that_overrides_add() {
    let settings = settings(&format!(
        "listeners: [{{etcd_servers_overrides: /events#http://127.0.0.1:2479}}]
protection: {{rules: [{{name: a, match: {{clusters: [events]}}, read_only: true}}]}}\n{CLUSTER}"
    ));
    assert_eq!(settings.protection.rules[0].when.clusters, ["events"]);
}

#[test]
fn the_flag_is_laid_over_the_mode() {
    #[derive(clap::Parser)]
    struct Args {
        #[command(flatten)]
        flags: Flags,
    }
    let args = <Args as clap::Parser>::try_parse_from(["seawall", "--protection", "observe"]);
    let flags = args.map(|args| args.flags).unwrap_or_else(|error| panic!("{error}"));
    let loaded =
        config::build(Some((Path::new("seawall.yaml"), CLUSTER)), &flags).expect("it is sound");
    assert_eq!(loaded.settings.protection.mode, seawall::admission::Mode::Observe);
    assert_eq!(loaded.origins.of("protection.mode"), &config::Origin::Flag("--protection"));
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

#[test]
fn effective_rules_read_back_as_the_same() {
    let first = build(&uncomment(&published("example"))).expect("the example is sound");
    let printed = config::effective(&first.settings, &first.origins);
    let second = build(&printed).unwrap_or_else(|error| panic!("{error}\n{printed}"));
    assert_eq!(first.settings.protection.rules.len(), 1);
    assert_eq!(first.settings.protection, second.settings.protection);
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

/// The indented blocks of a page.
fn examples(page: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in page.lines() {
        match (line.strip_prefix("    "), blocks.last_mut()) {
            (Some(code), Some(block)) => block.push_str(&format!("{code}\n")),
            _ => blocks.push(String::new()),
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

#[test]
fn the_rules_that_are_taught_are_sound() {
    let path = format!("{}/docs/rules.md", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("the file is there");
    let mut examples = examples(&text);
    // Commands and what they answer stand in blocks, too.
    examples
        .retain(|example| ["- name: ", "protection:"].iter().any(|yaml| example.starts_with(yaml)));
    assert_eq!(examples.len(), 6);
    for example in examples {
        let text = match example.starts_with("- name: ") {
            true => format!("protection:\n  rules:\n  {}", example.replace('\n', "\n  ")),
            false => example,
        };
        let file = format!("{CLUSTER}{text}");
        let loaded = build(&file).unwrap_or_else(|error| panic!("{error}\n{file}"));
        assert!(!loaded.settings.protection.rules.is_empty(), "{file}");
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
