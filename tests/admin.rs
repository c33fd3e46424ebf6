//! The operator's port: protections as they stand, and their switches.

// Each of the test programs that share it uses a part.
#[allow(dead_code)]
#[path = "failover/operator.rs"]
mod operator;

use anyhow::{Context, Result, ensure};
use etcd_client::{Client, GetOptions};
use seawall_testkit::{Cluster, SeawallProcess, eventually};
use serde_json::{Value, json};
use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

const DEADLINE: Duration = Duration::from_secs(20);

/// What a client is told that the rule of [`denying`] refuses.
const DENIED: &str = "etcdserver: permission denied (seawall: office: calls like this are denied";

/// A configuration whose rule `office` denies everything below `/office`.
fn denying(cluster: &Cluster, name: &str, more: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let endpoint = cluster.member(0).endpoint();
    let text = format!(
        "clusters: {{main: {{endpoints: [{endpoint}]}}}}
protection:
  rules:
    - {{name: office, match: {{prefixes: [/office]}}, deny: true}}
{more}"
    );
    fs::write(&path, text)?;
    Ok(path)
}

async fn start(config: &Path) -> Result<SeawallProcess> {
    let binary = env::var_os("SEAWALL_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_seawall").into(), PathBuf::from);
    let config = config.display().to_string();
    SeawallProcess::builder().binary(binary).args(["--config", &config]).start().await
}

