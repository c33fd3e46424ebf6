//! Every command of etcdctl as a user types it.

use crate::{
    arena::{Arena, Session, version},
    client::in_time,
};
use anyhow::{Context, Result, ensure};
use seawall_testkit::Output;
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test]
async fn etcdctl() -> Result<()> {
    let arena = Arena::start().await?;
    arena.check("keys", keys).await;
    arena.check("transactions", transactions).await;
    arena.check("watches", watches).await;
    arena.check("leases", leases).await;
    arena.check("locks and elections", locks).await;
    // etcdctl of 3.4 dials these with an authority that is none.
    if version()? >= (3, 5) {
        arena.check("endpoints", endpoints).await;
        arena.check("defragmentation", defragment).await;
    }
    arena.check("members", members).await;
    arena.check("maintenance", maintenance).await;
    arena.check("snapshots", snapshots).await;
    arena.check("mirrors", mirrors).await;
    arena.check("compaction", compaction).await;
    arena.check_single("authentication", authentication).await;
    arena.verdict()
}

/// Runs commands, one a line, and notes how each ended and all it printed.
async fn run(t: &Session<'_>, commands: &[&str]) -> Result<()> {
    for command in commands {
        let args: Vec<_> = command.split(' ').collect();
        note(t, command, &in_time(command, t.target.etcdctl().run(&args)).await??)?;
    }
    Ok(())
}

fn note(t: &Session<'_>, what: &str, output: &Output) -> Result<()> {
    let code = output.status.code().context("etcdctl was killed")?;
    // Addresses, and the times that loggers write, are each server's own.
    let address = t.target.endpoint.trim_start_matches("http://");
    let print = |text: &str| {
        let text = text.replace(address, "ADDRESS");
        // How long it took.
        without_ids(text.split(" took ").next().unwrap_or_default())
    };
    let errors = output.stderr.lines().map(without_log).collect::<Vec<_>>().join("\n");
    t.note(what, &format!("{code}\n{}{}", print(&output.stdout), print(&errors)));
    Ok(())
}

/// Ids are long, in decimal or in hex.
fn without_ids(text: &str) -> String {
    let words = text.split_inclusive(|end: char| !end.is_ascii_hexdigit());
    let leveled = words.map(|word| {
        let digits = word.trim_end_matches(|end: char| !end.is_ascii_hexdigit());
        if digits.len() > 14 { word.replace(digits, "ID") } else { word.to_owned() }
    });
    leveled.collect()
}

/// A line of JSON is from a logger: its message is what stays the same.
fn without_log(line: &str) -> String {
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(line);
    parsed.map_or_else(|_| line.to_owned(), |log| format!("{} {}", log["msg"], log["error"]))
}

async fn keys(t: &Session<'_>) -> Result<()> {
    run(
        t,
        &[
            "put /a 1",
            "put /b 2 --prev-kv",
            "put /b 3 --prev-kv",
            "put /b 4 -w json --ignore-lease",
            "put /b --ignore-value",
            "get /a",
            "get /b -w fields --print-value-only",
            "get / --prefix",
            "get / --prefix --keys-only",
            "get / --prefix --count-only -w fields",
            "get / --prefix --limit=1",
            "get /a /c --sort-by=MODIFY --order=DESCEND --limit=1 --rev=1000",
            "get /a /c --sort-by=MODIFY --order=DESCEND",
            "get /a --rev=2",
            "get /a --rev=1000",
            "get /a --consistency=s",
            "get nope",
            "get",
            "del /a --prev-kv",
            "del /a",
            "del /b /c --prev-kv",
            "put",
        ],
    )
    .await
}

async fn transactions(t: &Session<'_>) -> Result<()> {
    for input in [
        "version(\"/t\") = \"0\"\n\nput /t 1\nget /t\n\nget /t\n\n",
        "mod(\"/t\") > \"0\"\nvalue(\"/t\") = \"1\"\n\ndel /t\n\n\n\n",
        "\nput /t 1\nput /t 2\n\n\n",
    ] {
        let output = t.target.etcdctl().run_with_input(&["txn"], input).await?;
        note(t, input, &output)?;
    }
    Ok(())
}

