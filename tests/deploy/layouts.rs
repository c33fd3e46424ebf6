//! The configurations in `deploy/layouts`.

use crate::{read, repo, run, scratch, seawall};
use anyhow::{Context, Result, ensure};
use seawall::config::{self, Flags, Settings};
use seawall_testkit::Pki;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

pub(crate) fn all() -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(repo().join("deploy/layouts"))?;
    let mut files: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    Ok(files)
}

pub(crate) fn settings(file: &Path) -> Result<Settings> {
    let text = fs::read_to_string(file)?;
    Ok(config::build(Some((file, &text)), &Flags::default())?.settings)
}

/// Puts certificates below `root` where kubeadm and the layouts expect them.
pub(crate) fn install_certificates(pki: &Pki, root: &Path) -> Result<()> {
    let (server, client) = (pki.server()?, pki.client("kube-apiserver-etcd-client")?);
    let kubernetes = root.join("etc/kubernetes/pki");
    let ours = root.join("etc/seawall/pki");
    fs::create_dir_all(kubernetes.join("etcd"))?;
    fs::create_dir_all(&ours)?;
    fs::copy(pki.ca(), kubernetes.join("etcd/ca.crt"))?;
    for (identity, places) in [
        (&server, [kubernetes.join("etcd/server"), ours.join("server")]),
        (&client, [kubernetes.join("etcd/healthcheck-client"), ours.join("client")]),
        (&client, [kubernetes.join("apiserver-etcd-client"), ours.join("client")]),
    ] {
        for place in places {
            fs::copy(&identity.cert, place.with_extension("crt"))?;
            fs::copy(&identity.key, place.with_extension("key"))?;
        }
    }
    Ok(())
}

/// A configuration for machines whose files are below `root`.
pub(crate) fn below(root: &Path, text: &str) -> String {
    text.replace(" /etc/", &format!(" {}/etc/", root.display()))
}

/// The most that Seawall fills with what clients ask for, and what it needs besides.
pub(crate) fn memory(settings: &Settings) -> u64 {
    const BESIDES: u64 = 1 << 30;
    let mirrors = settings.mirror.memory_bytes * settings.clusters.len() as u64;
    settings.protection.memory_bytes + mirrors + BESIDES
}

/// The limit of a container, in bytes.
pub(crate) fn memory_limit(pod: &str) -> Result<u64> {
    let (_, limits) = pod.split_once("limits:").context("limits")?;
    let limit = limits.lines().find_map(|line| line.trim().strip_prefix("memory: "));
    let gigabytes: u64 = limit.and_then(|limit| limit.strip_suffix("Gi")).context("Gi")?.parse()?;
    Ok(gigabytes << 30)
}

/// How long any of them takes leave of its clients.
pub(crate) fn longest_drain() -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for layout in all()? {
        let drain = settings(&layout)?.drain;
        longest = longest.max(drain.delay + drain.grace);
    }
    Ok(longest)
}

#[test]
fn every_layout_is_sound() -> Result<()> {
    let root = scratch("layouts")?;
    install_certificates(&Pki::new()?, &root)?;
    for layout in all()? {
        let file = root.join(layout.file_name().context("a file has a name")?);
        fs::write(&file, below(&root, &fs::read_to_string(&layout)?))?;
        let (_, warnings) = run(seawall(), &["check".as_ref(), "--config".as_ref(), &*file])?;
        ensure!(warnings.is_empty(), "{}: {warnings}", layout.display());
    }
    Ok(())
}

#[test]
fn there_is_a_layout_for_each_size_place_and_number_of_clusters() -> Result<()> {
    let mut names = Vec::new();
    for layout in all()? {
        let settings = settings(&layout)?;
        let name = layout.file_stem().context("a file has a name")?.to_string_lossy().into_owned();
        let main = settings.clusters.iter().find(|cluster| cluster.name == "main");
        let members = main.context("a cluster main")?.endpoints.len();
        let size = match members {
            1 => "one",
            3 => "three",
            5 => "five",
            _ => "another number",
        };
        ensure!(name.starts_with(size), "{name} has {members} members");
        let routes: Vec<_> =
            settings.listeners[0].routes.iter().map(|route| &*route.prefix).collect();
        let expected = if name.ends_with("-events") { vec!["/registry/events"] } else { vec![] };
        ensure!(routes == expected, "{name} routes {routes:?}");
        names.push(name);
    }
    ensure!(names.len() == 12, "{names:?}");
    Ok(())
}

/// The pod's manifest and the layouts speak of the same addresses, and kubelet waits for a drain.
#[test]
fn the_static_pod_fits_the_layouts() -> Result<()> {
    let pod = read("deploy/static-pod/seawall.yaml")?;
    for layout in all()? {
        let settings = settings(&layout)?;
        let admin = settings.admin.as_ref().context("an admin port")?;
        let listener = settings.listeners[0].listener.address;
        ensure!(listener.ip().is_loopback() && admin.address.ip().is_loopback());
        for port in [listener.port(), admin.address.port()] {
            ensure!(pod.contains(&format!("containerPort: {port}")), "the pod has no port {port}");
        }
        let probed = format!("host: 127.0.0.1, port: {}, path: /livez", admin.address.port());
        ensure!(pod.contains(&probed), "kubelet does not look at /livez");
        ensure!(
            memory_limit(&pod)? >= memory(&settings),
            "it would be killed for what it may hold"
        );
    }
    let kubeadm = read("deploy/static-pod/kubeadm-config.yaml")?;
    ensure!(
        kubeadm.contains("value: https://127.0.0.1:23790\n"),
        "kubeadm is told another address"
    );
    let patience = pod.lines().find_map(|line| {
        line.trim().strip_prefix("terminationGracePeriodSeconds: ")?.parse::<u64>().ok()
    });
    ensure!(patience.context("a grace period")? > longest_drain()?.as_secs());
    Ok(())
}
