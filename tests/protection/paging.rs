//! A list that was cut up is the list.

use crate::{Kv, Stage, list, scripted::Scripted, streams::streamed};
use anyhow::{Context, Result, ensure};
use prost::Message;
use rand::{Rng, SeedableRng, rngs::StdRng};
use seawall::etcd::{
    method::Method,
    proto::{
        etcdserverpb::{RangeRequest, RangeResponse, range_request::SortTarget},
        mvccpb::KeyValue,
    },
};
use seawall_testkit::SeawallProcess;
use std::{fs, future::Future, path::PathBuf, pin::pin};

const SMALL_PAGES: &str = "paging: {page_size: 64KiB}";
const PODS: &str = "/registry/pods/";
const KEYS: usize = 1_500;

async fn fill(kv: &Kv, random: &mut StdRng) -> Result<()> {
    for number in 0..KEYS {
        put_random(kv, number, random).await?;
    }
    Ok(())
}

async fn put_random(kv: &Kv, number: usize, random: &mut StdRng) -> Result<()> {
    let size = random.random_range(0..1_500);
    let key = format!("{PODS}ns-{}/pod-{number:04}", number % 7);
    kv.put(&key, vec![b'v'; size]).await?.ok().context("a put is refused").map(drop)
}

/// Puts and deletes for as long as `work` takes.
async fn while_writing<T>(
    writer: &Kv,
    seed: u64,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let writing = async {
        let mut random = StdRng::seed_from_u64(seed);
        loop {
            let number = random.random_range(0..KEYS);
            if random.random_bool(0.3) {
                let key = format!("{PODS}ns-{}/pod-{number:04}", number % 7);
                writer.delete(&key, "").await?.ok().context("a delete is refused")?;
            } else {
                put_random(writer, number, &mut random).await?;
            }
        }
        #[allow(unreachable_code)]
        anyhow::Ok(())
    };
    let mut work = pin!(work);
    tokio::select! {
        done = &mut work => done,
        ended = writing => ended.and_then(|()| anyhow::bail!("the writer has ended")),
    }
}

/// What `request` means at the revision that `answer` says it is of.
async fn at_its_revision(
    direct: &Kv,
    request: &RangeRequest,
    answer: &RangeResponse,
) -> Result<RangeResponse> {
    let header = answer.header.context("no header")?;
    let pinned = if request.revision > 0 { request.revision } else { header.revision };
    let request = RangeRequest { revision: pinned, ..request.clone() };
    direct.range(&request).await?.ok().context("etcd does not answer")
}

fn requests() -> Vec<RangeRequest> {
    let whole = list(PODS);
    let middle = RangeRequest { key: format!("{PODS}ns-3/pod-07").into(), ..whole.clone() };
    vec![
        whole.clone(),
        RangeRequest { keys_only: true, ..whole },
        middle,
        list("/registry/pods/ns-5/"),
        list("/registry/nothing/"),
    ]
}

#[tokio::test]
async fn lists_are_exact_while_writers_run() -> Result<()> {
    let stage = Stage::start(SMALL_PAGES).await?;
    let seed = rand::random();
    println!("seed {seed}");
    let (through, direct) = (stage.through().await?, stage.direct().await?);
    let writer = stage.direct().await?;
    fill(&direct, &mut StdRng::seed_from_u64(seed)).await?;
    let reading = async {
        // First without any knowledge of where to cut, then with what was learnt.
        for round in 0..12 {
            for request in requests() {
                let answer = through.range(&request).await?.ok().context("a list is refused")?;
                let expected = at_its_revision(&direct, &request, &answer).await?;
                ensure!(
                    (&answer.kvs, answer.count, answer.more)
                        == (&expected.kvs, expected.count, expected.more),
                    "round {round}: {request:?} is not what etcd had at {:?}: {} keys and {}",
                    answer.header,
                    answer.kvs.len(),
                    expected.kvs.len(),
                );
            }
        }
        Ok(())
    };
    while_writing(&writer, seed, reading).await
}

