//! What may go wrong beneath the mirror: reads stay right, and come from memory again afterwards.

use crate::{
    DEADLINE, Stage,
    kv::{Answer, Kv, count, list, one},
    operator, reads, seawall, seawall_by, warm,
};
use anyhow::{Context, Result, ensure};
use seawall::etcd::{
    method::Method,
    proto::etcdserverpb::{AuthenticateRequest, AuthenticateResponse, RangeRequest, RangeResponse},
};
use seawall_testkit::{Cluster, Fault, FaultProxy, LogLine, Pki, SeawallProcess, eventually};
use serde_json::Value;
use std::{fs, path::Path, process::Command};

const PODS: &str = "/registry/pods/";

fn pod(number: usize) -> String {
    format!("{PODS}default/{number:03}")
}

/// One etcd that Seawall reaches through a proxy which may fail, with pods in memory.
struct Faulty {
    stage: Stage,
    proxy: FaultProxy,
}

impl Faulty {
    async fn start(mirror: &str) -> Result<Self> {
        let etcd = Cluster::single().await?;
        let proxy = FaultProxy::start(etcd.member(0).address()).await?;
        let seawall = seawall(&etcd, &[format!("http://{}", proxy.address())], mirror).await?;
        let this = Self { stage: Stage { seawall, etcd }, proxy };
        let direct = this.stage.direct().await?;
        for number in 0..20 {
            direct.put(&pod(number), "1").await?;
        }
        this.stage.warm(PODS).await?;
        Ok(this)
    }

    /// No connection is open and none can be opened, and the feed has found that out.
    async fn cut(&self) -> Result<()> {
        self.proxy.set(Fault::Refuse);
        self.proxy.cut();
        logged(&self.stage.seawall, "mirror: feed lost").await
    }
}

async fn logged(seawall: &SeawallProcess, message: &str) -> Result<()> {
    seawall.log_contains(DEADLINE, message, |line| line.message() == message).await.map(drop)
}

fn times(seawall: &SeawallProcess, message: &str) -> usize {
    seawall.log().iter().map(LogLine::message).filter(|logged| *logged == message).count()
}

/// What is shown of a collection.
async fn shown(seawall: &SeawallProcess, name: &str) -> Result<Value> {
    let (_, text) = operator::get(seawall.admin()?, "/mirror").await?;
    let shown: Value = serde_json::from_str(&text)?;
    let collections = shown["clusters"]["main"]["collections"].as_array().context("none")?;
    let named = collections.iter().find(|one| one["collection"] == name);
    named.cloned().with_context(|| format!("no {name} in {text}"))
}

/// The answer as etcd gives it when nothing is written meanwhile.
async fn agree(ours: &Kv, theirs: &Kv, request: &RangeRequest) -> Result<RangeResponse> {
    let (mine, its) = (ours.range(request).await?, theirs.range(request).await?);
    ensure!(mine == its, "{request:?}:\n{mine:?}\n{its:?}");
    mine.ok().context("refused")
}

#[tokio::test]
async fn a_feed_that_is_cut_goes_on_where_it_was() -> Result<()> {
    let Faulty { stage, proxy } = &Faulty::start("").await?;
    let (ours, theirs) = (stage.through().await?, stage.direct().await?);
    proxy.cut();
    for round in 0..50 {
        theirs.put(&pod(round % 20), format!("{round}")).await?;
        // Those that were under way as it was cut have failed, and may.
        if let Ok(answer) = ours.range(&list(PODS)).await? {
            ensure!(Ok(answer) == theirs.range(&list(PODS)).await?, "stale in round {round}");
        }
    }
    logged(&stage.seawall, "mirror: feed is back").await?;
    stage.warm(PODS).await?;
    agree(&ours, &theirs, &list(PODS)).await?;
    ensure!(stage.metric("seawall_mirror_resets_total").await? == 0.0, "it began anew");
    ensure!(stage.metric("seawall_mirror_loads_total").await? == 1.0, "it was loaded again");
    ensure!(stage.metric("seawall_mirror_passes_total").await? > 0.0, "nothing was passed on");
    Ok(())
}

