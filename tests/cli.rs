//! The program's commands, as an operator sees them.

use anyhow::{Context, Result};
use seawall_testkit::Pki;
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

struct Done {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn seawall<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Done {
    let output = Command::new(env!("CARGO_BIN_EXE_seawall"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the output is UTF-8");
    Done { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// By words.
fn run(args: &str) -> Done {
    seawall(args.split_whitespace())
}

/// A file in a place of its own.
fn file(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).expect("the file can be written");
    path
}

#[track_caller]
fn check_usage_error(args: &str, expected: &str) {
    let done = run(args);
    assert_eq!(done.code, Some(2), "{args}: {}", done.stderr);
    assert!(done.stderr.contains(expected), "{args}: {}", done.stderr);
    assert_eq!(done.stdout, "", "{args}");
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_to_do() {
    for (args, expected) in [
        ("", "Usage: seawall <COMMAND>"),
        ("start", "unrecognized subcommand 'start'"),
        ("run --upstrem http://a:1", "a similar argument exists: '--upstream'"),
        (
            "run",
            "error: clusters: expected at least one etcd cluster, met none; give --upstream URL",
        ),
        ("run --config nowhere.yaml", "error: nowhere.yaml: cannot be read: No such file"),
        ("run --upstream 127.0.0.1:2379", "expected a URL of scheme, host and port such as"),
        (
            "check --upstream http://a:1 --workers 999",
            "error: --workers: workers: expected at most 256, met 999",
        ),
        ("explain --upstream http://a:1", "--key <KEY>|--prefix <PREFIX>"),
        ("explain --upstream http://a:1 --key a --prefix b", "cannot be used with"),
        ("explain --upstream http://a:1 --requests nowhere", "error: nowhere: No such file"),
        ("completion tcsh", "invalid value 'tcsh'"),
    ] {
        check_usage_error(args, expected);
    }
}

#[test]
fn a_wrong_file_is_reported_with_all_places() {
    let path = file("wrong.yaml", "clusters:\n  main:\n    endpoint: []\ndrain: {grace: 1}\n");
    let done = seawall([Path::new("check"), Path::new("--config"), &path]);
    let path = path.display();
    assert_eq!(done.code, Some(2));
    assert_eq!(
        done.stderr,
        format!(
            "error: 3 problems in the configuration\n\
             {path}:2:3: clusters.main.endpoints: expected at least one URL such as https://10.0.0.1:2379, met none\n\
             {path}:3:5: clusters.main.endpoint: there is no such key; did you mean endpoints?\n\
             {path}:4:16: drain.grace: expected a duration such as 250ms, 10s or 2m, met \"1\"\n"
        )
    );
}

#[test]
fn check_prints_what_is_in_effect_and_why() {
    let done = run("check --config config/minimal.yaml --workers 3");
    assert_eq!((done.code, &done.stderr[..]), (Some(0), ""));
    let lines: Vec<String> =
        done.stdout.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "endpoints: [http://127.0.0.1:2379] # config/minimal.yaml:6",
        "workers: 3 # --workers",
        "tls: # default: plaintext",
        "grace: 25s # default",
    ] {
        assert!(lines.iter().any(|printed| printed == line), "{line}\n{}", done.stdout);
    }
}

#[test]
fn what_check_prints_is_a_file_that_says_the_same() {
    let flags = "--upstream https://a:1,https://b:1 --route /registry/events=https://c:1 --admin off \
                 --log-level info,seawall::upstream=debug";
    let first = run(&format!("check {flags}"));
    let path = file("printed.yaml", &first.stdout);
    let second = seawall([Path::new("check"), Path::new("--config"), &path]);
    let values = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split("  #").next().unwrap_or(line).trim_end().into())
            .collect()
    };
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    assert_eq!(values(&first.stdout), values(&second.stdout));
}

#[test]
fn check_looks_into_certificates() -> Result<()> {
    let pki = Pki::new()?;
    let (server, client) = (pki.server()?, pki.client("root")?);
    let sound = format!(
        "listeners:
- tls: {{cert_file: {cert}, key_file: {key}, trusted_ca_file: {ca}}}
clusters:
  main:
    endpoints: [https://127.0.0.1:2379]
    tls: {{ca_file: {ca}, cert_file: {client_cert}, key_file: {client_key}}}
",
        cert = server.cert.display(),
        key = server.key.display(),
        ca = pki.ca().display(),
        client_cert = client.cert.display(),
        client_key = client.key.display(),
    );
    let check = |name: &str, text: &str| {
        let path = file(name, text);
        let done = seawall([Path::new("check"), Path::new("--config"), &path]);
        (done.code, done.stderr.replace(&path.display().to_string(), "FILE"))
    };
    assert_eq!(check("certificates.yaml", &sound), (Some(0), String::new()));

    let (server, client) = (server.cert.display().to_string(), client.key.display().to_string());
    let expired = pki.expired_server()?;
    let (code, stderr) = check(
        "expired.yaml",
        &sound
            .replace(&server, &expired.cert.display().to_string())
            .replace(&client, &expired.key.display().to_string()),
    );
    assert_eq!(code, Some(2));
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines[0], "error: 3 problems in the configuration");
    let expected = [
        ("FILE:2:20: listeners[0].tls.cert_file: ", "has expired on Jan  2 00:00:00 2020"),
        ("FILE:2:", "is no key for"),
        ("FILE:6:", "is no key for"),
    ];
    for (line, (place, what)) in lines[1..].iter().zip(expected) {
        assert!(line.starts_with(place) && line.contains(what), "{line}");
    }

    let missing = sound.replace(&server, "/nowhere/server.crt");
    assert_eq!(
        check("missing.yaml", &missing),
        (
            Some(2),
            "error: FILE:2:20: listeners[0].tls.cert_file: /nowhere/server.crt: \
             No such file or directory (os error 2)\n"
                .into()
        )
    );
    let (_, stderr) = check("swapped.yaml", &sound.replace(&server, &client));
    assert!(stderr.contains("holds no certificate"), "{stderr}");
    Ok(())
}

/// Started again and again by a service manager, it would come no further.
#[test]
fn an_audit_that_cannot_be_written_is_a_wrong_configuration() {
    let dir = tempfile::tempdir().expect("a directory");
    let (there, new) = (dir.path().join("there"), dir.path().join("new"));
    fs::write(&there, "a line\n").expect("the file can be written");
    let config = |audit: &Path, trace: &Path| {
        let (audit, trace) = (audit.display(), trace.display());
        let text = format!(
            "clusters: {{main: {{endpoints: [http://127.0.0.1:1]}}}}
log:
  audit_file: {audit}
attribution:
  trace: {{file: {trace}}}
"
        );
        fs::write(dir.path().join("seawall.yaml"), text).expect("the file can be written");
    };
    let start = |command: &str| {
        let path = dir.path().join("seawall.yaml");
        let done = seawall([Path::new(command), Path::new("--config"), &path]);
        (done.code, done.stderr.replace(&dir.path().display().to_string(), "DIR"))
    };

    config(&new, &there);
    assert_eq!(start("check"), (Some(0), String::new()));
    assert!(!new.exists(), "it was made");
    assert_eq!(fs::read_to_string(&there).expect("it is there"), "a line\n");

    config(&dir.path().join("nowhere/audit"), &dir.path().join("nowhere/trace"));
    let (code, stderr) = start("check");
    assert_eq!(code, Some(2), "{stderr}");
    let what = "cannot be written: No such file or directory (os error 2); name a file in a \
                directory that is there and that the user who runs Seawall may write to, or leave it out";
    let error =
        format!("error: DIR/seawall.yaml:3:15: log.audit_file: DIR/nowhere/audit: {what}\n");
    let warning = format!(
        "warning: DIR/seawall.yaml:5:17: attribution.trace.file: DIR/nowhere/trace: {what}\n"
    );
    assert_eq!(stderr, warning + &error);
    assert_eq!(start("run"), (Some(2), error));
}

const EVENTS: &str =
    "--upstream http://a:1 --route /registry/events=http://b:1 --listen 127.0.0.1:1";

#[track_caller]
fn check_explain(args: &str, expected: &str) {
    let done = run(&format!("explain {EVENTS} {args}"));
    assert_eq!((done.code, &done.stderr[..], &done.stdout[..]), (Some(0), "", expected));
}

#[test]
fn explain_shows_where_a_key_goes() {
    check_explain(
        "--key /registry/events/default/a",
        r#"range "/registry/events/default/a"
  shape     get
  class     point_read
  client    127.0.0.1
  listener  main (127.0.0.1:1)
  route     /registry/events (--route)
  cluster   events
  cost      1 + 1 keys / 1000 + 0 bytes / 100000 = 1.00
            as assumed at first; the running process goes by what such calls have cost
  queue     queues.reads: at most 512 at etcd at once, 20000 wait, each for 10s
  answer    from memory where that is ready, else shared with equal reads that come before etcd is asked
  rules     none matches
  outcome   passes when its turn comes
"#,
    );
    check_explain(
        "--key /registry/eventsources",
        r#"range "/registry/eventsources"
  shape     current_revision
  class     probe
  client    127.0.0.1
  listener  main (127.0.0.1:1)
  route     none, so the default cluster (--upstream)
  cluster   main
  cost      1 + 1 keys / 1000 + 0 bytes / 100000 = 1.00
            as assumed at first; the running process goes by what such calls have cost
  queue     queues.reads: at most 512 at etcd at once, 20000 wait, each for 10s
  answer    from memory where that is ready, else shared with equal reads that come before etcd is asked
  rules     none matches
  outcome   passes when its turn comes
"#,
    );
}

#[test]
fn explain_shows_how_a_range_is_split() {
    check_explain(
        "--range /registry/events /registry/f",
        r#"range ["/registry/events", "/registry/f")
  shape     list
  class     heavy_list
  client    127.0.0.1
  listener  main (127.0.0.1:1)
  clusters  several, since the range spans them:
    events            "/registry/events"
    main              ["/registry/events\x00", "/registry/events/")
    events            ["/registry/events/", "/registry/events0")
    main              ["/registry/events0", "/registry/f")
  outcome   asked of each and merged in the order of keys, as they are now, when its turn at the default cluster comes
"#,
    );
}

/// Ten lists a second for three seconds meet a rule of five with a burst of a second: nine pass at once,
/// ten wait longer and longer, and then every other one finds its turn too far away.
#[test]
fn explain_tries_rules_on_a_record() {
    let call = |n: u32| {
        let at_us = n * 100_000;
        format!(
            r#"{{"at_us":{at_us},"method":"Range","shape":"list","class":"heavy_list","key":"/registry/pods/","range_end":"/registry/pods0","client":"inventory","address":"10.0.0.9","code":"Ok","keys":10,"bytes":100,"took_us":10}}"#
        )
    };
    let mut lines: Vec<_> = (0..30).map(call).collect();
    // Somebody else watched for nine seconds.
    let watch = r#""method":"Watch","shape":"watch","class":"watch","watch":1,"stream":1"#;
    lines.push(format!(
        r#"{{"at_us":0,{watch},"key":"/registry/pods/","range_end":"/registry/pods0","client":"viewer","address":"10.0.0.8","code":"Ok","keys":1,"bytes":40,"took_us":0}}"#
    ));
    lines.push(format!(
        r#"{{"at_us":9000000,{watch},"ended":true,"keys":0,"bytes":0,"took_us":9000000}}"#
    ));
    let trace = file("trace.jsonl", &lines.join("\n"));
    let config = file(
        "trace.yaml",
        "
clusters: {main: {endpoints: [http://a:1]}}
protection:
  rules:
    - name: inventory
      match: {clients: [inventory]}
      limit: {requests: 5/s, burst: 1s, wait_max: 1s}
",
    );
    let explain = |trace: &std::path::Path| {
        run(&format!("explain --config {} --trace {}", config.display(), trace.display()))
    };
    let done = explain(&trace);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stdout.starts_with("31 calls of 2 clients in 2.9 s\n"), "{}", done.stdout);
    for name in ["inventory", "list"] {
        let row = format!("{name:<32}        30        15      1000ms         6\n");
        assert!(done.stdout.contains(&row), "{}", done.stdout);
    }
    let wrong = explain(&file("no-trace.jsonl", "{}"));
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("call 1 is of no known kind"), "{}", wrong.stderr);
}

#[test]
fn explain_says_who_may() {
    let config = file(
        "access.yaml",
        "clusters: {main: {endpoints: [http://a:1]}}
access: {grants: [{clients: [team], verbs: [read, write], prefixes: [/team]}]}
",
    );
    let explain = |args: &str| {
        let done = run(&format!("explain --config {} {args}", config.display()));
        assert_eq!((done.code, &done.stderr[..]), (Some(0), ""));
        done.stdout
    };
    let text = explain("--client team --prefix /team/");
    assert!(text.contains("  access    let by access.grants[0]\n"), "{text}");
    assert!(text.contains("  outcome   passes when its turn comes\n"), "{text}");
    let text = explain("--client team --range /team/ /team1");
    let why = r#"  access    no grant lets this client read ["/team/", "/team1")"#;
    assert!(text.contains(why), "{text}");
    assert!(text.contains("  outcome   refused: etcdserver: permission denied\n"), "{text}");
}

#[test]
fn explain_reads_requests() {
    let jsonl = file(
        "requests.jsonl",
        r#"{"method": "watch", "prefix": "/registry/events/"}

{"prefix": "/registry/pods/", "limit": 500}
{"method": "txn", "compare": [{"key": "/a"}], "success": [{"method": "put", "key": "/registry/events/x"}]}
"#,
    );
    check_explain(
        &format!("--requests {}", jsonl.display()),
        r#"watch ["/registry/events/", "/registry/events0")
  shape     watch
  class     watch
  client    127.0.0.1
  listener  main (127.0.0.1:1)
  route     /registry/events (--route)
  cluster   events
  cost      1 + 1 keys / 1000 + 0 bytes / 100000 = 1.00
            as assumed at first; the running process goes by what such calls have cost
  queue     none for calls of class watch
  rules     none matches
  outcome   passes

range ["/registry/pods/", "/registry/pods0")
  shape     page
  class     paged_list
  client    127.0.0.1
  listener  main (127.0.0.1:1)
  route     none, so the default cluster (--upstream)
  cluster   main
  cost      1 + 1000 keys / 1000 + 1048576 bytes / 100000 = 12.49
            as assumed at first; the running process goes by what such calls have cost
  queue     queues.lists: at most 2 at etcd at once, 1000 wait, each for 60s
  answer    from memory where that is ready, else shared with equal reads that come before etcd is asked
  rules     none matches
  outcome   passes when its turn comes

txn
  shape     txn
  class     write
  client    127.0.0.1
  listener  main (127.0.0.1:1)
  refused   transaction spans clusters: "/a" lies in cluster main, "/registry/events/x" in cluster events
"#,
    );
    let yaml = file("requests.yaml", "- key: compact_rev_key\n- {method: put, key: /a}\n");
    let done = run(&format!("explain {EVENTS} --requests {}", yaml.display()));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stdout.contains("critical") && done.stdout.contains("put \"/a\""));
}

/// The lines of `explain` with this name, of all requests.
#[track_caller]
fn explained(config: &str, args: &str, name: &str) -> Vec<String> {
    let path = file("explained.yaml", config);
    let done = run(&format!("explain --config {} {args}", path.display()));
    assert_eq!((done.code, &done.stderr[..]), (Some(0), ""));
    let name = format!("  {name} ");
    let lines = done.stdout.lines().filter_map(|line| line.strip_prefix(&name));
    lines.map(|line| line.trim_start().to_owned()).collect()
}

#[test]
fn explain_tells_what_rules_make_of_a_request() {
    let rules = "clusters: {main: {endpoints: [http://127.0.0.1:1]}}
protection:
  rules:
    - {name: tool, match: {clients: [migrat*]}, exempt: true}
    - {name: apps, match: {prefixes: [/registry/apps]}, deny: true}
    - name: events
      match: {prefixes: [/registry/events], shapes: [create]}
      limit: {creates: 600/m, wait_max: 2s, per: [namespace]}
      priority: low
    - name: watchers
      match: {prefixes: [/registry/runs], classes: [watch]}
      limit: {requests: 5/s, cost: 10/s, concurrency: 1}
    - {name: runs, match: {prefixes: [/registry/runs]}, quota: {objects: 50, delete_keys: 7}}
    - {name: old, mode: off, read_only: true, match: {prefixes: [/registry/pods]}}
    - {name: office, mode: observe, match: {addresses: [10.0.0.0/8]}, deny: true}
";
    let requests = file(
        "explained-requests.yaml",
        "- {method: put, key: /registry/apps/a, client: migration}
- {method: put, key: /registry/apps/a}
- {key: /registry/apps.example.com/things/a}
- {key: /registry/pods/default/a, address: 10.0.0.1, client: office-pc}
- method: txn
  compare: [{key: /registry/events/a/b, mod_revision: 0}]
  success: [{method: put, key: /registry/events/a/b}]
- {method: put, key: /registry/runs/a}
- {method: delete_range, prefix: /registry/runs/}
- {key: /registry/health}
- {prefix: /registry/masterleases/}
- {method: watch, prefix: /registry/apps/}
- {method: watch, prefix: /registry/runs/}
- {method: put, key: /registry/runs/a, client: migration}
",
    );
    let args = format!("--requests {}", requests.display());
    assert_eq!(
        explained(rules, &args, "outcome"),
        [
            "passes at once, by a rule that exempts",
            "refused: etcdserver: permission denied (seawall: apps: calls like this are denied; take its deny out or set it to observe)",
            "passes when its turn comes",
            "passes when its turn comes",
            "passes when its turn comes, unless etcd's database is 85% full",
            "passes when its turn comes, unless the quota of a rule is used up",
            "passes when its turn comes, unless it deletes more than 7 keys",
            "passes at once: no protection looks at calls of class critical",
            "passes at once: no protection looks at calls of class critical",
            "refused: etcdserver: permission denied (seawall: apps: calls like this are denied; take its deny out or set it to observe)",
            "passes, unless more come at once than a rule lets",
            "passes at once, by a rule that exempts",
        ]
    );
    assert_eq!(
        explained(rules, &args, "rules"),
        [
            "tool (enforce): waits in no queue, and no later rule is looked at",
            "apps (enforce): denied",
            "none matches",
            "old (off): not looked at",
            "events (enforce): at most 600/m creates for each namespace; what is more waits up to 2s or is refused; goes last in its queue",
            "runs (enforce): room for 50 keys below each of its prefixes; deletes of up to 7 keys at once",
            "runs (enforce): deletes of up to 7 keys at once",
            "apps (enforce): denied",
            "watchers (enforce): at most 5/s calls; what is more is refused",
            "tool (enforce): waits in no queue, and no later rule is looked at",
        ]
    );
    let pod = "--key /registry/pods/default/a --client office-pc --address 10.0.0.1";
    assert_eq!(explained(rules, pod, "client"), ["office-pc at 10.0.0.1"]);
    assert_eq!(
        explained(rules, pod, "        "),
        [
            "as assumed at first; the running process goes by what such calls have cost",
            "office (observe): would, if enforced: denied"
        ]
    );
}

#[test]
fn wrong_requests_are_reported_with_their_place() {
    for (name, text, expected) in [
        (
            "key.jsonl",
            "{\"key\": \"a\"}\n{\"kay\": \"a\"}\n",
            ":2:2: kay: there is no such key; did you mean key?",
        ),
        (
            "method.yaml",
            "- method: get\n",
            ":1:11: [0].method: expected range or range_stream or put or delete_range or txn or watch, met \"get\"",
        ),
        ("empty.yaml", "- {}\n", "request 1: a range has a key or a prefix"),
        ("put.yaml", "- {key: a}\n- {method: put, prefix: a}\n", "request 2: a put has one key"),
        ("both.yaml", "- {key: a, prefix: a}\n", "request 1: a range has either a prefix or a key"),
        (
            "txn.yaml",
            "- {method: txn, success: [{method: watch, key: a}]}\n",
            "request 1: a txn cannot hold a watch",
        ),
        (
            "part.yaml",
            "- {method: txn, success: [{key: a, client: b}]}\n",
            "request 1: client and address are said of a whole txn",
        ),
        ("address.yaml", "- {key: a, address: 10.0.0}\n", "[0].address: invalid IP address syntax"),
        ("text.yaml", "hello\n", ":1:1: expected a list, met \"hello\""),
    ] {
        let path = file(name, text);
        check_usage_error(&format!("explain {EVENTS} --requests {}", path.display()), expected);
    }
}

#[test]
fn a_failure_while_running_ends_with_1() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?;
    let done = run(&format!("run --upstream http://127.0.0.1:1 --admin off --listen {address}"));
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(done.stderr.contains(&address.to_string()), "{}", done.stderr);
    Ok(())
}

#[test]
fn version_is_there_for_people_and_machines() -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    assert!(run("version").stdout.starts_with(&format!("seawall {version} (")));
    assert_eq!(run("--version").stdout, format!("seawall {version}\n"));
    let json: serde_json::Value = serde_json::from_str(&run("version --json").stdout)?;
    assert_eq!(json["version"].as_str().context("it is a string")?, version);
    Ok(())
}

