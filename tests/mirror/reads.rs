//! Reads of a collection that is in memory.

use crate::{
    DEADLINE, Stage,
    client::Reply,
    kv::{Answer, Kv, count, list, one},
    seawall, warm,
};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use prost::Message;
use rand::{Rng, SeedableRng, rngs::StdRng};
use seawall::etcd::{
    method::Method,
    proto::etcdserverpb::{
        DeleteRangeRequest, DeleteRangeResponse, RangeRequest, RangeResponse, RangeStreamResponse,
        range_request::{SortOrder, SortTarget},
    },
};
use seawall_testkit::{Cluster, Fault, FaultProxy, eventually};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::task::JoinSet;

const PODS: &str = "/registry/pods/";

fn pod(number: usize) -> String {
    format!("{PODS}default/{number:03}")
}

/// Puts, updates and deletes, so that no two revisions of an object are the same.
async fn fill(kv: &Kv) -> Result<()> {
    for number in 0..120 {
        kv.put(&pod(number), vec![b'a' + (number % 7) as u8; 10 + number]).await?;
    }
    for number in (0..120).step_by(5) {
        kv.put(&pod(number), format!("changed {number}")).await?;
    }
    for number in (0..120).step_by(9) {
        kv.delete(&pod(number)).await?;
    }
    Ok(())
}

/// Requests of all kinds about what is there now.
fn newest() -> Vec<RangeRequest> {
    let pods = || list(PODS);
    let sorted = |target: SortTarget, order: SortOrder| RangeRequest {
        sort_target: target.into(),
        sort_order: order.into(),
        ..pods()
    };
    let bare = PODS.trim_end_matches('/');
    vec![
        pods(),
        count(PODS),
        RangeRequest { limit: 7, ..pods() },
        RangeRequest { limit: 7, count_only: true, ..pods() },
        RangeRequest { limit: 1000, ..pods() },
        RangeRequest { keys_only: true, ..pods() },
        RangeRequest { keys_only: true, limit: 3, ..pods() },
        RangeRequest { serializable: true, ..pods() },
        RangeRequest { serializable: true, count_only: true, ..pods() },
        RangeRequest { min_mod_revision: 60, ..pods() },
        RangeRequest { max_create_revision: 60, limit: 5, ..pods() },
        sorted(SortTarget::Mod, SortOrder::Descend),
        sorted(SortTarget::Key, SortOrder::Descend),
        sorted(SortTarget::Create, SortOrder::Ascend),
        list(&format!("{PODS}default/01")),
        list(&format!("{PODS}kube-system/")),
        one(&pod(1)),
        one(&pod(9)),
        one("/registry/pods/default/none"),
        one(bare),
        RangeRequest { range_end: "\0".into(), key: "/registry/pods/".into(), limit: 3, ..pods() },
    ]
}

/// The answer, and what may differ between two members of one cluster told apart from it.
fn shown(reply: &Reply, several: bool) -> Result<(Vec<Bytes>, String)> {
    let mut messages = reply.messages.clone();
    if several {
        for message in &mut messages {
            let mut response = RangeResponse::decode(message.clone())?;
            if let Some(header) = &mut response.header {
                ensure!(header.member_id != 0, "a header of nobody");
                header.member_id = 0;
            }
            *message = response.encode_to_vec().into();
        }
    }
    Ok((messages, reply.status.to_string()))
}

/// Asks both, and tells whether memory has answered.
async fn compare(stage: &Stage, ours: &Kv, theirs: &Kv, request: &RangeRequest) -> Result<bool> {
    let several = stage.etcd.members().len() > 1;
    let before = stage.answers().await?;
    let (mine, its) =
        (ours.reply(Method::Range, request).await?, theirs.reply(Method::Range, request).await?);
    ensure!(shown(&mine, several)? == shown(&its, several)?, "{request:?}:\n{mine:?}\n{its:?}");
    Ok(stage.answers().await? > before)
}