async fn watches(t: &Session<'_>) -> Result<()> {
    let ctl = t.target.etcdctl();
    let mut watch = ctl.command(&["watch", "/w", "--prefix", "--prev-kv", "--rev=2"]).spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("stdout is a pipe")?).lines();
    run(t, &["put /w/1 a", "put /w/1 b", "del /w/1"]).await?;
    for _ in 0..11 {
        let line = in_time("a line of a watch", lines.next_line()).await??;
        t.note("watch", &line.context("the watch has ended")?);
    }
    watch.kill().await?;
    Ok(())
}

async fn leases(t: &Session<'_>) -> Result<()> {
    // The server names it; the rest is the same.
    let granted = t.target.etcdctl().run(&["lease", "grant", "600"]).await?.success()?;
    let id = granted.split(' ').nth(1).context("lease ID granted with TTL")?.to_owned();
    ensure!(granted == format!("lease {id} granted with TTL(600s)\n"), "{granted}");
    let ctl = t.target.etcdctl();
    for args in [
        &["put", "/leased", "1", "--lease", &id][..],
        &["lease", "keep-alive", "--once", &id],
        &["lease", "timetolive", "--keys", &id],
        &["lease", "list"],
        &["lease", "revoke", &id],
        &["lease", "revoke", &id],
        &["lease", "timetolive", &id],
        &["lease", "keep-alive", "--once", &id],
        &["get", "/leased"],
    ] {
        let output = ctl.run(args).await?;
        let printed = format!("{}{}", output.stdout, output.stderr).replace(&id, "ID");
        let printed = printed.split("remaining(").next().unwrap_or_default().to_owned();
        let lines = printed.lines().map(without_log).collect::<Vec<_>>().join("\n");
        t.note(&args.join(" ").replace(&id, "ID"), &format!("{:?} {lines}", output.status.code()));
    }
    run(t, &["lease revoke 404", "lease timetolive 404", "lease grant 9000000001"]).await
}

async fn locks(t: &Session<'_>) -> Result<()> {
    let ctl = t.target.etcdctl();
    let locked = ctl.run(&["lock", "/lock", "echo", "held"]).await?;
    note(t, "lock", &locked)?;
    let left = ctl.run(&["get", "/lock", "--prefix", "--keys-only"]).await?;
    note(t, "nothing is left", &left)?;
    let mut elected = ctl.command(&["elect", "/poll", "me"]).spawn()?;
    let mut lines = BufReader::new(elected.stdout.take().context("stdout is a pipe")?).lines();
    in_time("the key of the leader", lines.next_line()).await??;
    let value = in_time("the leader", lines.next_line()).await??;
    t.note("elect", &value.context("the election has ended")?);
    elected.kill().await?;
    Ok(())
}

async fn endpoints(t: &Session<'_>) -> Result<()> {
    let ctl = t.target.etcdctl();
    for args in
        [&["endpoint", "health"][..], &["endpoint", "health", "--cluster"], &["endpoint", "hashkv"]]
    {
        let output = ctl.run(args).await?;
        let printed = format!("{}{}", output.stdout, output.stderr);
        let printed = printed
            .replace(&t.target.endpoint, "ENDPOINT")
            .replace(t.target.endpoint.trim_start_matches("http://"), "ADDRESS");
        // How long it took, or a hash over the ids of leases.
        let printed = printed.split([',', ':']).next().unwrap_or_default();
        t.note(&args.join(" "), &format!("{:?} {printed}", output.status.code()));
    }
    let status = ctl.run(&["endpoint", "status", "-w", "json"]).await?.json()?;
    let status = &status[0]["Status"];
    t.note("status", &format!("{} {}", status["version"], status["header"]["revision"]));
    Ok(())
}

