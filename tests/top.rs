//! `seawall top`, as text and in a terminal.

// Each of the test programs that share it uses a part.
#[allow(dead_code)]
#[path = "failover/operator.rs"]
mod operator;

use anyhow::{Context, Result, ensure};
use etcd_client::{Client, GetOptions, WatchOptions};
use nix::{
    pty::{Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, Termios, tcgetattr},
    },
    unistd::Pid,
};
use seawall_testkit::{Cluster, Pki, SeawallProcess, eventually};
use std::{
    env,
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

const DEADLINE: Duration = Duration::from_secs(20);

fn binary() -> PathBuf {
    env::var_os("SEAWALL_BIN").map_or_else(|| env!("CARGO_BIN_EXE_seawall").into(), PathBuf::from)
}

async fn start(cluster: &Cluster) -> Result<SeawallProcess> {
    let upstream = cluster.member(0).endpoint();
    SeawallProcess::builder().binary(binary()).args(["--upstream", &upstream]).start().await
}

/// `seawall top` with its output in a pipe.
fn piped(admin: &str, args: &[&str]) -> Result<Output> {
    Ok(Command::new(binary()).args(["top", "--admin", admin]).args(args).output()?)
}

/// A port of which nobody answers.
fn unused_url() -> Result<String> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(format!("http://{}", socket.local_addr()?))
}

/// `seawall top` in a terminal of its own.
struct InTerminal {
    child: Child,
    keys: File,
    screen: Arc<Mutex<vt100::Parser>>,
    /// Our end of the program's side, which tells the terminal's modes.
    side: OwnedFd,
    before: Termios,
}

impl InTerminal {
    fn start(admin: &str, args: &[&str]) -> Result<Self> {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None)?;
        let before = tcgetattr(&pty.slave)?;
        let child = Command::new(binary())
            .args(["top", "--admin", admin, "--interval", "100ms"])
            .args(args)
            .env("TERM", "xterm-256color")
            .stdin(Stdio::from(pty.slave.try_clone()?))
            .stdout(Stdio::from(pty.slave.try_clone()?))
            .stderr(Stdio::from(pty.slave.try_clone()?))
            .spawn()?;
        // Of the same size.
        let screen = Arc::new(Mutex::new(vt100::Parser::default()));
        let (keys, mut output) = (File::from(pty.master.try_clone()?), File::from(pty.master));
        let drawn = Arc::clone(&screen);
        // Ends with the test: the side that is kept open here is closed then.
        thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                drawn.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..length]);
            }
        });
        Ok(Self { child, keys, screen, side: pty.slave, before })
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.keys.write_all(keys.as_bytes())?)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().try_into()?), signal)?)
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).screen().contents()
    }

    async fn shows(&self, expected: &str) -> Result<()> {
        eventually(DEADLINE, &format!("{expected:?} on the screen"), async || {
            let text = self.text();
            ensure!(text.contains(expected), "it shows\n{text}");
            Ok(())
        })
        .await
    }

    /// Waits for a line of a table that begins with these cells.
    async fn shows_row(&self, cells: &[&str]) -> Result<()> {
        eventually(DEADLINE, &format!("a row of {cells:?}"), async || {
            let text = self.text();
            let begins = |line: &str| {
                let line = line.trim_start_matches('│').split_whitespace();
                line.take(cells.len()).eq(cells.iter().copied())
            };
            ensure!(text.lines().any(begins), "it shows\n{text}");
            Ok(())
        })
        .await
    }

    /// Waits for its end, after which the terminal must be as it was.
    async fn ends(mut self) -> Result<()> {
        let status = eventually(DEADLINE, "the end of `seawall top`", async || {
            self.child.try_wait()?.context("it runs on")
        })
        .await?;
        ensure!(ExitStatus::success(&status), "{status}: {}", self.text());
        let after = tcgetattr(&self.side)?;
        ensure!(after.local_flags == self.before.local_flags, "{:?}", after.local_flags);
        ensure!(after.local_flags.contains(LocalFlags::ECHO | LocalFlags::ICANON));
        eventually(DEADLINE, "the usual screen", async || {
            let parser = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
            let screen = parser.screen();
            ensure!(!screen.alternate_screen() && !screen.hide_cursor(), "it is not");
            Ok(())
        })
        .await
    }
}