#[tokio::test]
async fn an_outage_is_told_once() -> Result<()> {
    let faulty = Faulty::start("").await?;
    let Faulty { stage, proxy } = &faulty;
    faulty.cut().await?;
    let before = proxy.connections().refused;
    eventually(DEADLINE, "it to try again", async || {
        let refused = proxy.connections().refused - before;
        ensure!(refused > 10, "{refused} times");
        Ok(())
    })
    .await?;
    proxy.heal();
    logged(&stage.seawall, "mirror: feed is back").await?;
    ensure!(times(&stage.seawall, "mirror: feed lost") == 1, "it is told more than once");
    Ok(())
}

#[tokio::test]
async fn it_begins_anew_when_what_it_missed_is_compacted() -> Result<()> {
    let faulty = Faulty::start("").await?;
    let Faulty { stage, proxy } = &faulty;
    let (ours, theirs) = (stage.through().await?, stage.direct().await?);
    faulty.cut().await?;
    for number in 0..10 {
        theirs.delete(&pod(number)).await?;
        theirs.put(&pod(number + 15), "2").await?;
    }
    theirs.compact(theirs.revision().await?).await?;
    proxy.heal();
    logged(&stage.seawall, "mirror: begins anew").await?;
    stage.warm(PODS).await?;
    let answer = agree(&ours, &theirs, &list(PODS)).await?;
    ensure!(answer.count == 15, "{} pods", answer.count);
    ensure!(stage.metric("seawall_mirror_resets_total").await? == 1.0, "it went on");
    Ok(())
}

#[tokio::test]
async fn etcd_is_killed_and_paused() -> Result<()> {
    let Faulty { stage, .. } = &Faulty::start("").await?;
    let (ours, member) = (stage.through().await?, stage.etcd.member(0));
    member.kill().await?;
    // It cannot say how far it is, so nobody else may.
    let refused = ours.range(&list(PODS)).await?;
    ensure!(refused.is_err(), "answered for an etcd that is not there: {refused:?}");
    member.restart().await?;
    let theirs = stage.direct().await?;
    theirs.put(&pod(3), "after the restart").await?;
    stage.warm(PODS).await?;
    agree(&ours, &theirs, &list(PODS)).await?;

    member.pause()?;
    let waiting = ours.with("grpc-timeout", "300m");
    let refused = waiting.range(&list(PODS)).await?.err().context("a paused etcd has answered")?;
    ensure!(refused.code == tonic::Code::DeadlineExceeded, "{refused:?}");
    member.resume()?;
    theirs.put(&pod(3), "after the pause").await?;
    stage.warm(PODS).await?;
    agree(&stage.through().await?, &theirs, &list(PODS)).await?;
    ensure!(stage.metric("seawall_mirror_resets_total").await? == 0.0, "it began anew");
    Ok(())
}

#[tokio::test]
async fn reads_stay_fresh_while_members_fail() -> Result<()> {
    let stage = Stage::of(Cluster::builder().members(3).start().await?, "").await?;
    stage.direct().await?.put(reads::COUNTERS, "").await?;
    stage.warm(reads::COUNTERS).await?;
    let writers = vec![stage.through().await?, stage.through().await?];
    let readers = vec![
        (stage.through().await?, list(reads::COUNTERS)),
        (stage.through().await?, RangeRequest { limit: 50, ..list(reads::COUNTERS) }),
    ];
    let before = stage.answers().await?;
    let checked = reads::check(writers, readers, async |_| {
        let leader = stage.etcd.leader().await?.index();
        let next = (leader + 1) % 3;
        stage.etcd.move_leader(next).await?;
        stage.warm(reads::COUNTERS).await?;
        stage.etcd.member(next).kill().await?;
        stage.etcd.leader().await?;
        stage.warm(reads::COUNTERS).await?;
        stage.etcd.member(next).restart().await
    })
    .await?;
    ensure!(checked.stale == 0, "stale reads: {checked:?}");
    let answered = stage.answers().await? - before;
    ensure!(answered > 50.0, "{answered} came from memory: {checked:?}");
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-r").args([from, to]).status()?;
    ensure!(copied.success(), "cp: {copied}");
    Ok(())
}

