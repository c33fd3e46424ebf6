//! Real etcd servers: how they are started, hurt and revived.

use anyhow::{Context, Result, ensure};
use seawall_testkit::{Binaries, Cluster, Etcdctl, Pki, etcdctl, eventually};
use std::{os::unix::process::ExitStatusExt, path::Path, time::Duration};

const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_single_member_serves_and_leaves_nothing_behind() -> Result<()> {
    let cluster = Cluster::single().await?;
    let (dir, pid) = (cluster.dir().to_owned(), cluster.member(0).pid().context("it runs")?);
    etcdctl(cluster.binaries(), &cluster.member(0).endpoint(), &["put", "a", "1"])
        .await?
        .success()?;
    let answer = cluster.etcdctl(&["get", "a", "-w", "json"]).await?.json()?;
    assert_eq!(answer["count"], 1);
    assert_eq!(answer["header"]["member_id"].as_u64(), Some(cluster.member(0).id().await?));
    assert!(cluster.member(0).usage()?.rss_bytes > 1 << 20);
    drop(cluster);
    assert!(!dir.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    Ok(())
}

#[tokio::test]
async fn a_failed_command_tells_what_it_printed() -> Result<()> {
    let cluster = Cluster::single().await?;
    let failure = cluster.etcdctl(&["lease", "revoke", "7"]).await?.success();
    let text = failure.expect_err("there is no such lease").to_string();
    assert!(text.contains("requested lease not found"), "{text}");
    let txn = "version(\"a\") = \"0\"\n\nput a 1\n\n\n";
    cluster.ctl(cluster.endpoints())?.run_with_input(&["txn"], txn).await?.success()?;
    assert_eq!(cluster.etcdctl(&["get", "a"]).await?.success()?, "a\n1\n");
    Ok(())
}

#[tokio::test]
async fn a_member_that_cannot_start_shows_its_log() {
    let start = Cluster::builder().extra_args(["--no-such-flag"]).start();
    let text = format!("{:#}", start.await.expect_err("etcd refuses the flag"));
    assert!(text.contains("no-such-flag"), "{text}");
}

#[tokio::test]
async fn data_and_address_survive_a_crash() -> Result<()> {
    let cluster = Cluster::single().await?;
    let (member, endpoint) = (cluster.member(0), cluster.member(0).endpoint());
    cluster.etcdctl(&["put", "a", "1"]).await?.success()?;
    member.kill().await?;
    assert_eq!(member.pid(), None);
    member.restart().await?;
    assert_eq!(member.endpoint(), endpoint);
    assert_eq!(cluster.etcdctl(&["get", "a", "--print-value-only"]).await?.success()?, "1\n");
    // etcd shuts down in order and then ends by the signal it got.
    assert_eq!(member.terminate().await?.signal(), Some(15));
    assert!(member.log()?.contains("closed etcd server"));
    Ok(())
}

#[tokio::test]
async fn leadership_moves_and_outlives_a_paused_leader() -> Result<()> {
    let cluster = Cluster::builder().members(3).start().await?;
    let first = cluster.leader().await?.index();
    let second = (first + 1) % 3;
    cluster.move_leader(second).await?;
    assert_eq!(cluster.leader().await?.index(), second);
    cluster.member(second).pause()?;
    let third = eventually(DEADLINE, "another leader", async || {
        let leader = cluster.leader().await?.index();
        ensure!(leader != second, "it is still the paused one");
        Ok(leader)
    })
    .await?;
    cluster.member(second).resume()?;
    cluster.serving().await?;
    assert_eq!(cluster.leader().await?.index(), third);
    Ok(())
}

#[tokio::test]
async fn an_isolated_leader_loses_its_quorum_and_returns_when_healed() -> Result<()> {
    let cluster = Cluster::builder().members(3).peer_proxies().start().await?;
    let isolated = cluster.leader().await?;
    cluster.isolate(isolated.index())?;
    eventually(DEADLINE, "the isolated leader to notice", async || {
        ensure!(!isolated.has_leader().await?, "it still knows a leader");
        Ok(())
    })
    .await?;
    let leader = cluster.leader().await?;
    assert_ne!(leader.index(), isolated.index());
    let others: Vec<String> =
        cluster.endpoints().into_iter().filter(|url| *url != isolated.endpoint()).collect();
    cluster.ctl(&others)?.run(&["put", "a", "1"]).await?.success()?;
    let stale = cluster.ctl([isolated.endpoint()])?;
    assert_eq!(stale.run(&["get", "a", "--consistency=s"]).await?.success()?, "");
    cluster.heal();
    isolated.serving().await?;
    assert_eq!(stale.run(&["get", "a"]).await?.success()?, "a\n1\n");
    Ok(())
}

#[tokio::test]
async fn a_learner_joins() -> Result<()> {
    let mut cluster = Cluster::single().await?;
    let learner = cluster.add_learner().await?.name().to_owned();
    let members = cluster.ctl([cluster.member(0).endpoint()])?;
    let members = members.run(&["member", "list", "-w", "json"]).await?.json()?;
    let of_that_name = |member: &&serde_json::Value| member["name"] == *learner;
    let members = members["members"].as_array().context("a list of members")?;
    let member = members.iter().find(of_that_name).context("the learner is a member")?;
    assert_eq!(member["isLearner"], true);
    Ok(())
}

#[tokio::test]
async fn only_clients_with_a_certificate_of_the_authority_are_admitted() -> Result<()> {
    let (pki, other) = (Pki::new()?, Pki::new()?);
    let cluster = Cluster::builder().tls(&pki).client_cert_auth().start().await?;
    cluster.etcdctl(&["put", "a", "1"]).await?.success()?;
    let bare = Etcdctl::new(cluster.binaries(), cluster.endpoints()).ca(&pki.ca());
    let refused = [
        bare.clone(),
        bare.clone().identity(&pki.expired_client("x")?),
        bare.clone().identity(&other.client("x")?),
        Etcdctl::new(cluster.binaries(), cluster.endpoints()).identity(&pki.client("x")?),
    ];
    for ctl in refused {
        let output = ctl.run(&["get", "a", "--command-timeout=1s"]).await?;
        assert!(!output.status.success(), "{output:?}");
    }
    let admitted = bare.identity(&pki.client("x")?);
    assert_eq!(admitted.run(&["get", "a"]).await?.success()?, "a\n1\n");
    Ok(())
}

#[tokio::test]
async fn an_expired_server_certificate_is_not_trusted_and_a_renewed_one_is() -> Result<()> {
    let pki = Pki::new()?;
    let cluster = Cluster::builder().tls(&pki).start().await?;
    // etcd reads its files again for each connection, so an expired certificate takes their place.
    let (server, expired) = (pki.server()?, pki.expired_server()?);
    std::fs::copy(&expired.cert, &server.cert)?;
    std::fs::copy(&expired.key, &server.key)?;
    let refused = cluster.etcdctl(&["get", "a", "--command-timeout=1s"]).await?;
    assert!(!refused.status.success(), "{refused:?}");
    pki.renew_server()?;
    cluster.etcdctl(&["get", "a"]).await?.success()?;
    Ok(())
}

#[tokio::test]
async fn the_selected_version_is_the_one_that_runs() -> Result<()> {
    let cluster = Cluster::builder().binaries(&Binaries::selected()?).start().await?;
    let status = cluster.etcdctl(&["endpoint", "status", "-w", "json"]).await?.json()?;
    let version = status[0]["Status"]["version"].as_str().context("a version")?;
    assert!(version.starts_with(cluster.binaries().line()), "{version}");
    Ok(())
}
