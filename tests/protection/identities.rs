//! Nobody gets what etcd let another read, nor what it let them read once.

use crate::{Kv, Stage, list};
use anyhow::{Context, Result, ensure};
use seawall::etcd::{
    method::Method,
    proto::etcdserverpb::{AuthenticateRequest, AuthenticateResponse, RangeRequest},
};
use tonic::Code;

const SECRETS: &str = "/registry/secrets/";

pub(crate) async fn login(stage: &Stage, name: &str) -> Result<Kv> {
    let kv = stage.through().await?;
    let request = AuthenticateRequest { name: name.into(), password: "p".into() };
    let answer: Result<AuthenticateResponse, _> = kv.ask(Method::Authenticate, &request).await?;
    Ok(kv.with("token", &answer.ok().context("no token")?.token))
}

pub(crate) async fn run(stage: &Stage, commands: &[&[&str]]) -> Result<()> {
    for command in commands {
        stage.etcd.etcdctl(command).await?.success()?;
    }
    Ok(())
}

/// The same bytes, at a revision, so that the answer is kept.
#[tokio::test]
async fn a_kept_answer_is_for_whom_etcd_gives_it() -> Result<()> {
    let stage = Stage::start("").await?;
    let direct = stage.direct().await?;
    for number in 0..20 {
        direct.put(&format!("{SECRETS}a/{number}"), "1").await?.ok().context("refused")?;
    }
    let revision = direct.revision().await?;
    let read = ["role", "grant-permission", "reader", "read", SECRETS, "--prefix=true"];
    run(
        &stage,
        &[
            &["user", "add", "root:p"],
            &["user", "grant-role", "root", "root"],
            &["role", "add", "reader"],
            &read,
            &["user", "add", "alice:p"],
            &["user", "grant-role", "alice", "reader"],
            &["user", "add", "bob:p"],
            &["auth", "enable"],
        ],
    )
    .await?;
    let (alice, bob) = (login(&stage, "alice").await?, login(&stage, "bob").await?);
    let anyone = stage.through().await?;
    let pinned = RangeRequest { revision, ..list(SECRETS) };
    for request in [pinned.clone(), list(SECRETS)] {
        for _ in 0..2 {
            let read = alice.range(&request).await?;
            ensure!(read.is_ok_and(|answer| answer.count == 20), "alice may read");
            let refused = bob.range(&request).await?.err().context("bob reads")?;
            ensure!(refused.code == Code::PermissionDenied, "{refused:?}");
            let refused = anyone.range(&request).await?.err().context("anyone reads")?;
            ensure!(refused.text.contains("user name is empty"), "{refused:?}");
        }
    }
    // What alice was let read is not for her any more.
    let root = ["--user=root:p", "user", "revoke-role", "alice", "reader"];
    run(&stage, &[&root]).await?;
    let refused = alice.range(&pinned).await?.err().context("alice reads on")?;
    let own = Kv::connect(stage.etcd.member(0).address()).await?;
    let own = Kv { metadata: alice.metadata.clone(), ..own };
    let own = own.range(&pinned).await?.err().context("etcd lets her")?;
    ensure!((refused.code, &refused.text) == (own.code, &own.text), "{refused:?} and {own:?}");
    Ok(())
}

/// Being let read a key is not being let read a list that begins with it.
#[tokio::test]
async fn one_key_does_not_open_a_kept_list() -> Result<()> {
    let stage = Stage::start("").await?;
    let direct = stage.direct().await?;
    direct.put(&format!("{SECRETS}a"), "1").await?.ok().context("refused")?;
    let revision = direct.revision().await?;
    run(
        &stage,
        &[
            &["user", "add", "root:p"],
            &["user", "grant-role", "root", "root"],
            &["role", "add", "all"],
            &["role", "grant-permission", "all", "read", SECRETS, "--prefix=true"],
            &["role", "add", "one"],
            &["role", "grant-permission", "one", "read", SECRETS],
            &["user", "add", "alice:p"],
            &["user", "grant-role", "alice", "all"],
            &["user", "grant-role", "alice", "one"],
            &["auth", "enable"],
        ],
    )
    .await?;
    let alice = login(&stage, "alice").await?;
    let pinned = RangeRequest { revision, ..list(SECRETS) };
    ensure!(alice.range(&pinned).await?.is_ok(), "alice may read");
    run(&stage, &[&["--user=root:p", "user", "revoke-role", "alice", "all"]]).await?;
    let refused = alice.range(&pinned).await?.err().context("alice reads on")?;
    ensure!(refused.code == Code::PermissionDenied, "{refused:?}");
    Ok(())
}