#[tokio::test]
async fn lists_at_a_revision_are_exact() -> Result<()> {
    let stage = Stage::start(SMALL_PAGES).await?;
    let (through, direct) = (stage.through().await?, stage.direct().await?);
    let writer = stage.direct().await?;
    fill(&direct, &mut StdRng::seed_from_u64(1)).await?;
    let revision = direct.revision().await?;
    let reading = async {
        for request in requests().into_iter().cycle().take(15) {
            let request = RangeRequest { revision, ..request };
            let before = direct.revision().await?;
            let answer = through.range(&request).await?.ok().context("a list is refused")?;
            let expected = at_its_revision(&direct, &request, &answer).await?;
            ensure!(answer.kvs == expected.kvs && answer.count == expected.count);
            let told = answer.header.context("no header")?.revision;
            ensure!(told >= before, "the header is of {told}, and {before} was acknowledged");
        }
        Ok(())
    };
    while_writing(&writer, 2, reading).await
}

#[tokio::test]
async fn a_list_of_the_present_does_not_fail_for_a_compaction() -> Result<()> {
    let stage = Stage::start(SMALL_PAGES).await?;
    let (through, direct) = (stage.through().await?, stage.direct().await?);
    let (writer, compactor) = (stage.direct().await?, stage.direct().await?);
    fill(&direct, &mut StdRng::seed_from_u64(3)).await?;
    let compacting = async {
        loop {
            let revision = compactor.revision().await?;
            // Refused where nothing was written since the last one.
            compactor.compact(revision).await.ok();
        }
        #[allow(unreachable_code)]
        anyhow::Ok(())
    };
    let reading = async {
        for _ in 0..20 {
            let answer = through.range(&list(PODS)).await?;
            ensure!(answer.is_ok(), "{answer:?}");
        }
        Ok(())
    };
    tokio::select! {
        read = while_writing(&writer, 4, reading) => read,
        _ = compacting => anyhow::bail!("the compactor has ended"),
    }
}

/// Pages were sorted each by itself, and read on behind keys that were not their largest: a client got
/// some keys twice and others never.
#[tokio::test]
async fn lists_whose_order_is_only_implied_are_exact() -> Result<()> {
    let stage = Stage::start(SMALL_PAGES).await?;
    let (through, direct) = (stage.through().await?, stage.direct().await?);
    fill(&direct, &mut StdRng::seed_from_u64(5)).await?;
    // So that versions differ, and no order is that of the keys.
    for number in (0..KEYS).rev().step_by(3) {
        put_random(&direct, number, &mut StdRng::seed_from_u64(number as u64)).await?;
    }
    let revision = direct.revision().await?;
    for target in [SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value] {
        // First with nothing known of where to cut, then in between, then kept.
        for revision in [0, revision, revision] {
            let request = RangeRequest { sort_target: target.into(), revision, ..list(PODS) };
            let answer = through.range(&request).await?.ok().context("a list is refused")?;
            let expected = at_its_revision(&direct, &request, &answer).await?;
            ensure!(answer.kvs == expected.kvs && answer.count == expected.count, "{request:?}");
            through.range(&list(PODS)).await?.ok().context("a list is refused")?;
        }
    }
    Ok(())
}

/// An etcd that tells what it was asked for, behind a Seawall.
struct Asked {
    etcd: Scripted,
    _seawall: SeawallProcess,
    kv: Kv,
}

impl Asked {
    async fn start(name: &str, objects: Vec<KeyValue>) -> Result<Self> {
        Self::with_mirror(name, objects, "mirror: {mode: off}").await
    }

