//! The files in `deploy/`, and the commands of the guides in `docs/deploy/`, each tried with the tool
//! that it is for. What a machine lacks for it is told at the end of `make test`.

mod chart;
mod container;
mod guides;
mod layouts;
mod monitoring;
// Each of the test programs that share it uses a part.
#[allow(dead_code)]
#[path = "../failover/operator.rs"]
mod operator;
mod package;
mod release;
mod service;

use anyhow::{Context, Result, ensure};
use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Generous, for machines that build something else at the same time.
const DEADLINE: Duration = Duration::from_secs(60);

fn seawall() -> PathBuf {
    env::var_os("SEAWALL_BIN").map_or_else(|| env!("CARGO_BIN_EXE_seawall").into(), PathBuf::from)
}

fn repo() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file of the repository.
fn read(path: &str) -> Result<String> {
    fs::read_to_string(repo().join(path)).with_context(|| path.to_owned())
}

/// An empty directory of this name.
fn scratch(name: &str) -> Result<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy").join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn tools() -> PathBuf {
    env::var_os("SEAWALL_TOOLS_DIR")
        .map_or_else(|| repo().join("target/tools"), |dir| repo().join(dir))
}

/// Whether a shell would find this program.
fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// A program of what `scripts/deploy-tools` obtains. Where it is not there, what it would have checked
/// is told.
fn tool(package: &str, program: &str, unchecked: &str) -> Option<PathBuf> {
    let path = tools().join(package).join("bin").join(program);
    if path.exists() {
        return Some(path);
    }
    let advice = format!("`scripts/deploy-tools {package}` obtains");
    skipped(&format!("{unchecked}: there is no {program}, which {advice}"));
    None
}

fn skipped(what: &str) {
    seawall_testkit::skipped(what).expect("what was skipped can be told");
}

/// What a program that ends well printed.
fn run<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: &[S]) -> Result<(String, String)> {
    let mut command = Command::new(program);
    succeeds(command.args(args).current_dir(repo()))
}

fn succeeds(command: &mut Command) -> Result<(String, String)> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.success(), "{command:?} ends with {}:\n{stdout}{stderr}", output.status);
    Ok((stdout, stderr))
}

/// Renews a file that is derived from others when `SEAWALL_RENEW` is set, and else compares it.
fn holds(path: &str, expected: &str) -> Result<()> {
    if env::var_os("SEAWALL_RENEW").is_some() {
        return Ok(fs::write(repo().join(path), expected)?);
    }
    let same = read(path)? == expected;
    ensure!(same, "{path} is out of date; renew it with SEAWALL_RENEW=1 cargo test --test deploy");
    Ok(())
}