async fn has_the_bytes_of(etcd: Cluster) -> Result<()> {
    let stage = Stage::of(etcd, "").await?;
    let (ours, theirs) = (stage.through().await?, stage.direct().await?);
    theirs.put("/registry/pods", "the bare name").await?;
    fill(&theirs).await?;
    stage.warm(PODS).await?;
    let loaded = theirs.revision().await?;
    for request in newest() {
        let inside = request.range_end != "\0";
        let answered = compare(&stage, &ours, &theirs, &request).await?;
        ensure!(answered == inside, "memory has answered: {answered}, {request:?}");
    }
    theirs.put(&pod(3), "later").await?;
    theirs.delete(&pod(4)).await?;
    let last = theirs.revision().await?;
    for revision in [loaded, loaded + 1, last] {
        for request in newest() {
            let request = RangeRequest { revision, ..request };
            compare(&stage, &ours, &theirs, &request).await?;
        }
        let answered =
            compare(&stage, &ours, &theirs, &RangeRequest { revision, ..list(PODS) }).await?;
        ensure!(answered, "nothing is remembered of {revision}, where {loaded} was loaded");
    }
    // Past what is remembered, in the future, and then compacted.
    for revision in [2, loaded - 1, last + 1, last + 1000] {
        compare(&stage, &ours, &theirs, &RangeRequest { revision, ..list(PODS) }).await?;
    }
    theirs.compact(last).await?;
    for revision in [2, loaded, last - 1, last, last + 1] {
        for request in [list(PODS), count(PODS), one(&pod(1))] {
            compare(&stage, &ours, &theirs, &RangeRequest { revision, ..request }).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn answers_have_the_bytes_that_etcd_sends() -> Result<()> {
    has_the_bytes_of(Cluster::single().await?).await
}

#[tokio::test]
async fn answers_have_the_bytes_that_several_members_send() -> Result<()> {
    has_the_bytes_of(Cluster::builder().members(3).start().await?).await
}

#[tokio::test]
async fn pages_continue_where_the_first_began() -> Result<()> {
    let stage = Stage::start("").await?;
    let (ours, theirs) = (stage.through().await?, stage.direct().await?);
    fill(&theirs).await?;
    stage.warm(PODS).await?;
    let whole = theirs.range(&list(PODS)).await?.ok().context("a list")?;
    let mut request = RangeRequest { limit: 10, ..list(PODS) };
    let (mut kvs, before) = (Vec::new(), stage.answers().await?);
    loop {
        let page = ours.range(&request).await?.ok().context("a page")?;
        let revision = page.header.context("a header")?.revision;
        if request.revision == 0 {
            request.revision = revision;
        }
        ensure!(page.count == whole.count - kvs.len() as i64, "{} of {}", page.count, kvs.len());
        kvs.extend(page.kvs);
        if !page.more {
            break;
        }
        let last = kvs.last().context("an empty page")?;
        request.key = [&last.key[..], b"\0"].concat().into();
        // What happens between two pages is not for the next one.
        theirs.put(&pod(kvs.len() + 1), "between pages").await?;
        theirs.delete(&pod(119)).await?;
    }
    ensure!(kvs == whole.kvs, "the pages make another list");
    let pages = whole.kvs.len().div_ceil(10) as f64;
    ensure!(stage.answers().await? - before == pages, "not all pages came from memory");
    Ok(())
}

#[tokio::test]
async fn streams_are_what_etcd_streams() -> Result<()> {
    let stage = Stage::start("").await?;
    if stage.etcd.binaries().version() < (3, 7) {
        return Ok(());
    }
    let (ours, theirs) = (stage.through().await?, stage.direct().await?);
    fill(&theirs).await?;
    stage.warm(PODS).await?;
    for request in newest() {
        let (mine, its) = (
            ours.reply(Method::RangeStream, &request).await?,
            theirs.reply(Method::RangeStream, &request).await?,
        );
        ensure!(
            mine.status == its.status,
            "{request:?}: {} instead of {}",
            mine.status,
            its.status
        );
        ensure!(merged(&mine)? == merged(&its)?, "{request:?}");
    }
    Ok(())
}

/// One answer of all that a stream has sent.
fn merged(reply: &Reply) -> Result<RangeStreamResponse> {
    let mut whole = RangeStreamResponse::default();
    for message in &reply.messages {
        whole.merge(message.clone())?;
    }
    Ok(whole)
}

/// A list is read once, and then only asked about.
#[tokio::test]
async fn etcd_is_only_probed() -> Result<()> {
    const READS: u64 = 500;
    let stage = Stage::start("").await?;
    let (ours, theirs) = (stage.through().await?, stage.direct().await?);
    fill(&theirs).await?;
    stage.warm(PODS).await?;
    let list = list(PODS);
    let size = theirs.reply(Method::Range, &list).await?.messages.concat().len() as f64;
    let before = (stage.answers().await?, sent_bytes(&stage).await?);
    for _ in 0..READS {
        ours.range(&list).await?.ok().context("a list")?;
    }
    let answered = stage.answers().await? - before.0;
    ensure!(answered == READS as f64, "{answered} of {READS} lists came from memory");
    let sent = sent_bytes(&stage).await? - before.1;
    // A probe's answer has 30 bytes or so.
    let probes = 100.0 * READS as f64;
    ensure!(sent < probes + size, "etcd sent {sent} bytes for lists of {size} bytes");
    Ok(())
}

/// What etcd has sent to clients.
async fn sent_bytes(stage: &Stage) -> Result<f64> {
    let metrics = stage.etcd.member(0).metrics().await?;
    let line = metrics.lines().find(|line| line.starts_with("etcd_network_client_grpc_sent_bytes"));
    Ok(line.and_then(|line| line.rsplit(' ').next()).context("no such metric")?.parse()?)
}

/// What others have written counts with its true size, which etcd does not tell.
#[tokio::test]
async fn a_quota_of_bytes_knows_what_lies_in_memory() -> Result<()> {
    let rule = "{name: pods, match: {prefixes: [/registry/pods]}, quota: {bytes: 64KiB}}";
    let stage = Stage::protected(&format!("rules: [{rule}]")).await?;
    let (ours, theirs) = (stage.through().await?, stage.direct().await?);
    for number in 0..7 {
        theirs.put(&pod(number), vec![b'v'; 10_000]).await?;
    }
    stage.warm(PODS).await?;
    let full = ours.put(&pod(7), "small").await.err().context("it is stored")?;
    ensure!(full.to_string().contains("seawall: pods:"), "{full:?}");
    ours.put(&pod(0), "as small").await?;
    Ok(())
}

/// A quota of bytes was never full where only counts were asked of its keys: those that are held without
/// their values were taken to have none.
#[tokio::test]
async fn a_quota_of_bytes_is_not_misled_by_keys_without_their_values() -> Result<()> {
    let rule = "{name: pods, match: {prefixes: [/registry/pods]}, quota: {bytes: 64KiB}}";
    let stage = Stage::protected(&format!("rules: [{rule}]")).await?;
    let ours = stage.through().await?;
    let value = || vec![b'v'; 10_000];
    for number in 0..7 {
        ours.put(&pod(number), value()).await?;
    }
    warm(&stage.seawall, &count(PODS)).await?;
    let mut number = 7;
    // It is full once its keys were counted anew.
    eventually(DEADLINE, "a full quota", async || {
        number += 1;
        let full = ours.put(&pod(number), value()).await.err().context("it is stored")?;
        ensure!(full.to_string().contains("seawall: pods:"), "{full:?}");
        Ok(())
    })
    .await
}

/// What guards count in memory is what etcd has by then, whoever has put it there just before.
#[tokio::test]
async fn a_wide_delete_is_counted_in_memory_as_at_etcd() -> Result<()> {
    let stage = Stage::protected("deletes: {keys_max: 5}").await?;
    let (ours, theirs) = (stage.through().await?, stage.direct().await?);
    theirs.put(&pod(0), "1").await?;
    stage.warm(PODS).await?;
    for namespace in 0..20 {
        let below = format!("{PODS}{namespace}/");
        for name in 0..6 {
            theirs.put(&format!("{below}{name}"), "1").await?;
        }
        let RangeRequest { key, range_end, .. } = list(&below);
        let request = DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() };
        let answer: Answer<DeleteRangeResponse> = ours.ask(Method::DeleteRange, &request).await?;
        let refused = answer.err().context("it is deleted")?;
        ensure!(refused.text.contains("this deletes 6 keys, and 5 are let"), "{refused:?}");
    }
    Ok(())
}

/// Writers change everything all the time; each list is held against etcd's at its revision.
#[tokio::test]
async fn answers_are_those_of_etcd_while_writers_run() -> Result<()> {
    let stage = Stage::start("").await?;
    let (ours, theirs) = (stage.through().await?, stage.direct().await?);
    fill(&theirs).await?;
    let mut writers = JoinSet::new();
    for (seed, kv) in [stage.direct().await?, stage.through().await?].into_iter().enumerate() {
        writers.spawn(churn(kv, StdRng::seed_from_u64(seed as u64)));
    }
    // The keys first, to which the values come later.
    warm(&stage.seawall, &count(PODS)).await?;
    stage.warm(PODS).await?;
    let before = stage.answers().await?;
    let mut random = StdRng::seed_from_u64(3);
    let (requests, mut seen) = (newest(), 0);
    for round in 0..300 {
        let request = &requests[random.random_range(0..requests.len() - 1)];
        // Now and then at a revision that was the newest a moment ago.
        let revision = if round % 3 == 0 { seen } else { 0 };
        let request = RangeRequest { revision, ..request.clone() };
        let mine = ours.range(&request).await?.ok().context("an answer")?;
        let told = mine.header.context("a header")?.revision;
        // Serializable reads may be of a state that is a little older, as those of another member are.
        ensure!(told >= seen || request.serializable, "revision {told} after {seen}");
        seen = told;
        let revision = if revision > 0 { revision } else { told };
        let its = theirs.range(&RangeRequest { revision, ..request.clone() }).await?;
        let its = its.ok().context("an answer of etcd's")?;
        let parts = |response: RangeResponse| (response.kvs, response.more, response.count);
        ensure!(parts(mine) == parts(its), "{request:?} at {told}");
    }
    let answered = stage.answers().await? - before;
    ensure!(answered >= 250.0, "only {answered} came from memory");
    match writers.try_join_next() {
        None => Ok(()),
        Some(ended) => ended?,
    }
}

async fn churn(kv: Kv, mut random: StdRng) -> Result<()> {
    loop {
        let key = pod(random.random_range(0..150));
        match random.random_bool(0.7) {
            true => drop(kv.put(&key, vec![b'x'; random.random_range(0..200)]).await?),
            false => kv.delete(&key).await?,
        }
    }
}

pub(crate) const COUNTERS: &str = "/registry/counters/";
const WRITERS: usize = 3;

/// Writers that count, and what was acknowledged to them.
#[derive(Default)]
pub(crate) struct Counters {
    acknowledged: [AtomicU64; WRITERS],
    reads: AtomicU64,
    done: AtomicBool,
}

/// Reads, and those of them that lacked a write which was acknowledged before they were sent.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) reads: u64,
    pub(crate) stale: u64,
    /// Reads that failed.
    pub(crate) refused: u64,
}

impl Counters {
    fn key(writer: usize) -> String {
        format!("{COUNTERS}{writer}")
    }

    async fn write(self: Arc<Self>, kv: Kv, writer: usize) -> Result<()> {
        for count in 1.. {
            if self.done.load(SeqCst) {
                break;
            }
            // A write that failed may have happened, which is no less than was acknowledged.
            if kv.put(&Self::key(writer), count.to_string()).await.is_ok() {
                self.acknowledged[writer].store(count, SeqCst);
            }
        }
        Ok(())
    }

    async fn read(self: Arc<Self>, kv: Kv, request: RangeRequest) -> Result<Checked> {
        let mut checked = Checked::default();
        while !self.done.load(SeqCst) {
            let before = self.acknowledged.each_ref().map(|count| count.load(SeqCst));
            self.reads.fetch_add(1, SeqCst);
            let Ok(answer) = kv.range(&request).await? else {
                checked.refused += 1;
                continue;
            };
            checked.reads += 1;
            let is_stale = (0..WRITERS).any(|writer| {
                let seen = answer.kvs.iter().find(|kv| kv.key == Self::key(writer));
                let seen = seen.and_then(|kv| std::str::from_utf8(&kv.value).ok()?.parse().ok());
                seen.unwrap_or(0u64) < before[writer]
            });
            checked.stale += u64::from(is_stale);
        }
        Ok(checked)
    }
}

/// Writes by all `writers` while all `readers` read, until `meanwhile` has ended.
pub(crate) async fn check(
    writers: Vec<Kv>,
    readers: Vec<(Kv, RangeRequest)>,
    meanwhile: impl AsyncFnOnce(&Counters) -> Result<()>,
) -> Result<Checked> {
    let counters = Arc::new(Counters::default());
    let (mut writing, mut reading) = (JoinSet::new(), JoinSet::new());
    for (writer, kv) in writers.into_iter().enumerate() {
        writing.spawn(Arc::clone(&counters).write(kv, writer));
    }
    for (kv, request) in readers {
        reading.spawn(Arc::clone(&counters).read(kv, request));
    }
    meanwhile(&counters).await?;
    counters.done.store(true, SeqCst);
    let mut all = Checked::default();
    while let Some(checked) = reading.join_next().await {
        let checked = checked??;
        all.reads += checked.reads;
        all.stale += checked.stale;
        all.refused += checked.refused;
    }
    while let Some(written) = writing.join_next().await {
        written??;
    }
    Ok(all)
}

/// Waits until there were so many reads.
async fn so_many(counters: &Counters, reads: u64) -> Result<()> {
    eventually(DEADLINE, "reads", async || {
        let made = counters.reads.load(SeqCst);
        ensure!(made >= reads, "{made} of {reads}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_read_has_every_write_that_was_acknowledged_before() -> Result<()> {
    let stage = Stage::of(Cluster::builder().members(3).start().await?, "").await?;
    let another = seawall(&stage.etcd, &stage.etcd.endpoints(), "").await?;
    stage.direct().await?.put(COUNTERS, "").await?;
    stage.warm(COUNTERS).await?;
    warm(&another, &list(COUNTERS)).await?;
    let before = stage.answers().await?;
    let other = async || Kv::connect(another.address("main")?).await;
    let member = Kv::connect(stage.etcd.member(1).address()).await?;
    let writers = vec![stage.direct().await?, stage.through().await?, member];
    let requests = [
        list(COUNTERS),
        RangeRequest { limit: 100, ..list(COUNTERS) },
        RangeRequest { sort_order: SortOrder::Descend.into(), ..list(COUNTERS) },
    ];
    let mut readers = Vec::new();
    for request in requests.into_iter().cycle().take(6) {
        readers.push((stage.through().await?, request.clone()));
        readers.push((other().await?, request));
    }
    let checked = check(writers, readers, async |counters| so_many(counters, 2800).await).await?;
    ensure!(checked.stale == 0 && checked.refused == 0, "stale reads: {checked:?}");
    let answered = stage.answers().await? - before;
    ensure!(answered > 1000.0, "only {answered} of about 1400 came from memory");
    Ok(())
}

/// What the test above would see of a mirror that does not ask etcd how far it is: its feed is
/// late, and reads that may be stale are.
#[tokio::test]
async fn the_check_finds_reads_that_are_stale() -> Result<()> {
    let etcd = Cluster::single().await?;
    let late = FaultProxy::start(etcd.member(0).address()).await?;
    let endpoint = format!("http://{}", late.address());
    let seawall = seawall(&etcd, &[endpoint], "").await?;
    let stage = Stage { seawall, etcd };
    stage.direct().await?.put(COUNTERS, "").await?;
    stage.warm(COUNTERS).await?;
    late.set(Fault::Delay(Duration::from_millis(20)));
    let writers = || async { anyhow::Ok(vec![stage.direct().await?]) };
    let may_be_stale = RangeRequest { serializable: true, ..list(COUNTERS) };
    let readers = vec![(stage.through().await?, may_be_stale)];
    let checked =
        check(writers().await?, readers, async |counters| so_many(counters, 300).await).await?;
    ensure!(checked.stale > 0, "none was stale: {checked:?}");
    let readers = vec![(stage.through().await?, list(COUNTERS))];
    let checked =
        check(writers().await?, readers, async |counters| so_many(counters, 30).await).await?;
    ensure!(checked.stale == 0 && checked.refused == 0, "stale reads: {checked:?}");
    Ok(())
}
