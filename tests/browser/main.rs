//! The live page in a real browser.

mod chromium;
mod cost;
// Each of the test programs that share it uses a part.
#[allow(dead_code)]
#[path = "../failover/operator.rs"]
mod operator;

use anyhow::{Context, Result, ensure};
use chromium::Browser;
use etcd_client::{Client, GetOptions, WatchOptions};
use seawall_testkit::{Cluster, Pki, SeawallProcess, eventually, skipped};
use std::{
    env, fs,
    path::{Path, PathBuf},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_secs(60);

/// Starts a browser, or says what was not checked.
async fn browser() -> Result<Option<Browser>> {
    if let Some(program) = chromium::find() {
        return Browser::start(&program).await.map(Some);
    }
    skipped(
        "the live page was NOT opened: there is no chromium, which `scripts/deploy-tools chromium` obtains",
    )?;
    Ok(None)
}

/// A configuration of two clusters, with a rule that denies and one that only observes.
fn configuration(name: &str, main: &Cluster, events: &Cluster, admin: &str) -> Result<PathBuf> {
    let endpoints = |cluster: &Cluster| cluster.endpoints().join(", ");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let (main, events) = (endpoints(main), endpoints(events));
    let text = format!(
        "clusters: {{main: {{endpoints: [{main}]}}, events: {{endpoints: [{events}]}}}}
listeners: [{{default: main, routes: [{{prefix: /registry/events, cluster: events}}]}}]
admin: {{{admin}}}
protection:
  rules:
    - {{name: office, match: {{prefixes: [/office]}}, deny: true}}
    - {{name: slow-lists, match: {{prefixes: [/registry/pods]}}, mode: observe, limit: {{requests: 5/s}}}}
    - {{name: secrets, match: {{prefixes: [/registry/secrets]}}, mirror: false, coalesce: false}}
"
    );
    fs::write(&path, text)?;
    Ok(path)
}

async fn start(config: &Path) -> Result<SeawallProcess> {
    start_with(["--config", &config.display().to_string()]).await
}

async fn start_with(args: [&str; 2]) -> Result<SeawallProcess> {
    let binary = env::var_os("SEAWALL_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_seawall").into(), PathBuf::from);
    SeawallProcess::builder().binary(binary).args(args).start().await
}

/// Clients that write, list and watch without a pause, and one that is denied.
struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Result<()>>,
}

impl Load {
    async fn start(endpoint: &str) -> Result<Self> {
        let mut load = Self { stop: Arc::default(), clients: JoinSet::new() };
        let client = Client::connect([endpoint], None).await?;
        let prefix = Some(WatchOptions::new().with_prefix());
        let mut watched = client.clone().watch("/registry/pods/", prefix).await?;
        load.clients.spawn(async move {
            while watched.message().await?.is_some() {}
            Ok(())
        });
        for (number, resource) in ["pods", "events", "configmaps"].into_iter().enumerate() {
            let (mut client, stop) = (client.clone(), Arc::clone(&load.stop));
            load.clients.spawn(async move {
                for turn in (0..).take_while(|_| !stop.load(Relaxed)) {
                    let key = format!("/registry/{resource}/default/{resource}-{}", turn % 200);
                    client.put(key, vec![b'v'; 600 << (2 * number)], None).await?;
                    if turn % 20 == 0 {
                        let prefix = format!("/registry/{resource}/");
                        client.get(prefix, Some(GetOptions::new().with_prefix())).await?;
                        // Denied, which is what it is for.
                        client.put("/office/desk", "", None).await.err().context("it passed")?;
                    }
                }
                Ok(())
            });
        }
        Ok(load)
    }

    /// None of them may have failed.
    async fn end(mut self) -> Result<()> {
        self.stop.store(true, Relaxed);
        for _ in 0..self.clients.len() - 1 {
            self.clients.join_next().await.context("a client")???;
        }
        Ok(())
    }
}

/// Below the target directory, where whoever built it can look at them.
fn pictures() -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pictures");
    fs::create_dir_all(&path)?;
    Ok(path)
}

async fn shows(browser: &mut Browser, selector: &str, expected: &str) -> Result<()> {
    eventually(DEADLINE, &format!("{expected:?} in {selector}"), async || {
        let text = browser.text(selector).await?;
        ensure!(text.contains(expected), "it shows {text:?}");
        Ok(())
    })
    .await
}

