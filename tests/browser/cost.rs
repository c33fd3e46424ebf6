//! What looking at the page costs, for `docs/admin.md`.

use crate::{DEADLINE, browser, chromium::Browser, operator, shows, start_with};
use anyhow::{Context, Result, ensure};
use etcd_client::{Client, WatchOptions};
use seawall_testkit::{Cluster, SeawallProcess, eventually};
use std::{fs, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// How long each moment is looked at.
const MEASURED: Duration = Duration::from_secs(30);

const ANSWERS: u32 = 200;

/// Watches without an end.
type Crowd = JoinSet<Result<()>>;

#[tokio::test]
#[ignore = "takes minutes, and measures: docs/admin.md"]
async fn what_the_page_costs() -> Result<()> {
    let mut browser = browser().await?.context("a browser")?;
    for (streams, watchers) in [(1, 10), (100, 100)] {
        let cluster = Cluster::single().await?;
        let seawall = start_with(["--upstream", &cluster.member(0).endpoint()]).await?;
        let _crowd = crowd(&seawall, streams, watchers).await?;
        eprintln!("{} watchers on {streams} streams", streams * watchers);
        of_a_snapshot(&seawall).await?;
        in_a_browser(&seawall, &mut browser).await?;
        for path in ["/mirror", "/top"] {
            of_an_answer(&seawall, path).await?;
        }
    }
    Ok(())
}

async fn crowd(seawall: &SeawallProcess, streams: usize, watchers: usize) -> Result<Crowd> {
    let prefix = || Some(WatchOptions::new().with_prefix());
    let mut crowd = JoinSet::new();
    for _ in 0..streams {
        let mut client = Client::connect([seawall.endpoint()?], None).await?;
        let mut watched = client.watch("/registry/leases/", prefix()).await?;
        for _ in 1..watchers {
            watched.watch("/registry/leases/", prefix()).await?;
        }
        crowd.spawn(async move {
            // It goes when its last client does.
            let _client = client;
            while watched.message().await?.is_some() {}
            Ok(())
        });
    }
    eventually(DEADLINE, "all to be served from memory", async || {
        let (_, mirror) = operator::get(seawall.admin()?, "/mirror").await?;
        let mirror: serde_json::Value = serde_json::from_str(&mirror)?;
        ensure!(mirror["clusters"]["main"]["watchers"] == streams * watchers, "{mirror}");
        Ok(())
    })
    .await?;
    Ok(crowd)
}

/// Processor time of all threads so far, finer than the ticks of `stat`.
fn processor(seawall: &SeawallProcess) -> Result<Duration> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", seawall.pid()))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        sum += text.split(' ').next().context("a time")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(sum))
}

/// What it takes a second while nobody looks: probes, and what watches need.
async fn unseen(seawall: &SeawallProcess) -> Result<Duration> {
    let before = processor(seawall)?;
    sleep(MEASURED).await;
    Ok((processor(seawall)? - before) / MEASURED.as_secs() as u32)
}

async fn of_a_snapshot(seawall: &SeawallProcess) -> Result<()> {
    let before = unseen(seawall).await?;
    let (seen, sizes) = seen(seawall).await?;
    let after = unseen(seawall).await?;
    let each = seen.saturating_sub((before + after) / 2);
    let (least, most) = (sizes.iter().min(), sizes.iter().max());
    let (least, most) = (least.context("none")?, most.context("none")?);
    eprintln!("  a snapshot: {each:.1?} of Seawall's processor, {least} to {most} bytes");
    eprintln!("  each second: {seen:.1?}, unseen {before:.1?} before and {after:.1?} after");
    Ok(())
}

/// What it takes a second while one looks, and the sizes of the snapshots, of which there is one each
/// second.
async fn seen(seawall: &SeawallProcess) -> Result<(Duration, Vec<usize>)> {
    let mut stream = TcpStream::connect(seawall.admin()?).await?;
    stream.write_all(b"GET /stream HTTP/1.1\r\nHost: seawall\r\n\r\n").await?;
    let mut lines = BufReader::new(stream).lines();
    let (began, before) = (Instant::now(), processor(seawall)?);
    let mut sizes = Vec::new();
    while began.elapsed() < MEASURED {
        let line = timeout(DEADLINE, lines.next_line()).await??.context("the stream has ended")?;
        sizes.extend(line.starts_with("data: ").then_some(line.len()));
    }
    let took = processor(seawall)? - before;
    Ok((took.div_f64(began.elapsed().as_secs_f64()), sizes))
}

async fn in_a_browser(seawall: &SeawallProcess, browser: &mut Browser) -> Result<()> {
    browser.look(1280, 1200, "light").await?;
    browser.open(&format!("http://{}/", seawall.admin()?)).await?;
    shows(browser, "#requests", "watch").await?;
    let figures = ["ScriptDuration", "LayoutDuration", "RecalcStyleDuration"];
    let mut before = Vec::new();
    for figure in figures {
        before.push(browser.metric(figure).await?);
    }
    sleep(MEASURED).await;
    for (figure, before) in figures.into_iter().zip(before) {
        let took = (browser.metric(figure).await? - before) * 1e3 / MEASURED.as_secs_f64();
        eprintln!("  in the browser: {took:.1} ms of {figure} each second");
    }
    let elements = browser.evaluate("document.querySelectorAll('*').length").await?;
    eprintln!("  in the browser: {elements} elements");
    // So that nobody looks any more.
    browser.open("about:blank").await
}

async fn of_an_answer(seawall: &SeawallProcess, path: &str) -> Result<()> {
    let before = processor(seawall)?;
    for _ in 0..ANSWERS {
        let (code, _) = operator::get(seawall.admin()?, path).await?;
        ensure!(code == 200, "{path} answers {code}");
    }
    let each = (processor(seawall)? - before) / ANSWERS;
    eprintln!("  {path}: {each:.1?} of Seawall's processor");
    Ok(())
}