    async fn with_mirror(name: &str, objects: Vec<KeyValue>, mirror: &str) -> Result<Self> {
        let etcd = Scripted::start().await?;
        etcd.has(objects);
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("paging-{name}.yaml"));
        let config = crate::text(&[etcd.endpoint()], SMALL_PAGES);
        fs::write(&path, config.replace("mirror: {mode: off}", mirror))?;
        let seawall = crate::seawall(&path).await?;
        let kv = Kv::connect(seawall.address("main")?).await?;
        Ok(Self { etcd, _seawall: seawall, kv })
    }

    /// What comes of `request`, and the ranges that etcd was asked for.
    async fn list(&self, request: &RangeRequest) -> Result<Vec<RangeRequest>> {
        let answer = self.kv.range(request).await?.ok().context("a list is refused")?;
        let expected = self.etcd.answer_to(request);
        ensure!(answer == expected, "{} keys, not {}", answer.kvs.len(), expected.kvs.len());
        Ok(self.etcd.take_lists())
    }

    /// The same as a stream.
    async fn stream(&self, request: &RangeRequest) -> Result<Vec<RangeRequest>> {
        let streamed = streamed(&self.kv, request).await?;
        let (answer, _) = streamed.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
        let expected = self.etcd.answer_to(request);
        ensure!(answer == expected, "{} keys, not {}", answer.kvs.len(), expected.kvs.len());
        Ok(self.etcd.take_lists())
    }

    /// Nothing that was asked for was the rest of a list without a limit, or many pages.
    fn check(&self, asked: &[RangeRequest]) -> Result<()> {
        for range in asked {
            ensure!(range.limit > 0 || range.range_end != list(PODS).range_end, "{range:?}");
            let bytes = self.etcd.answer_to(range).encoded_len();
            ensure!(bytes <= 4 * PAGE, "{bytes} bytes of {range:?}");
        }
        Ok(())
    }
}

const PAGE: usize = 64 << 10;

fn objects(number: usize, bytes: usize) -> Vec<KeyValue> {
    named("a", number, bytes)
}

fn named(namespace: &str, number: usize, bytes: usize) -> Vec<KeyValue> {
    let object = |number| KeyValue {
        key: format!("{PODS}{namespace}/{number:05}").into(),
        value: vec![b'v'; bytes].into(),
        ..KeyValue::default()
    };
    (0..number).map(object).collect()
}

/// After one page the first list of a collection asked for all the rest at once, which etcd then held.
#[tokio::test]
async fn no_list_asks_for_all_that_is_left() -> Result<()> {
    let asked = Asked::start("rest", objects(KEYS, 700)).await?;
    let first = asked.list(&list(PODS)).await?;
    ensure!(first.len() > 10, "{} pages", first.len());
    asked.check(&first)?;
    asked.check(&asked.list(&list(PODS)).await?)?;
    let third = asked.list(&list(PODS)).await?;
    asked.check(&third)?;
    ensure!(third.iter().filter(|range| range.limit > 0).count() == 1, "{third:?}");
    // It has grown behind the last key that was known.
    asked.etcd.has(objects(2 * KEYS, 700));
    asked.check(&asked.list(&list(PODS)).await?)?;
    let mut pages = Vec::new();
    for _ in 0..4 {
        pages.push(asked.list(&list(PODS)).await?.len());
    }
    ensure!(pages.iter().all(|number| *number == pages[0]), "{pages:?} pages");
    // Most have gone.
    asked.etcd.has(objects(KEYS / 5, 700));
    for _ in 0..3 {
        asked.check(&asked.stream(&list(PODS)).await?)?;
    }
    let few = asked.stream(&list(PODS)).await?.len();
    ensure!(few < 10, "{few} pages");
    Ok(())
}

/// For each page whose end is not known etcd counts all that follows it: in pages of common
/// size, 150,000 pods would be counted a thousand times.
#[tokio::test]
async fn what_is_not_known_is_read_in_few_pages() -> Result<()> {
    let asked = Asked::start("broad", objects(20_000, 700)).await?;
    let first = asked.list(&list(PODS)).await?;
    ensure!(first.len() < 100, "{} pages of 20,000 keys", first.len());
    let largest = first.iter().map(|range| asked.etcd.answer_to(range).encoded_len()).max();
    ensure!(largest < Some(32 * PAGE), "{largest:?} bytes");
    // Where to cut is known from all of them.
    let second = asked.list(&list(PODS)).await?;
    ensure!(second.len() > 200, "{} pages", second.len());
    asked.check(&second)
}

/// All that was before the first key known of a namespace was asked for at once, and what was between two.
#[tokio::test]
async fn what_is_between_namespaces_is_read_with_a_limit() -> Result<()> {
    let all: Vec<_> = ["a", "b", "c"].into_iter().flat_map(|name| named(name, KEYS, 700)).collect();
    let asked = Asked::start("between", all).await?;
    let namespace = |name: &str| list(&format!("{PODS}{name}/"));
    for name in ["c", "b"] {
        asked.check(&asked.list(&namespace(name)).await?)?;
    }
    for name in ["a", "b", "c"] {
        asked.check(&asked.list(&list(PODS)).await?)?;
        asked.check(&asked.list(&namespace(name)).await?)?;
    }
    let known = asked.list(&list(PODS)).await?;
    ensure!(known.iter().filter(|range| range.limit > 0).count() == 1, "{known:?}");
    Ok(())
}