/// Writes, is cut off from Seawall, and has its data put back to what they were before `happened`;
/// `instead` is written in its place before Seawall sees it again.
async fn put_back(
    faulty: &Faulty,
    happened: impl AsyncFnOnce(&Kv) -> Result<()>,
    instead: impl AsyncFnOnce(&Kv) -> Result<()>,
) -> Result<()> {
    let Faulty { stage, proxy } = faulty;
    let member = stage.etcd.member(0);
    let data = stage.etcd.dir().join(member.name());
    let backup = stage.etcd.dir().join("backup");
    member.terminate().await?;
    copy(&data, &backup)?;
    member.restart().await?;
    happened(&stage.direct().await?).await?;
    stage.warm(PODS).await?;
    // In memory is what will never have been.
    agree(&stage.through().await?, &stage.direct().await?, &list(PODS)).await?;
    proxy.set(Fault::Refuse);
    proxy.cut();
    member.kill().await?;
    fs::remove_dir_all(&data)?;
    fs::rename(&backup, &data)?;
    member.restart().await?;
    instead(&stage.direct().await?).await?;
    proxy.heal();
    Ok(())
}

/// Reads agree with etcd from the first one that is answered on, and come from memory again.
async fn is_followed_anew(faulty: &Faulty) -> Result<()> {
    let stage = &faulty.stage;
    let (ours, theirs) = (stage.through().await?, stage.direct().await?);
    eventually(DEADLINE, "an answer", async || {
        let answer = ours.range(&list(PODS)).await?.ok().context("refused")?;
        ensure!(Ok(answer) == theirs.range(&list(PODS)).await?, "of the store before");
        Ok(())
    })
    .await?;
    for _ in 0..20 {
        agree(&ours, &theirs, &list(PODS)).await?;
    }
    stage.warm(PODS).await?;
    agree(&ours, &theirs, &list(PODS)).await?;
    ensure!(stage.metric("seawall_mirror_resets_total").await? >= 1.0, "it went on");
    Ok(())
}

#[tokio::test]
async fn a_store_that_was_put_back_is_not_answered_from_the_old_one() -> Result<()> {
    let faulty = Faulty::start("").await?;
    put_back(&faulty, async |kv| kv.put(&pod(1), "never was").await.map(drop), async |_| Ok(()))
        .await?;
    is_followed_anew(&faulty).await
}

/// Nothing tells the two apart by their revisions.
#[tokio::test]
async fn a_store_that_was_put_back_and_has_gone_on_is_another_one() -> Result<()> {
    let faulty = Faulty::start("").await?;
    put_back(
        &faulty,
        async |kv| kv.put(&pod(1), "never was").await.map(drop),
        async |kv| {
            for number in 5..15 {
                kv.put(&pod(number), "was instead").await?;
            }
            Ok(())
        },
    )
    .await?;
    is_followed_anew(&faulty).await
}

/// The same last write after another one is beyond what the feed can tell: the comparison finds it.
#[tokio::test]
async fn a_difference_is_found_and_dropped() -> Result<()> {
    let faulty = Faulty::start("verify_interval: 1s").await?;
    let stage = &faulty.stage;
    put_back(
        &faulty,
        async |kv| {
            kv.put(&pod(1), "never was").await?;
            kv.put("/last", "the same").await.map(drop)
        },
        async |kv| {
            kv.put(&pod(2), "was instead").await?;
            kv.put("/last", "the same").await.map(drop)
        },
    )
    .await?;
    logged(&stage.seawall, "mirror: differs from etcd, and is dropped").await?;
    let (ours, theirs) = (stage.through().await?, stage.direct().await?);
    agree(&ours, &theirs, &list(PODS)).await?;
    ensure!(stage.metric("seawall_mirror_mismatches_total").await? == 1.0, "it is not counted");
    let state = shown(&stage.seawall, "/registry/pods").await?;
    ensure!(state["why"] == "it differed from etcd", "{state}");
    Ok(())
}