/// Status code and body of a POST with these headers.
async fn post(seawall: &SeawallProcess, path: &str, headers: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(seawall.admin()?).await?;
    let request = format!("POST {path} HTTP/1.0\r\nHost: seawall\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    let code = head.split(' ').nth(1).context("an answer without a code")?;
    Ok((code.parse()?, body.to_owned()))
}

const BY_HAND: &str = "x-seawall-switch: yes\r\n";

/// Switches a protection and answers how it stands then.
async fn switch(seawall: &SeawallProcess, name: &str, mode: &str) -> Result<Value> {
    let path = format!("/protection/{name}?mode={mode}");
    let (code, body) = post(seawall, &path, BY_HAND).await?;
    ensure!(code == 200, "{path} answers {code}: {body}");
    Ok(serde_json::from_str(&body)?)
}

async fn shown(seawall: &SeawallProcess, path: &str) -> Result<Value> {
    let (code, body) = operator::get(seawall.admin()?, path).await?;
    ensure!(code == 200, "{path} answers {code}: {body}");
    Ok(serde_json::from_str(&body)?)
}

/// `Ok(true)` if a put passes, `Ok(false)` if the rule denies it.
async fn passes(client: &mut Client, key: &str) -> Result<bool> {
    match client.put(key, "", None).await {
        Ok(_) => Ok(true),
        Err(error) if error.to_string().contains(DENIED) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Clients that put below `/office` without a pause.
struct Load {
    passed: Arc<AtomicU64>,
    denied: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<Result<()>>,
}

impl Load {
    fn start(client: &Client) -> Self {
        let mut load = Self {
            passed: Arc::default(),
            denied: Arc::default(),
            stop: Arc::default(),
            clients: JoinSet::new(),
        };
        for number in 0..8 {
            let (mut client, stop) = (client.clone(), Arc::clone(&load.stop));
            let (passed, denied) = (Arc::clone(&load.passed), Arc::clone(&load.denied));
            load.clients.spawn(async move {
                while !stop.load(Relaxed) {
                    let counted = if passes(&mut client, &format!("/office/{number}")).await? {
                        &passed
                    } else {
                        &denied
                    };
                    counted.fetch_add(1, Relaxed);
                }
                Ok(())
            });
        }
        load
    }

    async fn goes_on(counted: &AtomicU64, what: &str) -> Result<()> {
        let before = counted.load(Relaxed);
        eventually(DEADLINE, &format!("calls to be {what}"), async || {
            let now = counted.load(Relaxed);
            ensure!(now > before + 100, "{now}, {before} before");
            Ok(())
        })
        .await
    }

    /// Every call was either denied in the rule's words or carried out.
    async fn end(mut self) -> Result<()> {
        self.stop.store(true, Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended??;
        }
        Ok(())
    }
}

#[tokio::test]
async fn protections_are_shown_as_they_stand() -> Result<()> {
    let cluster = Cluster::single().await?;
    let seawall = start(&denying(&cluster, "shown.yaml", "")?).await?;
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    ensure!(!passes(&mut client, "/office/a").await?, "the rule denies it");
    let all = shown(&seawall, "/protection").await?;
    ensure!(all["mode"] == "enforce" && all["memory"]["used"] == 0, "{all}");
    ensure!(all["memory"]["limit"] == 1 << 30, "{all}");
    let names: Vec<_> = all["protections"]
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|standing| standing["protection"].as_str())
        .collect();
    ensure!(names.first() == Some(&"all") && names.last() == Some(&"rules.office"), "{names:?}");
    ensure!(all["clusters"][0]["name"] == "main", "{all}");
    let lists = &all["clusters"][0]["queues"][2];
    ensure!(lists["queue"] == "queues.lists" && lists["waiting"] == 0, "{lists}");
    let office = shown(&seawall, "/protection/rules.office").await?;
    ensure!(office["mode"] == "enforce" && office["switched"] == false, "{office}");
    ensure!(office["refused"] == 1, "{office}");
    client.put("/a", "", None).await?;
    let queues = shown(&seawall, "/protection/queues").await?;
    ensure!(queues["delayed"] == 0, "a call that found room was not delayed: {queues}");
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_a_switch_is_said_and_nothing_switched() -> Result<()> {
    let cluster = Cluster::single().await?;
    let seawall = start(&denying(&cluster, "wrong-switch.yaml", "")?).await?;
    let foreign = format!("{BY_HAND}Origin: http://elsewhere.example\r\n");
    // What a name that was made to point here would send.
    let rebound = format!("{BY_HAND}Origin: http://seawall\r\n");
    for (path, headers, code, text) in [
        ("rules.office?mode=off", "", 403, "send the header x-seawall-switch: yes\n"),
        (
            "rules.office?mode=off",
            &foreign[..],
            403,
            "nothing is switched from a browser, but by Seawall's page",
        ),
        (
            "rules.office?mode=off",
            &rebound[..],
            403,
            "nothing is switched from a browser, but by Seawall's page",
        ),
        (
            "rules.office?mode=of",
            BY_HAND,
            400,
            "off, observe, enforce (or on), or configured; met \"of\"\n",
        ),
        ("rules.office", BY_HAND, 400, "or configured; met none\n"),
        (
            "rules.ofice?mode=off",
            BY_HAND,
            404,
            "there is no protection \"rules.ofice\"; there are all, read_only, ",
        ),
    ] {
        let (met, body) = post(&seawall, &format!("/protection/{path}"), headers).await?;
        ensure!(met == code && body.contains(text), "{path} {headers:?}: {met} {body}");
    }
    let (code, body) = operator::get(seawall.admin()?, "/protection/none").await?;
    ensure!(code == 404 && body.ends_with(", rules.office\n"), "{code} {body}");
    let office = shown(&seawall, "/protection/rules.office").await?;
    ensure!(office["mode"] == "enforce" && office["switched"] == false, "{office}");
    Ok(())
}

#[tokio::test]
async fn a_rule_is_switched_off_and_on_again_under_load() -> Result<()> {
    let cluster = Cluster::single().await?;
    let config = denying(&cluster, "under-load.yaml", "")?;
    let seawall = start(&config).await?;
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    let load = Load::start(&client);
    Load::goes_on(&load.denied, "denied").await?;
    ensure!(load.passed.load(Relaxed) == 0, "the rule denies all of them");

    for name in ["rules.office", "all"] {
        let standing = switch(&seawall, name, "off").await?;
        ensure!(standing["mode"] == "off" && standing["switched"] == true, "{standing}");
        ensure!(passes(&mut client, "/office/a").await?, "{name} is off for the very next call");
        Load::goes_on(&load.passed, "carried out").await?;
        let standing = switch(&seawall, name, "configured").await?;
        ensure!(standing["mode"] == "enforce" && standing["switched"] == false, "{standing}");
        ensure!(!passes(&mut client, "/office/a").await?, "{name} is on for the very next call");
        Load::goes_on(&load.denied, "denied").await?;
    }

    switch(&seawall, "rules.office", "observe").await?;
    ensure!(passes(&mut client, "/office/a").await?, "observing refuses nothing");
    denying(&cluster, "under-load.yaml", "    - {name: other, weight: 2}\n")?;
    seawall.reload()?;
    let reloaded = |line: &seawall_testkit::LogLine| line.message() == "configuration reloaded";
    seawall.log_contains(DEADLINE, "the reload", reloaded).await?;
    ensure!(passes(&mut client, "/office/a").await?, "a reload leaves what was switched by hand");
    let office = shown(&seawall, "/protection/rules.office").await?;
    ensure!(office["mode"] == "observe" && office["would_refuse"].as_u64() > Some(0), "{office}");
    let calls = shown(&seawall, "/calls").await?;
    let writes = calls.as_array().and_then(|calls| calls.iter().find(|c| c["class"] == "write"));
    let writes = writes.context("no writes")?;
    ensure!(writes["would_refuse"].as_u64() >= office["would_refuse"].as_u64(), "{writes}");
    let switched = |line: &seawall_testkit::LogLine| {
        line.message() == "protection switched" && line.text("mode") == Some("observe")
    };
    seawall.log_contains(DEADLINE, "the switch", switched).await?;
    load.end().await
}

#[tokio::test]
async fn read_only_stops_writes_but_neither_reads_nor_leases() -> Result<()> {
    let cluster = Cluster::single().await?;
    let seawall = start(&denying(&cluster, "read-only.yaml", "")?).await?;
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    client.put("/a", "", None).await?;
    let standing = switch(&seawall, "read_only", "on").await?;
    ensure!(standing["mode"] == "enforce", "{standing}");
    let refused = client.put("/a", "", None).await.err().context("nothing may be written")?;
    let text = "etcdserver: permission denied (seawall: read_only: nothing may be written";
    ensure!(refused.to_string().contains(text), "{refused}");
    ensure!(client.get("/a", None).await?.kvs().len() == 1);
    client.lease_grant(60, None).await?;
    switch(&seawall, "read_only", "off").await?;
    client.put("/a", "", None).await?;
    Ok(())
}

#[tokio::test]
async fn a_collection_in_memory_is_shown_and_switched_off_by_itself() -> Result<()> {
    let cluster = Cluster::single().await?;
    let seawall = start(&denying(&cluster, "collection.yaml", "")?).await?;
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    client.put("/registry/pods/default/a", "a", None).await?;
    let pods = async || {
        let mut mirror = shown(&seawall, "/mirror").await?;
        Ok::<_, anyhow::Error>(mirror["clusters"]["main"]["collections"][0].take())
    };
    eventually(DEADLINE, "the collection to be ready", async || {
        // Loaded with the first list after the feed is followed, and read with the next.
        let list = Some(GetOptions::new().with_prefix());
        client.clone().get("/registry/pods/", list).await?;
        let pods = pods().await?;
        ensure!((&pods["state"], &pods["tier"]) == (&json!("ready"), &json!("values")), "{pods}");
        ensure!((&pods["keys"], &pods["why"]) == (&json!(1), &Value::Null), "{pods}");
        ensure!(pods["hits"].as_u64() > Some(0), "{pods}");
        Ok(())
    })
    .await?;
    let path = "/mirror/main?collection=/registry/pods&mode=";
    for (path, headers, code, text) in [
        (&*format!("{path}off"), "", 403, "send the header x-seawall-switch: yes\n"),
        (&format!("{path}sometimes"), BY_HAND, 400, "&mode=off or on\n"),
        ("/mirror/other?collection=/a&mode=off", BY_HAND, 404, "there is main\n"),
        ("/mirror/main?collection=/a&mode=off", BY_HAND, 404, "no collection \"/a\""),
    ] {
        let answer = post(&seawall, path, headers).await?;
        assert!(answer.0 == code && answer.1.contains(text), "{path}: {answer:?}");
    }
    post(&seawall, &format!("{path}off"), BY_HAND).await?;
    eventually(DEADLINE, "the collection to be dropped", async || {
        let pods = pods().await?;
        ensure!((&pods["state"], &pods["why"]) == (&json!("cold"), &json!("switched off by hand")));
        Ok(())
    })
    .await?;
    let before = pods().await?["hits"].take();
    client.get("/registry/pods/", Some(GetOptions::new().with_prefix())).await?;
    assert_eq!(pods().await?["hits"], before);
    Ok(())
}

#[tokio::test]
async fn watches_leases_and_locks_are_put_down_to_who_asks_for_them() -> Result<()> {
    let cluster = Cluster::single().await?;
    let seawall = start(&denying(&cluster, "attribution.yaml", "")?).await?;
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    for _ in 0..3 {
        client.watch("/registry/pods/default/a", None).await?;
    }
    let lease = client.lease_grant(60, None).await?.id();
    let (mut keeper, mut alive) = client.lease_keep_alive(lease).await?;
    for _ in 0..4 {
        keeper.keep_alive().await?;
        alive.message().await?.context("no answer to a keep-alive")?;
    }
    client.lease_time_to_live(lease, None).await?;
    client.lock("/office/lock", None).await?;
    client.member_list().await?;
    client.lease_revoke(lease).await?;
    let of = |shapes: &Value, shape: &str, prefix: &str| {
        let found = shapes
            .as_array()
            .into_iter()
            .flatten()
            .find(|used| (&used["shape"], &used["prefix"]) == (&json!(shape), &json!(prefix)));
        found.map_or(0, |used| used["requests"].as_u64().unwrap_or(0))
    };
    eventually(DEADLINE, "all of them in the ranking", async || {
        let shapes = shown(&seawall, "/top").await?["minute"]["shapes"].take();
        for (shape, prefix, requests) in [
            ("watch", "/registry/pods", 3),
            // Granted, revoked, and kept alive when the keeper began and four times since.
            ("lease", "", 7),
            ("lease_read", "", 1),
            ("election", "/office/lock", 1),
            ("admin", "", 1),
        ] {
            let counted = of(&shapes, shape, prefix);
            ensure!(counted == requests, "{counted} of {shape} at {prefix:?}: {shapes:#}");
        }
        Ok(())
    })
    .await
}

const TOKEN: &str = "correct-horse-battery-staple";

fn token_file(name: &str, text: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text)?;
    Ok(path)
}

#[tokio::test]
async fn with_a_token_it_alone_decides_who_switches() -> Result<()> {
    let cluster = Cluster::single().await?;
    let token = token_file("admin.token", &format!("{TOKEN}\n"))?;
    let admin = format!("admin: {{token_file: {}}}\n", token.display());
    let seawall = start(&denying(&cluster, "token.yaml", &admin)?).await?;
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let elsewhere = format!("{}Origin: http://elsewhere.example\r\n", bearer(TOKEN));
    let met = async |headers: &str, code: u16, text: &str| {
        for path in ["/protection/rules.office?mode=off", "/mirror/main?collection=/a&mode=off"] {
            let (met, body) = post(&seawall, path, headers).await?;
            // Nobody asked for a collection yet, which is said only to those who may switch it.
            let code = if code == 200 && path.starts_with("/mirror") { 404 } else { code };
            ensure!(met == code && (body.contains(text) || code == 404), "{path}: {met} {body}");
        }
        Ok(())
    };
    met(BY_HAND, 401, "send the header authorization: Bearer TOKEN\n").await?;
    met(&bearer("wrong"), 401, "this is not the admin token\n").await?;
    met("authorization: Basic wrong\r\n", 401, "this is not the admin token\n").await?;
    let office = shown(&seawall, "/protection/rules.office").await?;
    ensure!(office["switched"] == false, "{office}");
    met(&bearer(TOKEN), 200, "\"off\"").await?;
    met(&elsewhere, 200, "\"off\"").await?;

    token_file("admin.token", "another-horse-battery-staple")?;
    met(&bearer(TOKEN), 401, "this is not the admin token\n").await?;
    met(&bearer("another-horse-battery-staple"), 200, "\"off\"").await?;
    token_file("admin.token", "")?;
    met(&bearer(""), 500, "the admin token cannot be read\n").await?;
    // Whoever only looks needs none.
    shown(&seawall, "/status").await?;
    Ok(())
}

#[tokio::test]
async fn a_token_that_could_be_guessed_starts_nothing() -> Result<()> {
    let cluster = Cluster::single().await?;
    let token = token_file("short.token", "secret")?;
    let admin = format!("admin: {{token_file: {}}}\n", token.display());
    let started = start(&denying(&cluster, "short.yaml", &admin)?).await;
    let error = format!("{:#}", started.err().context("it started")?);
    ensure!(error.contains("expected a token of at least 16 printable characters"), "{error}");
    ensure!(!error.contains("secret\""), "{error}");
    Ok(())
}

/// The next snapshot of a stream.
async fn next(lines: &mut Lines<BufReader<TcpStream>>) -> Result<Value> {
    let read = async {
        while let Some(line) = lines.next_line().await? {
            if let Some(data) = line.strip_prefix("data: ") {
                return Ok(serde_json::from_str(data)?);
            }
        }
        anyhow::bail!("the stream has ended")
    };
    timeout(DEADLINE, read).await?
}

#[tokio::test]
async fn viewers_are_told_the_same_as_it_happens() -> Result<()> {
    let cluster = Cluster::single().await?;
    let seawall = start(&denying(&cluster, "stream.yaml", "")?).await?;
    let look = async || {
        let mut stream = TcpStream::connect(seawall.admin()?).await?;
        stream.write_all(b"GET /stream HTTP/1.1\r\nHost: seawall\r\n\r\n").await?;
        anyhow::Ok(BufReader::new(stream).lines())
    };
    let (mut one, mut other, _idle) = (look().await?, look().await?, look().await?);
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    client.put("/a", "", None).await?;
    ensure!(!passes(&mut client, "/office/a").await?, "the rule denies it");
    let told = eventually(DEADLINE, "what has happened to be told", async || {
        let told = next(&mut one).await?;
        let calls = told["calls"].as_array().context("calls")?;
        let writes = calls.iter().find(|total| total["class"] == "write").context("no write")?;
        ensure!(writes["calls"] == 2 && writes["refused"] == 1, "{writes}");
        let events = told["events"].as_array().context("events")?;
        let refused = events.iter().find(|event| event["message"] == "calls are refused");
        let refused = refused.context("no refusal")?;
        ensure!(refused["details"] == "protection=rules.office refused=1", "{refused}");
        Ok(told)
    })
    .await?;
    ensure!(told["token"] == false && told["top"]["total"]["requests"] == 2, "{told}");
    let member = &told["status"]["clusters"]["main"]["members"][0];
    ensure!(member["lanes"]["light"]["connections"].as_u64() > Some(0), "{member}");
    eventually(DEADLINE, "the other to be told the same", async || {
        ensure!(next(&mut other).await?["calls"] == told["calls"]);
        Ok(())
    })
    .await
}