/// Chooses a mode in the row of a protection, which asks whether it is meant.
async fn choose(browser: &mut Browser, protection: &str, mode: &str) -> Result<()> {
    eventually(DEADLINE, "the end of what was asked before", async || {
        ensure!(browser.evaluate("document.querySelector('#switch').open").await? == false);
        Ok(())
    })
    .await?;
    let select = format!("document.querySelector('[aria-label=\"Mode of {protection}\"]')");
    let chosen = format!("{select}.value = '{mode}'; {select}.dispatchEvent(new Event('change'))");
    browser.evaluate(&chosen).await?;
    shows(browser, "#switch-title", protection).await
}

async fn is_in_mode(browser: &mut Browser, protection: &str, mode: &str) -> Result<()> {
    let select = format!("document.querySelector('[aria-label=\"Mode of {protection}\"]').value");
    eventually(DEADLINE, &format!("{protection} to be in mode {mode}"), async || {
        let shown = browser.evaluate(&select).await?;
        ensure!(shown == mode, "it shows {shown}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_page_shows_load_and_trouble_and_switches() -> Result<()> {
    let Some(mut browser) = browser().await? else { return Ok(()) };
    let (main, events) = (Cluster::builder().members(3).start().await?, Cluster::single().await?);
    let seawall = start(&configuration("page.yaml", &main, &events, "")?).await?;
    browser.look(1280, 1200, "light").await?;
    browser.open(&format!("http://{}/", seawall.admin()?)).await?;
    shows(&mut browser, "#verdict", "All is well").await?;
    shows(&mut browser, "#clusters", "★ 127.0.0.1:").await?;
    shows(&mut browser, "#routes", "/registry/events and below").await?;

    let load = Load::start(&seawall.endpoint()?).await?;
    shows(&mut browser, "#requests", "write").await?;
    shows(&mut browser, "#load", "/registry/configmaps").await?;
    shows(&mut browser, "#objects", "/registry/configmaps/default/").await?;
    shows(&mut browser, "#mirror", "✓ ready").await?;
    shows(&mut browser, "#verdict", "rules.office refuses").await?;
    shows(&mut browser, "#events", "calls are refused").await?;
    numbers_move(&mut browser).await?;
    fits_every_screen(&mut browser, 8, &pictures()?).await?;
    keys_reach_a_switch(&mut browser).await?;

    choose(&mut browser, "rules.slow-lists", "off").await?;
    browser.press("Enter", 13).await?;
    is_in_mode(&mut browser, "rules.slow-lists", "off").await?;
    shows(&mut browser, "#verdict", "rules.slow-lists was switched to off by hand").await?;
    shows(&mut browser, "#events", "protection switched").await?;
    choose(&mut browser, "rules.slow-lists", "configured").await?;
    browser.press("Enter", 13).await?;
    is_in_mode(&mut browser, "rules.slow-lists", "observe").await?;
    load.end().await?;

    events.member(0).kill().await?;
    shows(&mut browser, "#verdict", "etcd cluster events does not answer").await?;
    shows(&mut browser, "#clusters", "✗ down").await?;
    let red = "getComputedStyle(document.querySelector('#clusters td.bad')).color";
    let muted = "getComputedStyle(document.querySelector('#clusters td.good')).color";
    assert_ne!(browser.evaluate(red).await?, browser.evaluate(muted).await?);
    browser.picture(&pictures()?.join("down.png")).await?;
    assert_eq!(browser.complaints(), [""; 0]);

    seawall.kill()?;
    shows(&mut browser, "#verdict", "Seawall does not answer").await
}

/// Figures of one moment differ from those of another.
async fn numbers_move(browser: &mut Browser) -> Result<()> {
    let before = browser.text("#requests tbody").await?;
    eventually(DEADLINE, "other numbers", async || {
        ensure!(browser.text("#requests tbody").await? != before, "they are the same");
        let calls = browser.text("#figure-calls dd").await?;
        ensure!(calls != "–", "no calls a second");
        Ok(())
    })
    .await
}

/// Nothing sticks out to the side, on a phone either; pictures are kept.
async fn fits_every_screen(browser: &mut Browser, seconds: u64, pictures: &Path) -> Result<()> {
    let line = "document.querySelector('#figure-calls path:last-child').getAttribute('d').split('L').length";
    eventually(DEADLINE, "lines long enough to look at", async || {
        ensure!(browser.evaluate(line).await?.as_u64() > Some(seconds));
        Ok(())
    })
    .await?;
    for (name, width, height, scheme) in [
        ("page-light", 1280, 1200, "light"),
        ("page-dark", 1280, 1200, "dark"),
        ("page-phone", 390, 1200, "light"),
    ] {
        browser.look(width, height, scheme).await?;
        browser.picture(&pictures.join(format!("{name}.png"))).await?;
        let needed = browser.evaluate("document.documentElement.scrollWidth").await?;
        ensure!(needed.as_u64() <= Some(width.into()), "{name}: {needed} of {width} pixels");
        for section in ["requests", "queues", "protections"] {
            let cut = format!(
                "(t => t.scrollWidth - t.clientWidth)(document.querySelector('#{section} .scroll'))"
            );
            ensure!(browser.evaluate(&cut).await? == 0, "{name}: {section} is cut");
        }
    }
    browser.look(1280, 1200, "light").await
}

/// By the tabulator alone, as without a mouse.
async fn keys_reach_a_switch(browser: &mut Browser) -> Result<()> {
    for _ in 0..100 {
        browser.press("Tab", 9).await?;
        let label = browser.evaluate("document.activeElement.getAttribute('aria-label')").await?;
        if label == "Mode of rules.office" {
            return Ok(());
        }
    }
    anyhow::bail!("the switch of rules.office cannot be reached")
}

#[tokio::test]
async fn a_token_is_asked_for_once() -> Result<()> {
    const TOKEN: &str = "correct-horse-battery-staple";
    let Some(mut browser) = browser().await? else { return Ok(()) };
    let (main, events) = (Cluster::single().await?, Cluster::single().await?);
    let pki = Pki::new()?;
    let token = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page.token");
    fs::write(&token, format!("{TOKEN}\n"))?;
    let server = pki.server()?;
    let admin = format!(
        "token_file: {}, tls: {{cert_file: {}, key_file: {}}}",
        token.display(),
        server.cert.display(),
        server.key.display()
    );
    let seawall = start(&configuration("token.yaml", &main, &events, &admin)?).await?;
    browser.open(&format!("https://{}/", seawall.admin()?)).await?;
    shows(&mut browser, "#protections", "rules.office").await?;

    choose(&mut browser, "rules.office", "off").await?;
    browser.write("not-this-one-surely").await?;
    browser.press("Enter", 13).await?;
    shows(&mut browser, "#switch-failed", "Not switched: this is not the admin token").await?;
    browser.evaluate("document.querySelector('#switch-token input').focus()").await?;
    browser.write(TOKEN).await?;
    browser.press("Enter", 13).await?;
    is_in_mode(&mut browser, "rules.office", "off").await?;

    choose(&mut browser, "rules.office", "observe").await?;
    let hidden = browser.evaluate("document.querySelector('#switch-token').hidden").await?;
    assert_eq!(hidden, true, "it was given before");
    browser.press("Enter", 13).await?;
    is_in_mode(&mut browser, "rules.office", "observe").await
}

/// Those of a storm: many large lists that memory may not answer, beside everything else.
#[tokio::test]
#[ignore = "takes minutes, and renews the pictures in docs/images"]
async fn pictures_for_the_guide() -> Result<()> {
    const STREAMS: usize = 50;
    const WATCHERS: usize = 2_000 / STREAMS;
    let mut browser = browser().await?.context("a browser")?;
    let (main, events) = (Cluster::builder().members(3).start().await?, Cluster::single().await?);
    let seawall = start(&configuration("guide.yaml", &main, &events, "")?).await?;
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    for number in 0..2_000 {
        let key = format!("/registry/secrets/default/token-{number}");
        client.put(key, vec![b'v'; 2 << 10], None).await?;
    }
    let load = Load::start(&seawall.endpoint()?).await?;
    let prefix = || Some(WatchOptions::new().with_prefix());
    let mut storm = JoinSet::new();
    for _ in 0..STREAMS {
        let mut watched = client.watch("/registry/leases/", prefix()).await?;
        for _ in 1..WATCHERS {
            watched.watch("/registry/leases/", prefix()).await?;
        }
        storm.spawn(async move { while watched.message().await.is_ok() {} });
    }
    for _ in 0..12 {
        let mut client = client.clone();
        storm.spawn(async move {
            // Until it is aborted, and refused or not.
            loop {
                let list = Some(GetOptions::new().with_prefix());
                client.get("/registry/secrets/", list).await.ok();
            }
        });
    }
    browser.look(1280, 1200, "light").await?;
    browser.open(&format!("http://{}/", seawall.admin()?)).await?;
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
    fs::create_dir_all(&pictures)?;
    shows(&mut browser, "#requests", "write").await?;
    shows(&mut browser, "#figure-watchers dd", "2.00k").await?;
    fits_every_screen(&mut browser, 40, &pictures).await?;
    storm.shutdown().await;
    load.end().await
}