/// Restored by etcd's own means, which give it another id.
#[tokio::test]
async fn a_store_of_another_cluster_is_another_one() -> Result<()> {
    let faulty = Faulty::start("").await?;
    let Faulty { stage, proxy } = &faulty;
    let (member, etcd) = (stage.etcd.member(0), &stage.etcd);
    let Some(etcdutl) = etcd.binaries().etcdutl() else { return Ok(()) };
    let before = stage.direct().await?.header().await?;
    let snapshot = etcd.dir().join("snapshot").display().to_string();
    etcd.etcdctl(&["snapshot", "save", &snapshot]).await?.success()?;
    stage.direct().await?.put(&pod(1), "never was").await?;
    stage.warm(PODS).await?;
    proxy.set(Fault::Refuse);
    proxy.cut();
    member.kill().await?;
    let data = etcd.dir().join(member.name());
    fs::remove_dir_all(&data)?;
    let cluster = format!("{}={}", member.name(), member.peer_url());
    let restored = Command::new(etcdutl)
        .args(["snapshot", "restore", &snapshot, "--name", member.name(), "--data-dir"])
        .arg(&data)
        .args(["--initial-cluster", &cluster, "--initial-cluster-token", "another"])
        .args(["--initial-advertise-peer-urls", &member.peer_url()])
        .output()?;
    ensure!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    member.restart().await?;
    let direct = stage.direct().await?;
    ensure!(direct.header().await?.cluster_id != before.cluster_id, "it has the same id");
    for number in 5..15 {
        direct.put(&pod(number), "was instead").await?;
    }
    proxy.heal();
    is_followed_anew(&faulty).await
}

/// Values that grow over the budget are given up; keys remain.
#[tokio::test]
async fn memory_is_short() -> Result<()> {
    let memory = "memory: 64MiB\nhistory: 1MiB";
    let stage = Stage::start(memory).await?;
    let (ours, theirs) = (stage.through().await?, stage.direct().await?);
    let large = vec![b'x'; 1 << 20];
    for number in 0..40 {
        theirs.put(&pod(number), large.clone()).await?;
    }
    stage.warm(PODS).await?;
    for number in 40..70 {
        theirs.put(&pod(number), large.clone()).await?;
    }
    eventually(DEADLINE, "values to be given up", async || {
        ensure!(stage.metric("seawall_mirror_evictions_total").await? >= 1.0, "none were");
        let held = stage.metric("seawall_mirror_held_bytes").await?;
        ensure!(held < f64::from(2 << 20), "{held} bytes are held");
        Ok(())
    })
    .await?;
    only_keys_are_held(&stage).await?;
    agree(&ours, &theirs, &list(PODS)).await?;

    // Another one finds them too many at once.
    let Stage { etcd, seawall: _ } = stage;
    let stage = Stage::of(etcd, memory).await?;
    let ours = stage.through().await?;
    eventually(DEADLINE, "a load that fails", async || {
        agree(&ours, &theirs, &RangeRequest { limit: 3, ..list(PODS) }).await?;
        ensure!(times(&stage.seawall, "mirror: not loaded") > 0, "it is not tried");
        Ok(())
    })
    .await?;
    warm(&stage.seawall, &count(PODS)).await?;
    only_keys_are_held(&stage).await?;
    let failed = stage.metric("seawall_mirror_loads_failed_total").await?;
    ensure!(failed == 1.0, "it was tried {failed} times");
    Ok(())
}

async fn only_keys_are_held(stage: &Stage) -> Result<()> {
    let (ours, theirs) = (stage.through().await?, stage.direct().await?);
    let before = stage.answers().await?;
    agree(&ours, &theirs, &RangeRequest { limit: 3, ..list(PODS) }).await?;
    ensure!(stage.answers().await? == before, "values came from memory");
    agree(&ours, &theirs, &count(PODS)).await?;
    ensure!(stage.answers().await? == before + 1.0, "the count did not come from memory");
    let shown = shown(&stage.seawall, "/registry/pods").await?;
    ensure!(shown["state"] == "ready" && shown["keys"] == 70, "{shown}");
    Ok(())
}

