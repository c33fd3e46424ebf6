//! etcdctl as it is typed, through Seawall.

use crate::{DEADLINE, Routed, direct};
use anyhow::{Context, Result, ensure};
use seawall_testkit::{Binaries, Cluster, Etcdctl};
use std::process::Stdio;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout},
    time::timeout,
};

impl Routed {
    fn ctl(&self) -> Result<Etcdctl> {
        Ok(Etcdctl::new(self.main.binaries(), [self.seawall.endpoint()?]))
    }
}

fn plain(cluster: &Cluster) -> Etcdctl {
    Etcdctl::new(cluster.binaries(), cluster.endpoints())
}

/// A command that runs on, and the lines that it prints.
fn running(ctl: &Etcdctl, args: &[&str]) -> Result<(Child, Lines<BufReader<ChildStdout>>)> {
    let mut child = ctl.command(args).stdin(Stdio::null()).spawn()?;
    let lines = BufReader::new(child.stdout.take().context("stdout is a pipe")?).lines();
    Ok((child, lines))
}

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<String> {
    let line = timeout(DEADLINE, lines.next_line()).await.context("nothing is printed")?;
    line?.context("it ends")
}

#[tokio::test]
async fn keys_are_written_and_read_as_at_one_etcd() -> Result<()> {
    let routed = Routed::start().await?;
    let whole = Cluster::single().await?;
    let (through, straight) = (routed.ctl()?, plain(&whole));
    let commands: [(&[&str], &str); 17] = [
        (&["put", "/registry/pods/a", "1"], ""),
        (&["put", "/registry/pods/b", "2"], ""),
        (&["put", "/registry/events/a", "3"], ""),
        (&["put", "/registry/events/b"], "4"),
        (&["get", "/registry/pods/a"], ""),
        (&["get", "/registry/events/a"], ""),
        (&["get", "/registry/events/", "--prefix", "--sort-by=key", "--order=descend"], ""),
        (&["get", "/", "--prefix"], ""),
        (&["get", "/", "--prefix", "--keys-only"], ""),
        (&["get", "/", "--prefix", "--limit=3"], ""),
        (&["get", "/registry/events/a", "/registry/pods/b", "--print-value-only"], ""),
        (&["put", "/registry/events/a", "5", "--prev-kv"], ""),
        (&["txn"], "mod(\"/registry/events/a\") > \"0\"\n\nget /registry/events/a\n\n\n"),
        (&["txn"], "value(\"/registry/pods/a\") = \"x\"\n\n\nput /registry/pods/a y\n\n"),
        (&["del", "/registry/events/a", "--prev-kv"], ""),
        (&["del", "/registry/pods/", "--prefix"], ""),
        (&["get", "", "--prefix"], ""),
    ];
    for (args, input) in commands {
        let expected = straight.run_with_input(args, input).await?.success()?;
        let printed = through.run_with_input(args, input).await?.success()?;
        assert_eq!(printed, expected, "{args:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_watch_prints_events_of_either_cluster() -> Result<()> {
    let routed = Routed::start().await?;
    let ctl = routed.ctl()?;
    for key in ["/registry/pods/a", "/registry/events/a"] {
        ctl.run(&["put", key, "v"]).await?.success()?;
        let (_watch, mut lines) = running(&ctl, &["watch", key, "--rev=1"])?;
        let printed = [line(&mut lines).await?, line(&mut lines).await?, line(&mut lines).await?];
        assert_eq!(printed, ["PUT", key, "v"]);
    }
    Ok(())
}

#[tokio::test]
async fn leases_are_granted_shown_renewed_and_revoked() -> Result<()> {
    let routed = Routed::start().await?;
    let ctl = routed.ctl()?;
    let granted = ctl.run(&["lease", "grant", "600"]).await?.success()?;
    let id = granted.split_whitespace().nth(1).context("a lease has an id")?;
    ensure!(granted == format!("lease {id} granted with TTL(600s)\n"), "{granted}");
    for key in ["/registry/pods/a", "/registry/events/a"] {
        let lease = format!("--lease={id}");
        assert_eq!(ctl.run(&["put", key, "v", &lease]).await?.success()?, "OK\n");
    }
    let shown = ctl.run(&["lease", "timetolive", id, "--keys"]).await?.success()?;
    ensure!(shown.contains("[/registry/events/a /registry/pods/a]"), "{shown}");
    let listed = ctl.run(&["lease", "list"]).await?.success()?;
    assert_eq!(listed, plain(&routed.main).run(&["lease", "list"]).await?.success()?);
    let kept = ctl.run(&["lease", "keep-alive", "--once", id]).await?.success()?;
    assert_eq!(kept, format!("lease {id} keepalived with TTL(600)\n"));
    let revoked = ctl.run(&["lease", "revoke", id]).await?.success()?;
    assert_eq!(revoked, format!("lease {id} revoked\n"));
    assert_eq!(ctl.run(&["get", "/", "--prefix"]).await?.success()?, "");
    Ok(())
}

#[tokio::test]
async fn locks_and_elections_are_held_and_let_go() -> Result<()> {
    let routed = Routed::start().await?;
    let ctl = routed.ctl()?;
    for name in ["/registry/events/l", "/registry/l"] {
        ctl.run(&["lock", name, "/bin/true"]).await?.success()?;
        let (_leader, mut lines) = running(&ctl, &["elect", name, "me"])?;
        let key = line(&mut lines).await?;
        ensure!(key.starts_with(&format!("{name}/")), "{key}");
        assert_eq!(line(&mut lines).await?, "me");
        let (_observer, mut lines) = running(&ctl, &["elect", "--listen", name])?;
        assert_eq!([line(&mut lines).await?, line(&mut lines).await?], [key, "me".to_owned()]);
    }
    Ok(())
}

#[tokio::test]
async fn the_cluster_is_looked_after_as_at_etcd() -> Result<()> {
    let binaries = Binaries::newest()?;
    if binaries.version() < (3, 5) {
        eprintln!("skipped: etcdctl 3.4 cannot be told plaintext, see the README's limits");
        return Ok(());
    }
    let (main, events) = tokio::try_join!(
        Cluster::builder().binaries(&binaries).start(),
        Cluster::builder().binaries(&binaries).start()
    )?;
    let routed = Routed::of(main, events).await?;
    let (through, straight) = (routed.ctl()?, plain(&routed.main));
    for key in ["/registry/pods/a", "/registry/pods/a", "/registry/events/a"] {
        through.run(&["put", key, "v"]).await?.success()?;
    }
    let healthy = through.run(&["endpoint", "health"]).await?;
    ensure!(healthy.status.success(), "{healthy:?}");
    // What both print, but for the addresses that were dialled.
    let (endpoint, own) = (routed.seawall.endpoint()?, routed.main.member(0).endpoint());
    let same: [&[&str]; 3] = [&["endpoint", "hashkv"], &["member", "list"], &["alarm", "list"]];
    for args in same {
        let printed = through.run(args).await?.success()?;
        let expected = straight.run(args).await?.success()?;
        assert_eq!(printed, expected.replace(&own, &endpoint), "{args:?}");
    }
    // Sizes may change meanwhile: the endpoint, the member and its version.
    let status = async |ctl: &Etcdctl| -> Result<Vec<String>> {
        let printed = ctl.run(&["endpoint", "status"]).await?.success()?;
        Ok(printed.split(", ").take(3).map(|field| field.replace(&own, &endpoint)).collect())
    };
    assert_eq!(status(&through).await?, status(&straight).await?);

    let compacted = through.run(&["compaction", "2", "--physical"]).await?.success()?;
    assert_eq!(compacted, "compacted revision 2\n");
    ensure!(!through.run(&["compaction", "2"]).await?.status.success(), "compacted twice");
    let defragmented = through.run(&["defrag"]).await?.success()?;
    ensure!(defragmented.starts_with("Finished defragmenting"), "{defragmented}");

    let (here, there) = (routed.main.dir().join("through"), routed.main.dir().join("straight"));
    for (ctl, file) in [(&through, &here), (&straight, &there)] {
        let file = file.to_str().context("a path is text")?;
        ctl.run(&["snapshot", "save", file]).await?.success()?;
    }
    assert_eq!(here.metadata()?.len(), there.metadata()?.len());
    Ok(())
}

#[tokio::test]
async fn authentication_is_set_up_used_and_taken_away() -> Result<()> {
    let routed = Routed::start().await?;
    let ctl = routed.ctl()?;
    let commands: [&[&str]; 8] = [
        &["user", "add", "root:secret"],
        &["role", "add", "root"],
        &["user", "grant-role", "root", "root"],
        &["role", "add", "reader"],
        &["role", "grant-permission", "reader", "read", "/registry/", "--prefix"],
        &["user", "add", "guest:guest"],
        &["user", "grant-role", "guest", "reader"],
        &["auth", "enable"],
    ];
    // Each cluster has users of its own.
    for args in commands {
        ctl.run(args).await?.success()?;
        plain(&routed.events).run(args).await?.success()?;
    }
    for key in ["/registry/pods/a", "/registry/events/a"] {
        ctl.run(&["--user=root:secret", "put", key, "v"]).await?.success()?;
        let read = ctl.run(&["--user=guest:guest", "get", key]).await?.success()?;
        assert_eq!(read, format!("{key}\nv\n"));
        for denied in [&["--user=guest:guest", "put", key, "x"][..], &["put", key, "x"]] {
            ensure!(!ctl.run(denied).await?.status.success(), "{denied:?} is let in");
        }
    }
    let users = ctl.run(&["--user=root:secret", "user", "list"]).await?.success()?;
    assert_eq!(users, "guest\nroot\n");
    for ctl in [&ctl, &plain(&routed.events)] {
        ctl.run(&["--user=root:secret", "auth", "disable"]).await?.success()?;
    }
    let mut events = direct(&routed.events).await?;
    assert_eq!(events.get("/registry/events/a", None).await?.kvs()[0].value(), b"v");
    let cleanup: [&[&str]; 3] =
        [&["user", "delete", "guest"], &["role", "delete", "reader"], &["put", "k", "v"]];
    for args in cleanup {
        ctl.run(args).await?.success()?;
    }
    Ok(())
}
