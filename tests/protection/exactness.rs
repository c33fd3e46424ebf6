//! Whatever is asked while others write: the answer is what etcd had at the revision it names.

use crate::{Kv, Stage, list, streams::streamed};
use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use seawall::etcd::proto::etcdserverpb::{
    RangeRequest, RangeResponse,
    range_request::{SortOrder, SortTarget},
};
use seawall_testkit::Cluster;
use std::future::Future;

const PAGES: &str = "paging: {page_size: 64KiB}";
const PODS: &str = "/registry/pods/";
const KEYS: usize = 3_000;
const WRITERS: u64 = 3;
const TARGETS: [SortTarget; 4] =
    [SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];

fn key(number: usize) -> String {
    format!("{PODS}ns-{}/pod-{number:04}", number % 7)
}

async fn put(kv: &Kv, number: usize, random: &mut StdRng) -> Result<()> {
    let value = vec![b'v'; random.random_range(200..2_000)];
    kv.put(&key(number), value).await?.ok().context("a put is refused").map(drop)
}

/// Writes all keys, several at once.
async fn fill(kv: &Kv, seed: u64) -> Result<()> {
    let all: Vec<_> = (0..KEYS).collect();
    let parts = all.chunks(KEYS / 16).map(|part| async move {
        let mut random = StdRng::seed_from_u64(seed ^ part[0] as u64);
        for number in part {
            put(kv, *number, &mut random).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(parts).await.map(drop)
}

/// Puts, deletes and creates below the prefix until it is dropped.
async fn write(kv: &Kv, seed: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        let number = random.random_range(0..KEYS + KEYS / 10);
        match random.random_range(0..10) {
            0..3 => _ = kv.delete(&key(number), "").await?.ok().context("a delete is refused")?,
            // Those that are there stay as they are.
            3..5 => _ = kv.create(&key(number), "new").await?.ok().context("not created")?,
            _ => put(kv, number, &mut random).await?,
        }
    }
}

/// Does `work` while several write at etcd.
async fn while_writing(
    etcd: &Cluster,
    seed: u64,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    let writing = (0..WRITERS).map(|writer| async move {
        let member = etcd.member(writer as usize % etcd.members().len());
        let kv = Kv::connect(member.address()).await?;
        write(&kv, seed.wrapping_add(writer)).await
    });
    tokio::select! {
        done = work => done,
        ended = try_join_all(writing) => ended.and_then(|_| anyhow::bail!("the writers end")),
    }
}

/// A range as nobody would ask for it, or just so.
fn any_range(random: &mut StdRng, revisions: &[i64]) -> RangeRequest {
    let number = |random: &mut StdRng| random.random_range(0..KEYS + KEYS / 10);
    let prefixes = [PODS, "/registry/pods/ns-3/", "/registry/pods/ns", "/registry/no/", "/"];
    let mut request = list(prefixes.choose(random).expect("there are some"));
    match random.random_range(0..6) {
        0 => request.key = key(number(random)).into(),
        1 => request.range_end = key(number(random)).into(),
        2 => {
            (request.key, request.range_end) =
                (key(number(random)).into(), key(number(random)).into())
        }
        3 => request.range_end = "\0".into(),
        _ => {}
    }
    match random.random_range(0..10) {
        0 => request.keys_only = true,
        1 => request.count_only = true,
        2 => request.limit = *[1, 40, 500, 2_000, 10_000].choose(random).expect("there are some"),
        3 => {
            request.sort_order = SortOrder::Descend.into();
            request.sort_target = SortTarget::Mod.into();
        }
        4 => request.min_mod_revision = *revisions.choose(random).unwrap_or(&0),
        // In no order, says the client, and etcd sorts it all the same.
        5..7 => request.sort_target = (*TARGETS.choose(random).expect("there are some")).into(),
        _ => {}
    }
    if random.random_bool(0.3) {
        request.revision = *revisions.choose(random).unwrap_or(&0);
    }
    request
}

/// etcd's own answer at the revision that `answer` is of.
async fn expected(
    direct: &Kv,
    request: &RangeRequest,
    answer: &RangeResponse,
) -> Result<RangeResponse> {
    let told = answer.header.context("no header")?.revision;
    let revision = if request.revision > 0 { request.revision } else { told };
    let request = RangeRequest { revision, ..request.clone() };
    direct.range(&request).await?.ok().context("etcd does not answer")
}

fn check(request: &RangeRequest, got: &RangeResponse, expected: &RangeResponse) -> Result<()> {
    let (one, other) = (got.header.context("no header")?, expected.header.context("no header")?);
    ensure!(one.cluster_id == other.cluster_id && one.member_id > 0 && one.raft_term > 0);
    ensure!(one.revision <= other.revision, "it names a revision that is yet to come");
    let differs = got.kvs.iter().zip(&expected.kvs).position(|(one, other)| one != other);
    ensure!(
        (&got.kvs, got.count, got.more) == (&expected.kvs, expected.count, expected.more),
        "{request:?} at {}: {} keys, count {}, more {}; etcd has {}, {}, {}; the first that \
         differs is {differs:?}",
        one.revision,
        got.kvs.len(),
        got.count,
        got.more,
        expected.kvs.len(),
        expected.count,
        expected.more,
    );
    Ok(())
}

/// Asks through Seawall for all kinds of ranges, and etcd for the same.
async fn compare(stage: &Stage, through: &Kv, seed: u64, rounds: usize) -> Result<()> {
    let direct = stage.direct().await?;
    let streams = stage.etcd.binaries().version() < (3, 7);
    let mut random = StdRng::seed_from_u64(seed);
    let mut revisions = Vec::new();
    for round in 0..rounds {
        revisions.push(direct.revision().await?);
        // The first is the list that is to be cut up, with nothing known of where.
        let request = if round == 0 { list(PODS) } else { any_range(&mut random, &revisions) };
        let before = *revisions.last().expect("just put there");
        let answer = through.range(&request).await?;
        let answer = answer.map_err(|refused| anyhow::anyhow!("{request:?}: {refused:?}"))?;
        ensure!(
            answer.header.is_some_and(|header| header.revision >= before),
            "{request:?} is old"
        );
        check(&request, &answer, &expected(&direct, &request, &answer).await?)?;
        let by_key = request.sort_order == 0 && request.sort_target == 0;
        if streams && by_key && request.min_mod_revision == 0 {
            let stream = streamed(through, &request).await?;
            let (answer, _) = stream.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
            let expected = expected(&direct, &request, &answer).await?;
            check(&request, &answer, &expected).context("as a stream")?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_range_is_exact_while_several_write() -> Result<()> {
    let stage = Stage::start(PAGES).await?;
    let seed = rand::random();
    fill(&stage.direct().await?, seed).await?;
    let comparing = async {
        compare(&stage, &stage.through().await?, seed, 40).await?;
        for cold in 1..3 {
            let another = stage.another().await?;
            let kv = Kv::connect(another.address("main")?).await?;
            compare(&stage, &kv, seed.wrapping_add(cold), 8).await?;
        }
        Ok(())
    };
    while_writing(&stage.etcd, seed, comparing).await.with_context(|| format!("seed {seed}"))
}

/// Pages after the first may come from members that are behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_exact_whichever_member_gives_their_pages() -> Result<()> {
    let etcd = Cluster::builder().members(3).start().await?;
    let stage = Stage::of(etcd, PAGES).await?;
    let seed = rand::random();
    fill(&stage.direct().await?, seed).await?;
    let comparing = async {
        let readers = (0..3).map(|reader| {
            let stage = &stage;
            async move {
                let kv = stage.through().await?;
                compare(stage, &kv, seed.wrapping_add(reader), 12).await
            }
        });
        try_join_all(readers).await.map(drop)
    };
    while_writing(&stage.etcd, seed, comparing).await.with_context(|| format!("seed {seed}"))
}
