//! Watchers of a collection that is in memory, and what becomes of them when it is not any more.

use crate::{
    DEADLINE, Stage,
    client::{Call, Client},
    kv::list,
    operator,
};
use anyhow::{Context, Result, ensure};
use prost::Message;
use seawall::etcd::{
    method::Method,
    proto::{
        etcdserverpb::{
            WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
            WatchResponse, watch_request::RequestUnion,
        },
        mvccpb::{Event, event::EventType},
    },
};
use seawall_testkit::eventually;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::task::JoinSet;

pub(crate) const PODS: &str = "/registry/pods/";

/// One stream.
pub(crate) struct Watching {
    call: Call,
    /// Its connection.
    _client: Client,
}

impl Watching {
    pub(crate) async fn open(stage: &Stage) -> Result<Self> {
        Self::over(Client::connect(stage.seawall.address("main")?).await?).await
    }

    pub(crate) async fn over(client: Client) -> Result<Self> {
        Ok(Self { call: client.call(Method::Watch.path(), &[]).await?, _client: client })
    }

    fn send(&mut self, request: RequestUnion) -> Result<()> {
        let request = WatchRequest { request_union: Some(request) };
        self.call.send(&request.encode_to_vec())
    }

    pub(crate) async fn next(&mut self) -> Result<WatchResponse> {
        let message = self.call.message().await?.context("the stream has ended")?;
        Ok(WatchResponse::decode(message)?)
    }

    /// The id of a new watcher.
    pub(crate) async fn create(&mut self, create: WatchCreateRequest) -> Result<i64> {
        self.ask(create)?;
        let created = self.next().await?;
        ensure!(created.created && !created.canceled, "{created:?}");
        Ok(created.watch_id)
    }

    pub(crate) fn ask(&mut self, create: WatchCreateRequest) -> Result<()> {
        self.send(RequestUnion::CreateRequest(create))
    }

    pub(crate) fn cancel(&mut self, watch_id: i64) -> Result<()> {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }))
    }

    pub(crate) fn ask_progress(&mut self) -> Result<()> {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {}))
    }
}

/// A watcher as kube-apiserver has it.
pub(crate) fn below(prefix: &str, start_revision: i64) -> WatchCreateRequest {
    let list = list(prefix);
    WatchCreateRequest {
        key: list.key,
        range_end: list.range_end,
        start_revision,
        prev_kv: true,
        ..WatchCreateRequest::default()
    }
}

impl Stage {
    pub(crate) async fn watchers(&self) -> Result<f64> {
        self.metric("seawall_mirror_watchers").await
    }

    pub(crate) async fn handovers(&self) -> Result<f64> {
        self.metric("seawall_mirror_watch_handovers_total").await
    }

    /// Watchers at etcd, that of the mirror's feed among them.
    pub(crate) async fn at_etcd(&self) -> Result<f64> {
        let text = self.etcd.member(0).metrics().await?;
        let name = "etcd_debugging_mvcc_watcher_total ";
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.context("no watchers")?.parse()?)
    }

    pub(crate) async fn switch(&self, path: &str) -> Result<()> {
        operator::post(self.seawall.admin()?, path).await
    }
}

/// The events of a writer that changes one key at a time, in their order.
#[derive(Default)]
struct Seen {
    revisions: Vec<i64>,
    last: Option<Event>,
}

impl Seen {
    /// Each event follows from the one before, so that none is missing and none comes twice.
    fn take(&mut self, response: &WatchResponse) -> Result<()> {
        ensure!(!response.canceled && !response.created, "{response:?}");
        for event in &response.events {
            let kv = event.kv.as_ref().context("no kv")?;
            if let Some(before) = self.last.as_ref().and_then(|last| last.kv.as_ref()) {
                let prev = event.prev_kv.as_ref().context("no prev_kv")?;
                ensure!(prev == before, "{prev:?} comes after {before:?}");
                ensure!(kv.version == before.version + 1, "{kv:?} comes after {before:?}");
            }
            self.revisions.push(kv.mod_revision);
            self.last = Some(event.clone());
        }
        Ok(())
    }

    async fn until(&mut self, watching: &mut Watching, revision: i64) -> Result<()> {
        while self.revisions.last().is_none_or(|last| *last < revision) {
            self.take(&watching.next().await?)?;
        }
        Ok(())
    }
}

/// Changes one key until told to stop, and returns the last revision.
async fn write(stage: &Stage, stop: Arc<AtomicBool>) -> Result<JoinSet<Result<i64>>> {
    let kv = stage.direct().await?;
    let mut writer = JoinSet::new();
    writer.spawn(async move {
        for number in 0.. {
            let header = kv.put("/registry/pods/default/one", format!("{number}")).await?;
            if stop.load(SeqCst) {
                return Ok(header.revision);
            }
        }
        unreachable!("it counts for longer than anybody waits");
    });
    Ok(writer)
}