async fn members(t: &Session<'_>) -> Result<()> {
    let listed = t.target.etcdctl().run(&["member", "list", "-w", "json"]).await?.json()?;
    let member = &listed["members"][0];
    t.note("member list", &format!("{} {}", member["name"], member["isLearner"]));
    ensure!(member["clientURLs"][0] == *t.target.endpoint, "{member}");
    run(
        t,
        &[
            "member remove 4711",
            "member promote 4711",
            "member update 4711 --peer-urls=http://127.0.0.1:1",
        ],
    )
    .await
}

async fn maintenance(t: &Session<'_>) -> Result<()> {
    run(t, &["alarm list", "alarm disarm"]).await?;
    let moved = t.target.etcdctl().run(&["move-leader", "4711"]).await?;
    t.note("move-leader", &format!("{:?}", moved.status.code()));
    if version()? >= (3, 5) {
        run(t, &["downgrade validate 3.0"]).await?;
    }
    Ok(())
}

async fn defragment(t: &Session<'_>) -> Result<()> {
    run(t, &["defrag"]).await
}

async fn snapshots(t: &Session<'_>) -> Result<()> {
    let file = t.target.clusters[0].dir().join(format!("snapshot-{}", t.target.clusters.len()));
    let path = file.to_str().context("a path in UTF-8")?;
    let saved = t.target.etcdctl().run(&["snapshot", "save", path]).await?;
    t.note("snapshot save", &format!("{:?}", saved.status.code()));
    saved.success()?;
    let length = std::fs::metadata(&file)?.len();
    t.note("length", &format!("{} beyond pages of 512", length % 512));
    Ok(())
}

/// From the server to itself, under another prefix.
async fn mirrors(t: &Session<'_>) -> Result<()> {
    run(t, &["put /m/1 a", "put /m/2 b"]).await?;
    let to = t.target.endpoint.trim_start_matches("http://").to_owned();
    let ctl = t.target.etcdctl();
    let args = ["make-mirror", "--prefix", "/m/", "--dest-prefix", "/copy/", &to];
    let mut mirror = ctl.command(&args).spawn()?;
    let mut watch = t.open("Watch/Watch").await?;
    watch.send("create_request { key: '/copy/' range_end: '/copy0' start_revision: 1 }")?;
    watch.message().await?;
    let mut copied = 0;
    while copied < 2 {
        let message = watch.message().await?;
        copied += crate::schema::count("Watch/Watch", &message, "events")?;
    }
    run(t, &["put /m/3 c"]).await?;
    watch.message().await?;
    mirror.kill().await?;
    run(t, &["get /copy/ --prefix"]).await
}

async fn compaction(t: &Session<'_>) -> Result<()> {
    run(
        t,
        &[
            "compaction 3",
            "compaction 3",
            "compaction 100000",
            "get /a --rev=2",
            "compaction 4 --physical",
        ],
    )
    .await
}

async fn authentication(t: &Session<'_>) -> Result<()> {
    run(
        t,
        &[
            "user add root:secret",
            "user add ann:word",
            "user list",
            "role add reader",
            "role grant-permission reader read /a",
            "role grant-permission reader readwrite /x --prefix",
            "role get reader",
            "role list",
            "user grant-role ann reader",
            "user get ann --detail",
            "user grant-role root root",
            "auth enable",
            "get /a",
            "get /a --user=ann:word",
            "get /a --user=ann:wrong",
            "get /c --user=ann:word",
            "put /a 1 --user=ann:word",
            "put /x/1 1 --user=ann:word",
            "get / --prefix --user=root:secret --keys-only",
            "user list --user=ann:word",
            "endpoint health --user=ann:word --write-out=simple --command-timeout=bad",
            "role revoke-permission reader /a --user=root:secret",
            "user revoke-role ann reader --user=root:secret",
            "user delete ann --user=root:secret",
            "role delete reader --user=root:secret",
            "auth disable --user=root:secret",
            "auth disable",
        ],
    )
    .await
}
