//! What clients get one after the other, from memory and from etcd.

use crate::{
    DEADLINE, Stage,
    client::{Client, Status},
    kv::list,
    watches::{PODS, Watching},
};
use anyhow::{Context, Result, ensure};
use prost::Message;
use seawall::etcd::{method::Method, proto::etcdserverpb::WatchCreateRequest};
use seawall_testkit::eventually;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

/// Two collections together are not one that is in memory.
fn of_etcd(start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: "/registry/configmaps/".into(),
        range_end: "/registry/secrets0".into(),
        start_revision,
        ..WatchCreateRequest::default()
    }
}

fn in_memory(watch_id: i64) -> WatchCreateRequest {
    let keys = list(PODS);
    WatchCreateRequest {
        key: keys.key,
        range_end: keys.range_end,
        watch_id,
        ..WatchCreateRequest::default()
    }
}

/// Clients put fragments together by their following each other.
#[tokio::test]
async fn nothing_comes_between_the_fragments_of_a_response() -> Result<()> {
    let stage = Stage::start("").await?;
    let kv = stage.through().await?;
    let start = kv.put(&format!("{PODS}default/one"), "").await?.revision + 1;
    stage.warm(PODS).await?;
    for number in 0..20 {
        kv.put(&format!("/registry/secrets/default/{number}"), vec![b'v'; 1 << 20]).await?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writing = {
        let (stop, kv) = (Arc::clone(&stop), stage.direct().await?);
        tokio::spawn(async move {
            while !stop.load(SeqCst) {
                kv.put(&format!("{PODS}default/one"), "again").await?;
            }
            anyhow::Ok(())
        })
    };
    let narrow = Client::connect_within(stage.seawall.address("main")?, 64 << 10).await?;
    let mut watching = Watching::over(narrow).await?;
    watching.create(in_memory(7)).await?;
    ensure!(stage.watchers().await? == 1.0, "it is not served from memory");
    watching.ask(WatchCreateRequest { fragment: true, ..of_etcd(start) })?;
    let (mut fragments, mut of_memory, mut left) = (0, 0, 20);
    let mut inside = None;
    while left > 0 {
        let response = watching.next().await?;
        if let Some(id) = inside {
            ensure!(response.watch_id == id, "{} came between", response.watch_id);
        }
        inside = response.fragment.then_some(response.watch_id);
        fragments += usize::from(response.fragment);
        match response.watch_id {
            7 => of_memory += response.events.len(),
            _ => left -= response.events.iter().filter(|event| is_secret(event)).count(),
        }
    }
    stop.store(true, SeqCst);
    writing.await??;
    ensure!(fragments > 0 && of_memory > 0, "{fragments} fragments, {of_memory} from memory");
    Ok(())
}

fn is_secret(event: &seawall::etcd::proto::mvccpb::Event) -> bool {
    event.kv.as_ref().is_some_and(|kv| kv.key.starts_with(b"/registry/secrets/"))
}

/// What is told of a watcher comes before all that is told of the next one with its id.
#[tokio::test]
async fn an_id_that_is_chosen_again_is_that_of_the_new_watcher() -> Result<()> {
    let stage = Stage::start("").await?;
    let kv = stage.through().await?;
    kv.put(&format!("{PODS}default/one"), "").await?;
    stage.warm(PODS).await?;
    let mut watching = Watching::open(&stage).await?;
    for _ in 0..20 {
        let mut told = Vec::new();
        // All of them at once, as no client does that waits for answers.
        for create in [in_memory(7), WatchCreateRequest { watch_id: 7, ..of_etcd(0) }] {
            watching.ask(create)?;
            watching.cancel(7)?;
        }
        for _ in 0..4 {
            let response = watching.next().await?;
            ensure!(response.watch_id == 7, "{response:?}");
            told.push(if response.created { "created" } else { "canceled" });
        }
        ensure!(told == ["created", "canceled", "created", "canceled"], "{told:?}");
    }
    Ok(())
}

/// What changes in memory stays for those who are in the middle of reading it: there must be room.
#[tokio::test]
async fn a_client_that_stalls_in_a_list_is_ended_where_there_is_no_room_for_it() -> Result<()> {
    let stage = Stage::protected("memory: 64MiB").await?;
    let kv = stage.through().await?;
    for number in 0..80 {
        kv.put(&format!("{PODS}default/{number}"), vec![b'v'; 1 << 20]).await?;
    }
    stage.warm(PODS).await?;
    let stalls = Client::connect_within(stage.seawall.address("main")?, 64 << 10).await?;
    let mut list_of = stalls.call(Method::Range.path(), &[]).await?;
    list_of.send(&list(PODS).encode_to_vec())?;
    list_of.close()?;
    eventually(DEADLINE, "a refusal", async || {
        let refused = stage.metric("seawall_protection_refused_total").await?;
        ensure!(refused == 1.0, "{refused} were refused");
        Ok(())
    })
    .await?;
    let ended = list_of.rest().await.map(|reply| reply.status);
    ensure!(!matches!(ended, Ok(Status::Grpc { .. })), "{ended:?}");
    // Those who read are served as before.
    kv.range(&list(PODS)).await?.ok().context("no list")?;
    Ok(())
}