impl Drop for InTerminal {
    fn drop(&mut self) {
        // Fails only when it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test]
async fn a_pipe_gets_all_tables_as_text() -> Result<()> {
    let cluster = Cluster::single().await?;
    let seawall = start(&cluster).await?;
    let admin = format!("http://{}", seawall.admin()?);
    let text = eventually(DEADLINE, "a healthy member", async || {
        let output = piped(&admin, &["--window", "hour", "--by", "bytes"])?;
        let text = String::from_utf8(output.stdout)?;
        ensure!(output.status.success(), "{}: {text}", output.status);
        text.contains("healthy").then_some(text).context("it was not looked at yet")
    })
    .await?;
    for expected in [
        "last hour by bytes: cost ",
        "Clusters\n",
        "Prefixes\n",
        "Clients\n",
        "Shapes\n",
        "Objects\n",
        &cluster.member(0).endpoint(),
    ] {
        ensure!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    ensure!(!text.contains('\x1b'), "a pipe is no terminal: {text:?}");
    Ok(())
}

/// The lines of one table.
fn table<'a>(text: &'a str, title: &str) -> Result<&'a str> {
    let (_, rest) = text.split_once(&format!("\n{title}\n")).context(title.to_owned())?;
    Ok(rest.split_once("\n\n").map_or(rest, |(table, _)| table))
}

#[tokio::test]
async fn traffic_is_attributed_to_its_prefix_and_client() -> Result<()> {
    let cluster = Cluster::single().await?;
    let seawall = start(&cluster).await?;
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    client.put("/registry/configmaps/default/a", vec![b'v'; 1_000], None).await?;
    client.get("/registry/configmaps/", Some(GetOptions::new().with_prefix())).await?;
    let admin = format!("http://{}", seawall.admin()?);
    // A call is counted when it has ended, which its client may know a moment earlier.
    eventually(DEADLINE, "both calls to be counted", async || {
        let output = piped(&admin, &["--once"])?;
        let text = String::from_utf8(output.stdout)?;
        ensure!(output.status.success(), "{}: {text}", output.status);
        for (title, expected) in [
            ("Prefixes", "/registry/configmaps "),
            ("Clients", "127.0.0.1 "),
            ("Shapes", "put "),
            ("Shapes", "list "),
            ("Requests", "write "),
            ("Events", "member is healthy"),
            ("Watches", "main "),
            ("Routes", "all "),
        ] {
            let table = table(&text, title)?;
            ensure!(table.contains(expected), "no {expected:?} in {title} of\n{text}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_admin_port_answers_one_window_or_both() -> Result<()> {
    let cluster = Cluster::single().await?;
    let seawall = start(&cluster).await?;
    let (code, both) = operator::get(seawall.admin()?, "/top").await?;
    let both: serde_json::Value = serde_json::from_str(&both)?;
    ensure!(code == 200 && both["minute"]["seconds"] == 60, "{code}: {both}");
    ensure!(both["hour"]["seconds"] == 3_600, "{both}");
    let (code, hour) = operator::get(seawall.admin()?, "/top?window=hour").await?;
    let hour: serde_json::Value = serde_json::from_str(&hour)?;
    ensure!(code == 200 && hour["seconds"] == 3_600, "{code}: {hour}");
    let (code, text) = operator::get(seawall.admin()?, "/top?window=day").await?;
    ensure!(code == 400 && text.contains("day"), "{code}: {text}");
    Ok(())
}

#[test]
fn text_without_an_admin_port_is_an_error_that_names_it() -> Result<()> {
    let admin = unused_url()?;
    let output = piped(&admin, &[])?;
    let error = String::from_utf8(output.stderr)?;
    let expected = format!("error: the admin port at {admin} cannot be reached: ");
    ensure!(output.status.code() == Some(1) && error.starts_with(&expected), "{error}");
    let output = piped("ftp://127.0.0.1:1", &[])?;
    let error = String::from_utf8(output.stderr)?;
    ensure!(
        output.status.code() == Some(2) && error.contains("--admin: expected a URL"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn a_terminal_is_drawn_on_and_restored() -> Result<()> {
    let cluster = Cluster::single().await?;
    let seawall = start(&cluster).await?;
    let mut top = InTerminal::start(&format!("http://{}", seawall.admin()?), &[])?;
    top.shows("last minute by cost").await?;
    top.shows("┌Prefixes─").await?;
    ensure!(!tcgetattr(&top.side)?.local_flags.contains(LocalFlags::ECHO), "keys are echoed");
    top.press("?")?;
    top.shows("Any key closes this.").await?;
    top.press(" \x1b[Z\x1b[Z")?;
    top.shows("┌Clusters─").await?;
    top.shows("healthy").await?;
    top.press("w")?;
    top.shows("last hour by cost").await?;
    top.press("q")?;
    top.ends().await
}

#[tokio::test]
async fn keys_lead_from_a_prefix_to_requests_and_to_watches_and_routes() -> Result<()> {
    let cluster = Cluster::single().await?;
    let seawall = start(&cluster).await?;
    let mut client = Client::connect([seawall.endpoint()?], None).await?;
    // Another prefix than that of the writes would come first in the table now and then.
    let watched = Some(WatchOptions::new().with_prefix());
    let _watching = client.watch("/registry/pods/", watched).await?;
    client.put("/registry/pods/default/a", "v", None).await?;
    let mut top = InTerminal::start(&format!("http://{}", seawall.admin()?), &[])?;
    top.shows_row(&["/registry/pods"]).await?;
    top.press("\r")?;
    top.shows("┌Clients of /registry/pods─").await?;
    top.shows_row(&["127.0.0.1"]).await?;
    top.press("\r")?;
    top.shows("┌Shapes of /registry/pods, 127.0.0.1─").await?;
    top.shows_row(&["watch", "/registry/pods"]).await?;
    top.shows_row(&["put", "/registry/pods"]).await?;
    // There is nothing inside, and back is the way one came.
    top.press("\r\x7f")?;
    top.shows("┌Clients of /registry/pods─").await?;
    top.press("\x7f")?;
    top.shows("┌Prefixes─").await?;
    top.press("\t\t\t\t\t")?;
    top.shows("┌Watches─").await?;
    top.shows_row(&["main", "1"]).await?;
    top.press("\t\t\t")?;
    top.shows("┌Routes─").await?;
    let address = seawall.address("main")?.to_string();
    top.shows_row(&["main", &address, "all", "main"]).await?;
    top.press("q")?;
    top.ends().await
}

#[tokio::test]
async fn a_signal_leaves_the_terminal_restored() -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let top = InTerminal::start(&unused_url()?, &[])?;
        top.shows("cannot be reached").await?;
        top.signal(signal)?;
        top.ends().await?;
    }
    Ok(())
}

#[tokio::test]
async fn asks_on_when_seawall_goes_and_says_so() -> Result<()> {
    let cluster = Cluster::single().await?;
    let seawall = start(&cluster).await?;
    let mut top = InTerminal::start(&format!("http://{}", seawall.admin()?), &[])?;
    top.shows("last minute by cost").await?;
    seawall.kill()?;
    top.shows("cannot be reached").await?;
    top.shows("trying again").await?;
    top.press("\x03")?;
    top.ends().await
}

/// An admin port with TLS and a token, and what `seawall top` says to reach it.
struct Guarded {
    seawall: SeawallProcess,
    pki: Pki,
    token: PathBuf,
    _cluster: Cluster,
}

impl Guarded {
    async fn start(name: &str) -> Result<Self> {
        let (cluster, pki) = (Cluster::single().await?, Pki::new()?);
        let token = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&token, "correct-horse-battery-staple\n")?;
        let (server, upstream) = (pki.server()?, cluster.member(0).endpoint());
        let seawall = SeawallProcess::builder()
            .binary(binary())
            .args(["--upstream", &upstream, "--admin-token-file", &token.display().to_string()])
            .args(["--admin-cert-file".into(), server.cert, "--admin-key-file".into(), server.key])
            .args(["--admin-trusted-ca-file".into(), pki.ca()])
            .start()
            .await?;
        Ok(Self { seawall, pki, token, _cluster: cluster })
    }

    fn url(&self) -> Result<String> {
        Ok(format!("https://{}", self.seawall.admin()?))
    }

    fn args(&self) -> Result<Vec<String>> {
        let operator = self.pki.client("operator")?;
        let files = [("--ca", self.pki.ca()), ("--cert", operator.cert), ("--key", operator.key)];
        let pair = |(flag, path): (&str, PathBuf)| [flag.to_owned(), path.display().to_string()];
        Ok(files.into_iter().flat_map(pair).collect())
    }
}

#[tokio::test]
async fn reaches_an_admin_port_over_tls() -> Result<()> {
    let guarded = Guarded::start("tls.token").await?;
    let (url, args) = (guarded.url()?, guarded.args()?);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let output = piped(&url, &args)?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success() && text.contains("\nProtections\n"), "{text}");
    for (args, expected) in [
        // Nobody vouches for the port, or for the client.
        (&[][..], "TLS: invalid peer certificate"),
        (&args[..2], "cannot be reached"),
    ] {
        let output = piped(&url, args)?;
        let error = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(1) && error.contains(expected), "{args:?}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_protection_is_switched_with_the_token() -> Result<()> {
    let guarded = Guarded::start("switch.token").await?;
    let (url, args) = (guarded.url()?, guarded.args()?);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let mut without = InTerminal::start(&url, &args)?;
    without.shows("protections enforce").await?;
    without.press("\x1b[Z\x1b[Z\x1b[Z\x1b[Z\x1b[Z")?;
    without.shows("┌Protections─").await?;
    without.press("\r")?;
    without.shows("all:  o off  b observe").await?;
    without.press("b")?;
    without.shows("all was not switched: to switch anything, send the header auth").await?;
    without.press("q")?;
    without.ends().await?;

    let token = guarded.token.display().to_string();
    let mut with = InTerminal::start(&url, &[&args[..], &["--token-file", &token]].concat())?;
    with.shows("protections enforce").await?;
    with.press("\x1b[Z\x1b[Z\x1b[Z\x1b[Z\x1b[Z")?;
    with.shows("┌Protections─").await?;
    with.press("\r")?;
    with.shows("all:  o off  b observe").await?;
    with.press("b")?;
    with.shows("all was switched: observe").await?;
    with.shows("protections observe").await?;
    with.press("q")?;
    with.ends().await
}