/// `mirror.history` was taken over for collections alone that were loaded after it had changed.
#[tokio::test]
async fn a_reload_makes_the_past_of_what_is_in_memory_shorter() -> Result<()> {
    let stage = Stage::start("history: 1MiB").await?;
    let (ours, theirs) = (stage.through().await?, stage.direct().await?);
    theirs.put(&pod(0), "").await?;
    stage.warm(PODS).await?;
    let revision = theirs.put(&pod(0), "1").await?.revision;
    for _ in 0..10 {
        theirs.put(&pod(0), vec![b'x'; 10 << 10]).await?;
    }
    let past = RangeRequest { revision, ..list(PODS) };
    warm(&stage.seawall, &past).await?;
    let mut files = fs::read_dir(stage.etcd.dir())?.filter_map(|file| Some(file.ok()?.path()));
    let config = files.find(|file| file.extension().is_some_and(|end| end == "yaml"));
    let config = config.context("no configuration")?;
    fs::write(&config, fs::read_to_string(&config)?.replace("1MiB", "20KiB"))?;
    stage.seawall.reload()?;
    eventually(DEADLINE, "a past that is forgotten", async || {
        let before = stage.answers().await?;
        agree(&ours, &theirs, &past).await?;
        ensure!(stage.answers().await? == before, "it came from memory");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn it_is_switched_under_load() -> Result<()> {
    let stage = Stage::start("").await?;
    let admin = stage.seawall.admin()?;
    stage.direct().await?.put(reads::COUNTERS, "").await?;
    stage.warm(reads::COUNTERS).await?;
    let writers = vec![stage.direct().await?, stage.through().await?];
    let readers = vec![
        (stage.through().await?, list(reads::COUNTERS)),
        (stage.through().await?, RangeRequest { limit: 50, ..list(reads::COUNTERS) }),
    ];
    let checked = reads::check(writers, readers, async |_| {
        for _ in 0..2 {
            operator::post(admin, "/protection/mirror?mode=observe").await?;
            let (before, would) = (stage.answers().await?, "seawall_mirror_would_answer_total");
            let counted = stage.metric(would).await?;
            eventually(DEADLINE, "reads it would have answered", async || {
                ensure!(stage.metric(would).await? > counted + 20.0, "too few");
                Ok(())
            })
            .await?;
            // Those that were under way as it was switched are two.
            ensure!(stage.answers().await? <= before + 2.0, "it answers while it observes");
            operator::post(admin, "/protection/mirror?mode=off").await?;
            eventually(DEADLINE, "everything to be dropped", async || {
                ensure!(stage.metric("seawall_mirror_live").await? == 0.0, "it is followed");
                ensure!(stage.metric("seawall_mirror_collections").await? == 0.0, "it is held");
                Ok(())
            })
            .await?;
            operator::post(admin, "/protection/mirror?mode=on").await?;
            stage.warm(reads::COUNTERS).await?;
        }
        Ok(())
    })
    .await?;
    ensure!(checked.stale == 0 && checked.refused == 0, "{checked:?}");
    let told = times(&stage.seawall, "mirror: feed lost");
    ensure!(told == 0, "it was switched off, not lost");
    Ok(())
}

#[tokio::test]
async fn some_reads_are_for_etcd_itself() -> Result<()> {
    let stage = Stage::start("").await?;
    let (ours, theirs) = (stage.through().await?, stage.direct().await?);
    for number in 0..20 {
        theirs.put(&pod(number), "1").await?;
    }
    stage.warm(PODS).await?;
    let before = stage.answers().await?;
    // As kube-apiserver compares its cache.
    let revision = theirs.revision().await?;
    agree(&ours, &theirs, &RangeRequest { revision, limit: 10_000, ..list(PODS) }).await?;
    agree(&ours, &theirs, &one("/registry/health")).await?;
    let ours = ours.with("seawall-override", "mirror");
    agree(&ours, &theirs, &list(PODS)).await?;
    // Whose it is only etcd knows.
    let ours = stage.through().await?.with("token", "of another time");
    let theirs = theirs.with("token", "of another time");
    ensure!(ours.range(&list(PODS)).await? == theirs.range(&list(PODS)).await?, "by a token");
    ensure!(stage.answers().await? == before, "they came from memory");
    Ok(())
}

async fn run(etcd: &Cluster, commands: &[&[&str]]) -> Result<()> {
    for command in commands {
        etcd.etcdctl(command).await?.success()?;
    }
    Ok(())
}

const USERS: [&[&str]; 6] = [
    &["user", "add", "root:p"],
    &["user", "grant-role", "root", "root"],
    &["role", "add", "reader"],
    &["role", "grant-permission", "reader", "read", PODS, "--prefix=true"],
    &["user", "add", "alice:p"],
    &["user", "grant-role", "alice", "reader"],
];

#[tokio::test]
async fn nobody_is_answered_past_etcds_authentication() -> Result<()> {
    let stage = Stage::start("").await?;
    let theirs = stage.direct().await?;
    for number in 0..20 {
        theirs.put(&pod(number), "1").await?;
    }
    stage.warm(PODS).await?;
    run(&stage.etcd, &USERS).await?;
    run(&stage.etcd, &[&["auth", "enable"]]).await?;
    let ours = stage.through().await?;
    let anybody = async |request: &RangeRequest| -> Result<Answer<RangeResponse>> {
        ours.range(request).await
    };
    let refused = anybody(&list(PODS)).await?.err().context("anybody reads")?;
    ensure!(refused.text.contains("user name is empty"), "{refused:?}");
    // A member's own word is not asked for each time.
    let serializable = RangeRequest { serializable: true, ..list(PODS) };
    eventually(DEADLINE, "reads of a member to be refused", async || {
        ensure!(anybody(&serializable).await?.is_err(), "anybody reads");
        Ok(())
    })
    .await?;
    let off = "mirror: off, etcd does not let it watch all keys";
    logged(&stage.seawall, off).await?;
    let before = stage.answers().await?;
    let request = AuthenticateRequest { name: "alice".into(), password: "p".into() };
    let login: Answer<AuthenticateResponse> = ours.ask(Method::Authenticate, &request).await?;
    let token = login.ok().context("no token")?.token;
    let alice = stage.through().await?.with("token", &token);
    for request in [list(PODS), count(PODS), serializable] {
        let answer = alice.range(&request).await?.ok().context("alice may read")?;
        ensure!(answer.count == 20, "{answer:?}");
    }
    ensure!(stage.answers().await? == before, "memory has answered");
    Ok(())
}

/// Seawall's own certificate names a user who may read pods only.
#[tokio::test]
async fn a_feed_that_may_not_watch_everything_is_off() -> Result<()> {
    let pki = Pki::new()?;
    let etcd = Cluster::builder().tls(&pki).client_cert_auth().start().await?;
    run(&etcd, &USERS).await?;
    run(&etcd, &[&["auth", "enable"], &["put", &pod(1), "1"]]).await?;
    let shown = pki.client("alice")?;
    let (ca, cert, key) = (pki.ca(), shown.cert, shown.key);
    let tls = format!(
        ", tls: {{ca_file: {}, cert_file: {}, key_file: {}}}",
        ca.display(),
        cert.display(),
        key.display()
    );
    let seawall = seawall_by(&etcd, &etcd.endpoints(), &tls, "").await?;
    logged(&seawall, "mirror: off, etcd does not let it watch all keys").await?;
    let ours = Kv::connect(seawall.address("main")?).await?;
    for request in [list(PODS), count(PODS), list(PODS)] {
        let answer = ours.range(&request).await?.ok().context("alice may read")?;
        ensure!(answer.count == 1, "{answer:?}");
    }
    let answers = operator::metric(seawall.admin()?, "seawall_mirror_answers_total").await?;
    ensure!(answers == 0.0, "memory has answered");
    Ok(())
}