/// Watches while `disturb` does its part, at the end of which the watcher is to be at etcd.
async fn hands_over(stage: &Stage, disturb: impl AsyncFn() -> Result<()>) -> Result<()> {
    stage.through().await?.put("/registry/pods/default/one", "").await?;
    stage.warm(PODS).await?;
    let mut watching = Watching::open(stage).await?;
    let start = stage.direct().await?.revision().await? + 1;
    watching.create(below(PODS, start)).await?;
    ensure!(stage.watchers().await? == 1.0, "it is not served from memory");
    let stop = Arc::new(AtomicBool::new(false));
    let mut writer = write(stage, Arc::clone(&stop)).await?;
    let mut seen = Seen::default();
    seen.until(&mut watching, start + 50).await?;
    let before = stage.handovers().await?;
    disturb().await?;
    while stage.handovers().await? == before {
        seen.take(&watching.next().await?)?;
    }
    let next = seen.revisions.last().copied().unwrap_or(start) + 50;
    seen.until(&mut watching, next).await?;
    stop.store(true, SeqCst);
    let last = writer.join_next().await.context("no writer")???;
    seen.until(&mut watching, last).await?;
    let expected: Vec<_> = (start..=last).collect();
    ensure!(seen.revisions == expected, "{} of {}", seen.revisions.len(), expected.len());
    ensure!(stage.watchers().await? == 0.0, "it is counted on");
    Ok(())
}

#[tokio::test]
async fn a_watcher_goes_on_at_etcd_when_its_collection_is_switched_off() -> Result<()> {
    let stage = Stage::start("").await?;
    hands_over(&stage, async || {
        stage.switch("/mirror/main?collection=/registry/pods&mode=off").await
    })
    .await
}