/// What had grown between two known keys was asked for whole before each of its pages.
#[tokio::test]
async fn what_is_too_large_is_asked_for_once() -> Result<()> {
    let asked = Asked::start("large", objects(KEYS, 700)).await?;
    asked.stream(&list(PODS)).await?;
    asked.etcd.has(objects(KEYS, 7_000));
    let ranges = asked.stream(&list(PODS)).await?;
    let too_large =
        ranges.iter().filter(|range| asked.etcd.answer_to(range).encoded_len() > 4 * PAGE);
    let (tried, known) = (too_large.count(), KEYS * 700 / PAGE);
    ensure!(tried < 2 * known, "{tried} of {} ranges were too large", ranges.len());
    Ok(())
}

/// A stream whose first page was too large was read from whichever member, however old its state.
#[tokio::test]
async fn a_page_tried_again_is_as_fresh_as_the_first() -> Result<()> {
    let asked = Asked::start("fresh", objects(200, 50_000)).await?;
    let ranges = asked.stream(&list(PODS)).await?;
    let unpinned: Vec<_> = ranges.iter().filter(|range| range.revision == 0).collect();
    ensure!(unpinned.len() > 1, "the first page is not too large: {ranges:?}");
    ensure!(unpinned.iter().all(|range| !range.serializable), "{unpinned:?}");
    ensure!(ranges.iter().all(|range| range.serializable == (range.revision > 0)), "{ranges:?}");
    // Where any member will do for the client, none needs the others.
    let stale = RangeRequest { serializable: true, ..list(PODS) };
    let ranges = asked.stream(&stale).await?;
    ensure!(ranges.iter().all(|range| range.serializable), "{ranges:?}");
    Ok(())
}

/// Where keys alone were cut, their objects were far too many for one page; and where objects were cut
/// was forgotten when keys alone were read.
#[tokio::test]
async fn keys_alone_do_not_say_where_to_cut() -> Result<()> {
    let asked = Asked::start("keys", objects(KEYS, 3_000)).await?;
    let keys = RangeRequest { keys_only: true, ..list(PODS) };
    let ranges = asked.stream(&keys).await?;
    ensure!(ranges.len() > 3 && ranges.iter().all(|range| range.limit > 0), "{ranges:?}");
    let unlimited = asked.stream(&list(PODS)).await?;
    ensure!(unlimited.iter().all(|range| range.limit > 0), "{unlimited:?}");
    // Now it is known.
    asked.check(&asked.list(&list(PODS)).await?)?;
    let before = asked.list(&list(PODS)).await?;
    asked.stream(&keys).await?;
    let after = asked.list(&list(PODS)).await?;
    ensure!(after.len() == before.len(), "{} pages, then {}", before.len(), after.len());
    Ok(())
}

/// The mirror read all that was left of a collection in one message, however large, and began anew
/// when that took too long.
#[tokio::test]
async fn a_collection_is_loaded_page_by_page() -> Result<()> {
    let mirror = "mirror: {mode: enforce, pinned: [/registry/pods]}";
    let asked = Asked::with_mirror("load", objects(200, 5_000), mirror).await?;
    // Of 100 keys, too large; of 50; and what is left by 25.
    let ranges = asked.etcd.lists(8).await?;
    asked.check(&ranges[1..])
}

/// A client of a later etcd did not get what that says besides.
#[tokio::test]
async fn what_a_later_etcd_says_passes_with_a_list() -> Result<()> {
    let asked = Asked::start("later", objects(20, 700)).await?;
    asked.etcd.say_unheard_of(b"\x48\x01");
    let page = RangeRequest { limit: 10, ..list(PODS) };
    let reply = asked.kv.client.unary(Method::Range.path(), &[], &page.encode_to_vec()).await?;
    let answer = reply.messages.first().context("a list is refused")?;
    ensure!(answer.ends_with(b"\x48\x01"), "what etcd said is lost");
    Ok(())
}
