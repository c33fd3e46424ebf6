//! What goes into a release, and how safe it is as it is shipped.

use crate::{is_installed, layouts, repo, run, scratch, seawall, skipped, succeeds};
use anyhow::{Context, Result, ensure};
use seawall::config::{self, Flags, Settings};
use serde_json::Value;
use std::{fs, process::Command};

const TARGET: &str = "x86_64-unknown-linux-gnu";

#[test]
fn the_bill_of_materials_names_each_crate_with_its_licence_and_checksum() -> Result<()> {
    if run("python3", &["-c", "import tomllib"]).is_err() {
        skipped("the bill of materials was NOT made: there is no Python 3.11");
        return Ok(());
    }
    let script = repo().join("scripts/sbom");
    let (text, _) = run(&script, &[TARGET])?;
    ensure!(run(&script, &[TARGET])?.0 == text, "the same tree makes the same text");
    let bom: Value = serde_json::from_str(&text)?;
    ensure!(bom["metadata"]["component"]["version"] == env!("CARGO_PKG_VERSION"));
    let components = bom["components"].as_array().context("components")?;
    let named = |name: &str| components.iter().any(|component| component["name"] == name);
    for component in components {
        let whole = component["licenses"].is_array() && component["hashes"].is_array();
        ensure!(whole && component["purl"].is_string(), "{component}");
    }
    ensure!(named("h2") && named("rustls"), "what is linked is missing");
    ensure!(!named("proptest") && !named("prost-build"), "what is not linked is there");
    Ok(())
}

#[test]
fn man_pages_and_completions_lie_where_systems_look() -> Result<()> {
    if !is_installed("gzip") {
        skipped("man pages were NOT made: there is no gzip");
        return Ok(());
    }
    let share = scratch("pages")?;
    run(repo().join("scripts/pages"), &[seawall().as_path(), share.as_path()])?;
    for file in [
        "man/man1/seawall.1.gz",
        "man/man1/seawall-run.1.gz",
        "man/man1/seawall-explain.1.gz",
        "bash-completion/completions/seawall",
        "zsh/vendor-completions/_seawall",
        "fish/vendor_completions.d/seawall.fish",
    ] {
        ensure!(fs::metadata(share.join(file)).context(file)?.len() > 100, "{file} is empty");
    }
    let page = share.join("man/man1/seawall-run.1.gz");
    let (text, _) = run("gzip", &["-dc".as_ref(), page.as_os_str()])?;
    ensure!(text.contains(".TH") && text.contains("upstream"), "{text}");
    Ok(())
}

/// A release was made of whatever lay in the directory.
#[test]
fn what_is_not_committed_makes_no_release() -> Result<()> {
    if !is_installed("git") {
        skipped("a release of a changed tree was NOT tried: there is no git");
        return Ok(());
    }
    let tree = scratch("dirty")?;
    fs::create_dir_all(tree.join("scripts"))?;
    for file in ["scripts/dist", "scripts/lib.sh", "Cargo.toml"] {
        fs::copy(repo().join(file), tree.join(file))?;
    }
    let git = |args: &[&str]| {
        let who = ["-c", "user.name=somebody", "-c", "user.email=somebody@localhost"];
        succeeds(Command::new("git").args(who).args(args).current_dir(&tree))
    };
    git(&["init", "--quiet"])?;
    git(&["add", "."])?;
    git(&["commit", "--quiet", "--message=a release"])?;
    fs::write(tree.join("forgotten"), "")?;
    let output = Command::new(tree.join("scripts/dist")).env_remove("DIRTY").output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("?? forgotten"), "{said}");
    ensure!(!tree.join("target").exists(), "it has begun");
    Ok(())
}

/// What is shipped as an example is what will run.
#[test]
fn shipped_configurations_speak_tls_or_to_this_machine_alone() -> Result<()> {
    let settings = |path: &std::path::Path| -> Result<Settings> {
        let text = fs::read_to_string(path)?;
        Ok(config::build(Some((path, &text)), &Flags::default())?.settings)
    };
    for layout in layouts::all()?.into_iter().chain([repo().join("config/kubernetes.yaml")]) {
        let settings = settings(&layout)?;
        for listener in &settings.listeners {
            let tls = listener.listener.tls.as_ref();
            let asks = tls.is_some_and(|tls| tls.client_cert_auth && tls.trusted_ca_file.is_some());
            ensure!(asks, "{}: anybody gets in", layout.display());
        }
        let mut endpoints = settings.clusters.iter().flat_map(|cluster| &cluster.endpoints);
        ensure!(endpoints.all(|endpoint| endpoint.tls), "{}: plaintext to etcd", layout.display());
    }
    for path in ["config/minimal.yaml", "config/example.yaml", "deploy/debian/seawall.yaml"] {
        let settings = settings(&repo().join(path))?;
        let mut listeners = settings.listeners.iter().map(|it| it.listener.address.ip());
        ensure!(listeners.all(|address| address.is_loopback()), "{path}");
        let admin = settings.admin.context("an admin port")?.address.ip();
        ensure!(admin.is_loopback(), "{path}");
    }
    Ok(())
}