#[tokio::test]
async fn a_watcher_goes_on_at_etcd_when_the_mirror_is_switched_off() -> Result<()> {
    let stage = Stage::start("").await?;
    for mode in ["off", "observe"] {
        hands_over(&stage, async || stage.switch(&format!("/protection/mirror?mode={mode}")).await)
            .await?;
        stage.switch("/protection/mirror?mode=enforce").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_thousand_watchers_cost_etcd_none() -> Result<()> {
    let stage = Stage::start("").await?;
    let kv = stage.through().await?;
    kv.put("/registry/pods/default/one", "").await?;
    stage.warm(PODS).await?;
    let before = stage.at_etcd().await?;
    let start = kv.revision().await? + 1;
    let mut watching = Watching::open(&stage).await?;
    for id in 0..1000 {
        ensure!(watching.create(below(PODS, start)).await? == id, "another id than {id}");
    }
    ensure!(stage.watchers().await? == 1000.0, "some are not served from memory");
    let after = stage.at_etcd().await?;
    ensure!(after == before, "{before} watchers at etcd, then {after}");
    let revision = kv.put("/registry/pods/default/one", "again").await?.revision;
    let mut told = Vec::new();
    for _ in 0..1000 {
        let response = watching.next().await?;
        ensure!(response.events.len() == 1, "{response:?}");
        ensure!(response.header.context("no header")?.revision == revision, "another revision");
        told.push(response.watch_id);
    }
    told.sort_unstable();
    ensure!(told == (0..1000).collect::<Vec<_>>(), "some were told twice");
    // The stream alone, of which only the last to send something is told.
    let Watching { call, _client } = watching;
    drop(call);
    eventually(DEADLINE, "their end", async || {
        ensure!(stage.watchers().await? == 0.0, "some are left");
        Ok(())
    })
    .await
}

/// A client that does not read keeps nobody waiting, and finds all of it later.
#[tokio::test]
async fn a_slow_client_is_caught_up_by_etcd() -> Result<()> {
    let stage = Stage::start("history: 1MiB").await?;
    let kv = stage.through().await?;
    kv.put("/registry/pods/default/one", "").await?;
    stage.warm(PODS).await?;
    let start = kv.revision().await? + 1;
    let narrow = Client::connect_within(stage.seawall.address("main")?, 64 << 10).await?;
    let (mut slow, mut quick) = (Watching::over(narrow).await?, Watching::open(&stage).await?);
    slow.create(below(PODS, start)).await?;
    quick.create(below(PODS, start)).await?;
    let (mut by_slow, mut by_quick) = (Seen::default(), Seen::default());
    let mut last = start;
    for number in 0..200 {
        let value = vec![b'a' + number % 26; 200_000];
        last = kv.put("/registry/pods/default/one", value).await?.revision;
        by_quick.until(&mut quick, last).await?;
    }
    by_slow.until(&mut slow, last).await?;
    ensure!(by_slow.revisions == by_quick.revisions, "{} revisions", by_slow.revisions.len());
    let handovers = stage.handovers().await?;
    ensure!(handovers == 1.0, "{handovers} went to etcd, not the slow one alone");
    Ok(())
}

#[tokio::test]
async fn progress_is_that_of_all_or_of_each() -> Result<()> {
    let stage = Stage::start("").await?;
    let kv = stage.through().await?;
    kv.put("/registry/pods/default/one", "").await?;
    stage.warm(PODS).await?;
    let mut watching = Watching::open(&stage).await?;
    for _ in 0..2 {
        watching.create(below(PODS, 0)).await?;
    }
    let revision = kv.put("/elsewhere", "").await?.revision;
    watching.ask_progress()?;
    let progress = watching.next().await?;
    ensure!(progress.watch_id == -1 && progress.events.is_empty(), "{progress:?}");
    ensure!(progress.header.context("no header")?.revision >= revision, "{progress:?}");

    // One that etcd serves: nobody can speak for all.
    let elsewhere =
        WatchCreateRequest { key: "/elsewhere".into(), ..WatchCreateRequest::default() };
    let at_etcd = watching.create(elsewhere).await?;
    let mut told = Vec::new();
    eventually(DEADLINE, "progress of each", async || {
        watching.ask_progress()?;
        for _ in 0..2 {
            let progress = watching.next().await?;
            ensure!(progress.events.is_empty() && progress.watch_id >= 0, "{progress:?}");
            told.push(progress.watch_id);
        }
        ensure!([0, 1, at_etcd].iter().all(|id| told.contains(id)), "only of {told:?}");
        Ok(())
    })
    .await
}

/// kube-apiserver waits for a word from each watcher that is silent.
#[tokio::test]
async fn silent_watchers_hear_how_far_they_are() -> Result<()> {
    let stage = Stage::start("").await?;
    let kv = stage.through().await?;
    kv.put("/registry/pods/default/one", "").await?;
    stage.warm(PODS).await?;
    let mut watching = Watching::open(&stage).await?;
    let start = kv.revision().await? + 1;
    let mut wanted = below(PODS, start);
    wanted.progress_notify = true;
    let id = watching.create(wanted).await?;
    let revision = kv.put("/elsewhere", "").await?.revision;
    let progress = watching.next().await?;
    ensure!(progress.watch_id == id && progress.events.is_empty(), "{progress:?}");
    ensure!(progress.header.context("no header")?.revision >= revision, "{progress:?}");
    Ok(())
}

/// As a reflector does it: everything, and what happens after that.
#[tokio::test]
async fn a_list_and_a_watch_give_every_state() -> Result<()> {
    let stage = Stage::start("").await?;
    let kv = stage.through().await?;
    for number in 0..20 {
        kv.put(&format!("{PODS}default/{number:02}"), "first").await?;
    }
    // Nothing is in memory yet: the list has it loaded, and the watch waits for that.
    let answer = kv.range(&list(PODS)).await?.ok().context("no list")?;
    let revision = answer.header.context("no header")?.revision;
    let mut watching = Watching::open(&stage).await?;
    let id = watching.create(below(PODS, revision + 1)).await?;
    ensure!(stage.watchers().await? == 1.0, "it is not served from memory");
    kv.put(&format!("{PODS}default/07"), "second").await?;
    kv.delete(&format!("{PODS}default/07")).await?;
    let (put, deleted) = (watching.next().await?, watching.next().await?);
    let (put, deleted) = (&put.events[0], &deleted.events[0]);
    let value = |event: &Event| event.prev_kv.as_ref().map(|kv| kv.value.clone());
    ensure!(value(put).as_deref() == Some(b"first"), "{put:?}");
    ensure!(deleted.r#type() == EventType::Delete, "{deleted:?}");
    ensure!(value(deleted).as_deref() == Some(b"second"), "{deleted:?}");
    watching.cancel(id)?;
    let canceled = watching.next().await?;
    ensure!(canceled.canceled && canceled.watch_id == id, "{canceled:?}");
    ensure!(stage.watchers().await? == 0.0, "it is still there");
    Ok(())
}

/// What etcd does not have any more it says itself, whatever is remembered here.
#[tokio::test]
async fn what_is_compacted_at_etcd_is_compacted_here() -> Result<()> {
    let stage = Stage::start("").await?;
    let kv = stage.through().await?;
    kv.put("/registry/pods/default/one", "").await?;
    stage.warm(PODS).await?;
    let first = kv.put("/registry/pods/default/one", "1").await?.revision;
    let last = kv.put("/registry/pods/default/one", "2").await?.revision;
    kv.compact(last).await?;
    let mut watching = Watching::open(&stage).await?;
    let id = watching.create(below(PODS, first)).await?;
    let canceled = watching.next().await?;
    ensure!(canceled.canceled && canceled.watch_id == id, "{canceled:?}");
    ensure!(canceled.compact_revision == last, "{canceled:?}");
    watching.create(below(PODS, last)).await?;
    let replayed = tokio::time::timeout(Duration::from_secs(20), watching.next()).await??;
    ensure!(replayed.events.len() == 1, "{replayed:?}");
    Ok(())
}
