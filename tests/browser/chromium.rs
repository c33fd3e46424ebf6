//! Chromium without a window, driven over a pipe by its own protocol.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// A browser that says nothing for so long hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// No sandbox of its own, which needs more rights than a test has; nothing is asked of other hosts.
const FLAGS: [&str; 12] = [
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",
    "--hide-scrollbars",
];

/// A browser with one page. It ends with this value.
pub(crate) struct Browser {
    _child: Child,
    _profile: TempDir,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Of the page.
    session: Option<String>,
    last_id: u64,
    /// What the page complained about.
    complaints: Vec<String>,
}

/// Where the browser is: what `scripts/deploy-tools` obtained, else one that is installed.
pub(crate) fn find() -> Option<PathBuf> {
    let tools =
        env::var_os("SEAWALL_TOOLS_DIR").map_or_else(|| "target/tools".into(), PathBuf::from);
    let obtained = Path::new(env!("CARGO_MANIFEST_DIR")).join(tools).join("chromium/bin/chromium");
    let path = env::var_os("PATH").unwrap_or_default();
    let installed = env::split_paths(&path).map(|dir| dir.join("chromium"));
    std::iter::once(obtained).chain(installed).find(|path| path.is_file())
}

impl Browser {
    pub(crate) async fn start(program: &Path) -> Result<Self> {
        let profile = TempDir::new()?;
        // It speaks on the descriptors 3 and 4.
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 >/dev/null 2>&1 </dev/null"#])
            .arg(program)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let commands = child.stdin.take().context("a pipe to it")?;
        let answers = BufReader::new(child.stdout.take().context("a pipe from it")?);
        let mut browser = Self {
            _child: child,
            _profile: profile,
            commands,
            answers,
            session: None,
            last_id: 0,
            complaints: Vec::new(),
        };
        browser.open_page().await.with_context(|| program.display().to_string())?;
        Ok(browser)
    }

    async fn open_page(&mut self) -> Result<()> {
        let page = self.call("Target.createTarget", json!({"url": "about:blank"})).await?;
        let target = json!({"targetId": page["targetId"], "flatten": true});
        let attached = self.call("Target.attachToTarget", target).await?;
        self.session = Some(attached["sessionId"].as_str().context("a session")?.to_owned());
        for domain in ["Page", "Runtime", "Log", "Performance"] {
            self.call(&format!("{domain}.enable"), json!({})).await?;
        }
        Ok(())
    }

    /// What the browser answers. What it tells meanwhile is looked at for complaints of the page.
    async fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.last_id += 1;
        let mut command = json!({"id": self.last_id, "method": method, "params": params});
        if let Some(session) = &self.session {
            command["sessionId"] = session.as_str().into();
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).await?;
        loop {
            let mut message = Vec::new();
            let read = timeout(ANSWER_TIMEOUT, self.answers.read_until(0, &mut message));
            let length = read.await.with_context(|| format!("{method} hangs"))??;
            ensure!(length > 0, "the browser has ended");
            message.pop();
            let mut message: Value = serde_json::from_slice(&message)?;
            if message["id"] != self.last_id {
                self.complaints.extend(complaint(&message));
                continue;
            }
            if let Some(error) = message.get("error") {
                bail!("{method}: {error}");
            }
            return Ok(message["result"].take());
        }
    }

    pub(crate) async fn open(&mut self, url: &str) -> Result<()> {
        let opened = self.call("Page.navigate", json!({"url": url})).await?;
        ensure!(opened.get("errorText").is_none(), "{url}: {opened}");
        Ok(())
    }

    /// The value of an expression in the page.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.call("Runtime.evaluate", params).await?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("{expression}: {}", thrown["exception"]["description"]);
        }
        Ok(answer["result"]["value"].take())
    }

    /// The text that a reader sees there; empty where there is nothing.
    pub(crate) async fn text(&mut self, selector: &str) -> Result<String> {
        let text = format!("document.querySelector({selector:?})?.innerText ?? ''");
        Ok(self.evaluate(&text).await?.as_str().unwrap_or_default().to_owned())
    }

    pub(crate) async fn press(&mut self, key: &str, code: u32) -> Result<()> {
        for kind in ["keyDown", "keyUp"] {
            let text = if key == "Enter" { "\r" } else { "" };
            let params = json!({"type": kind, "key": key, "code": key, "text": text,
                                "windowsVirtualKeyCode": code});
            self.call("Input.dispatchKeyEvent", params).await?;
        }
        Ok(())
    }

    pub(crate) async fn write(&mut self, text: &str) -> Result<()> {
        self.call("Input.insertText", json!({"text": text})).await.map(drop)
    }

    /// Shows the page on a screen of this width, in light or dark.
    pub(crate) async fn look(&mut self, width: u32, height: u32, scheme: &str) -> Result<()> {
        let screen = json!({"width": width, "height": height, "deviceScaleFactor": 1,
                            "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", screen).await?;
        let scheme = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", scheme).await.map(drop)
    }

    /// A picture of what is on the screen.
    pub(crate) async fn picture(&mut self, path: &Path) -> Result<()> {
        let picture = self.call("Page.captureScreenshot", json!({"format": "png"})).await?;
        let data = picture["data"].as_str().context("a picture")?;
        Ok(std::fs::write(path, base64::Engine::decode(&base64::prelude::BASE64_STANDARD, data)?)?)
    }

    /// A figure of the browser's own about the page, such as `ScriptDuration`.
    pub(crate) async fn metric(&mut self, name: &str) -> Result<f64> {
        let answer = self.call("Performance.getMetrics", json!({})).await?;
        let metrics = answer["metrics"].as_array().context("metrics")?;
        let metric = metrics.iter().find(|metric| metric["name"] == name);
        metric.and_then(|metric| metric["value"].as_f64()).with_context(|| name.to_owned())
    }

    /// What the page wrote to its console as errors so far.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }
}

fn complaint(message: &Value) -> Option<String> {
    let params = &message["params"];
    let is_one = match message["method"].as_str()? {
        "Runtime.exceptionThrown" => true,
        "Runtime.consoleAPICalled" => params["type"] == "error",
        "Log.entryAdded" => params["entry"]["level"] == "error",
        _ => false,
    };
    is_one.then(|| params.to_string())
}
