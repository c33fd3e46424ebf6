//! The audit log.

use crate::{Stage, client::DEADLINE, operator};
use anyhow::{Context, Result, ensure};
use rustls::pki_types::ServerName;
use seawall_testkit::{LogLine, Pki};
use serde_json::{Map, Value};
use std::{fs, sync::Arc};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// The event's line, once it is there.
async fn event(stage: &Stage, name: &str) -> Result<LogLine> {
    let is_it = |line: &LogLine| {
        line.text("target") == Some("seawall::audit") && line.text("event") == Some(name)
    };
    stage.seawall.log_contains(DEADLINE, name, is_it).await
}

const CONFIG: &str = r#"
access: {grants: [{clients: ["operator"], verbs: [all], prefixes: [""]}]}
protection: {deletes: {keys_max: 1}, rules: [{name: frozen, match: {prefixes: [/frozen]}, read_only: true}]}
mirror: {mode: off}
"#;

/// The audit does not hang on the level of the log.
const LOG: &str = "log: {level: error, audit_file: FILE}\n";

#[tokio::test]
async fn each_event_tells_who_and_what() -> Result<()> {
    let stage = Stage::start(CONFIG).await?;
    let operator = stage.named("operator").await?;
    operator.ok("KV/Put", "key: '/a/1'").await?;
    operator.ok("KV/Put", "key: '/a/2'").await?;
    let all = "key: '/a/' range_end: '/a0'";

    stage.named("stranger").await?.call("KV/Range", "key: '/a/1'").await?;
    let line = event(&stage, "access_refused").await?;
    for (field, expected) in [
        ("client", "stranger"),
        ("method", "Range"),
        ("verb", "read"),
        ("keys", "\"/a/1\""),
        ("mode", "enforce"),
    ] {
        ensure!(line.text(field) == Some(expected), "{field} of {line:?}");
    }
    ensure!(line.text("address") == Some("127.0.0.1"), "{line:?}");

    operator.call("KV/Put", "key: '/frozen/x'").await?;
    let line = event(&stage, "write_refused").await?;
    for (field, expected) in
        [("client", "operator"), ("method", "Put"), ("keys", "\"/frozen/x\""), ("rule", "frozen")]
    {
        ensure!(line.text(field) == Some(expected), "{field} of {line:?}");
    }

    operator.call("KV/DeleteRange", all).await?;
    let line = event(&stage, "wide_delete").await?;
    ensure!(line.text("outcome") == Some("refused"), "{line:?}");
    ensure!(line.field("keys").and_then(Value::as_u64) == Some(2), "{line:?}");

    operator.call_with("KV/DeleteRange", &[("seawall-override", "deletes")], all).await?;
    let line = event(&stage, "override").await?;
    ensure!(line.text("overrides") == Some("deletes"), "{line:?}");
    let overridden = |line: &LogLine| line.text("outcome") == Some("overridden");
    stage.seawall.log_contains(DEADLINE, "that it was overridden", overridden).await?;

    operator::post(stage.seawall.admin()?, "/protection/deletes?mode=off").await?;
    let line = event(&stage, "protection_switched").await?;
    ensure!(line.text("protection") == Some("deletes") && line.text("mode") == Some("off"));
    ensure!(line.text("client") == Some("127.0.0.1"), "{line:?}");

    stage.reload(&CONFIG.replace("keys_max: 1", "keys_max: 2")).await?;
    let line = event(&stage, "configuration_changed").await?;
    ensure!(line.text("keys").is_some_and(|keys| keys.contains("protection.deletes")), "{line:?}");
    Ok(())
}

/// The code that `POST path` is answered with by an admin port that asks for certificates.
async fn post_as(stage: &Stage, name: &str, path: &str, header: &str) -> Result<String> {
    let admin = stage.seawall.admin()?;
    let connector = TlsConnector::from(Arc::new(stage.shows(name)?));
    let stream = TcpStream::connect(admin).await?;
    let mut stream = connector.connect(ServerName::from(admin.ip()), stream).await?;
    stream.write_all(format!("POST {path} HTTP/1.0\r\n{header}\r\n\r\n").as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    Ok(line.split(' ').nth(1).context("an answer without a code")?.to_owned())
}

#[tokio::test]
async fn a_switch_tells_whose_certificate_made_it() -> Result<()> {
    let pki = Pki::new()?;
    let (shown, ca) = (pki.server()?, pki.ca());
    let args = [("cert", &shown.cert), ("key", &shown.key), ("trusted-ca", &ca)];
    let args = args.map(|(flag, path)| format!("--admin-{flag}-file={}", path.display()));
    let stage = Stage::with_pki(pki, "", &args.each_ref().map(String::as_str)).await?;

    let path = "/protection/deletes?mode=off";
    ensure!(post_as(&stage, "stranger", path, "accept: */*").await? == "403");
    let line = event(&stage, "switch_refused").await?;
    ensure!(line.text("client") == Some("stranger"), "{line:?}");
    ensure!(line.text("path") == Some("/protection/deletes"), "{line:?}");

    ensure!(post_as(&stage, "operator", path, "x-seawall-switch: yes").await? == "200");
    let line = event(&stage, "protection_switched").await?;
    ensure!(line.text("client") == Some("operator"), "{line:?}");
    ensure!(line.text("address") == Some("127.0.0.1"), "{line:?}");
    Ok(())
}

#[tokio::test]
async fn the_file_has_every_event_whatever_the_level() -> Result<()> {
    let dir = seawall_testkit::Pki::new()?;
    let file = dir.ca().with_file_name("audit.jsonl");
    let rest = format!("{CONFIG}{}", LOG.replace("FILE", &file.display().to_string()));
    let stage = Stage::with(&rest, &["--log-level", "info,seawall::audit=off"]).await?;
    let stranger = stage.named("stranger").await?;
    let events = |text: &str| -> Result<Vec<Map<String, Value>>> {
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    };
    let told = async |what: &str| -> Result<()> {
        stranger.call("KV/Range", &format!("key: '{what}'")).await?;
        let lines = events(&fs::read_to_string(&file)?)?;
        let last = lines.last().context("no line")?;
        ensure!(
            last["event"] == "access_refused" && last["keys"] == format!("\"{what}\""),
            "{last:?}"
        );
        Ok(())
    };
    told("/one").await?;
    ensure!(!stage.seawall.log().iter().any(|line| line.field("event").is_some()));

    // As logrotate does it.
    let moved = file.with_extension("1");
    fs::rename(&file, &moved)?;
    stage.seawall.reload()?;
    seawall_testkit::eventually(DEADLINE, "a new file", async || {
        ensure!(file.exists(), "there is none");
        Ok(())
    })
    .await?;
    told("/two").await?;
    ensure!(events(&fs::read_to_string(&moved)?)?.len() == 1, "the old file has one line");
    Ok(())
}