#[test]
fn completion_is_there_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let done = run(&format!("completion {shell}"));
        assert_eq!(done.code, Some(0));
        assert!(done.stdout.contains("etcd-servers-overrides"), "{shell}");
    }
}

#[test]
fn schema_is_the_published_one() -> Result<()> {
    let published =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/schema.json"))?;
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text);
    assert_eq!(json(&run("schema").stdout)?, json(&published)?);
    Ok(())
}

#[test]
fn every_command_explains_itself() {
    for command in ["run", "check", "explain", "completion", "schema"] {
        let help = run(&format!("{command} --help")).stdout;
        assert!(help.contains("Examples:"), "{command}");
    }
    assert!(run("--help").stdout.contains("Exit codes:"));
}

#[test]
fn check_looks_at_the_admin_token() {
    let args = |address: &str, token: &Path| {
        format!(
            "check --upstream http://a:1 --admin {address} --admin-token-file {}",
            token.display()
        )
    };
    let token = file("check.token", "correct-horse-battery-staple\n");
    let heard = run(&args("0.0.0.0:1", &token));
    let warning =
        "warning: --admin-token-file: admin.token_file: the token crosses the network as it is";
    assert!(heard.code == Some(0) && heard.stderr.starts_with(warning), "{}", heard.stderr);
    assert!(heard.stdout.contains("check.token"), "{}", heard.stdout);
    assert!(!heard.stdout.contains("horse"), "{}", heard.stdout);
    let local = run(&args("127.0.0.1:1", &token));
    assert_eq!((local.code, &*local.stderr), (Some(0), ""));
    let short = run(&args("127.0.0.1:1", &file("short.token", "secret")));
    assert_eq!(short.code, Some(2));
    assert!(short.stderr.contains("expected a token of at least 16"), "{}", short.stderr);
}
