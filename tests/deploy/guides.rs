//! The commands of the guides in `docs/deploy`, run in their order against a real etcd, in a directory
//! that stands for the machine's root. A command is left out only if it needs what `ELSEWHERE` names. What
//! a guide does not say is not done for it: its reader has the files that it names, and nothing else.

use crate::{is_installed, layouts, read, repo, scratch, seawall, skipped, succeeds, tools};
use anyhow::{Context, Result, bail, ensure};
use seawall_testkit::{Binaries, Cluster, Pki, SeawallProcess};
use std::{env, fs, os::unix::fs::symlink, path::PathBuf, process::Command};

/// Commands that need a cluster of Kubernetes, a running systemd, another user or a build.
const ELSEWHERE: [&str; 11] = [
    "kubectl ",
    "systemctl ",
    "systemd-sysusers ",
    "systemd-analyze security seawall",
    "journalctl ",
    "docker ",
    "ctr ",
    "sudo apt ",
    "make build",
    "helm upgrade ",
    "helm -n seawall uninstall ",
];

/// The sections of a guide: their titles, and the commands in each.
fn sections(guide: &str) -> Result<Vec<(String, Vec<String>)>> {
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    let mut heredoc = false;
    let text = read(&format!("docs/deploy/{guide}.md"))?;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            sections.push((title.to_owned(), Vec::new()));
        }
        let (Some(code), Some((_, commands))) = (line.strip_prefix("    "), sections.last_mut())
        else {
            continue;
        };
        if code.ends_with(':') && !heredoc {
            // A block of YAML.
            while lines.next_if(|line| line.starts_with("    ")).is_some() {}
            continue;
        }
        match commands.last_mut() {
            Some(command) if heredoc => command.push_str(&format!("\n{code}")),
            _ => commands.push(code.to_owned()),
        }
        heredoc = match heredoc {
            true => code != "END",
            false => code.ends_with("<<END"),
        };
    }
    Ok(sections)
}

/// The address of a member that the guide has its reader put in.
const MEMBER: &str = "192.168.0.21:2379";

/// Certificates that whoever follows the guide has in the directory that he stands in.
const CERTIFICATES: &str = " ca.crt server.crt server.key client.crt client.key ";

/// A machine of its own: files below `root`, an etcd, and Seawall once it was started.
struct Machine {
    root: PathBuf,
    etcd: Cluster,
    seawall: Option<SeawallProcess>,
}

impl Machine {
    /// With etcd's certificates where kubeadm puts them, and kube-apiserver's manifest.
    async fn with_kubeadm(name: &str) -> Result<Self> {
        let (machine, pki) = Self::start(name).await?;
        layouts::install_certificates(&pki, &machine.root)?;
        let manifests = machine.root.join("etc/kubernetes/manifests");
        fs::create_dir_all(&manifests)?;
        fs::write(manifests.join("kube-apiserver.yaml"), KUBE_APISERVER)?;
        Ok(machine)
    }

    /// With certificates in a directory, and none in place.
    async fn bare(name: &str) -> Result<Self> {
        let (machine, pki) = Self::start(name).await?;
        let own = machine.root.join("own");
        fs::create_dir_all(&own)?;
        fs::copy(pki.ca(), own.join("ca.crt"))?;
        for (identity, name) in [(pki.server()?, "server"), (pki.client("seawall")?, "client")] {
            fs::copy(&identity.cert, own.join(name).with_extension("crt"))?;
            fs::copy(&identity.key, own.join(name).with_extension("key"))?;
        }
        Ok(machine)
    }

    async fn start(name: &str) -> Result<(Self, Pki)> {
        let root = scratch(name)?;
        let pki = Pki::new()?;
        let etcd = Cluster::builder().tls(&pki).client_cert_auth().start().await?;
        let bin = root.join("bin");
        fs::create_dir_all(&bin)?;
        symlink(seawall(), bin.join("seawall"))?;
        symlink(Binaries::selected()?.etcdctl(), bin.join("etcdctl"))?;
        Ok((Self { root, etcd, seawall: None }, pki))
    }

    fn config(&self) -> PathBuf {
        self.root.join("etc/seawall/seawall.yaml")
    }

    /// As whoever follows the guide edits it: with the addresses of the etcd that there is.
    fn edit_config(&self) -> Result<()> {
        let text = layouts::below(&self.root, &fs::read_to_string(self.config())?);
        let own = format!("    endpoints: [{}]", self.etcd.member(0).endpoint());
        let is_member = |line: &&str| line.trim_start().starts_with("- https://");
        let lines: Vec<_> = text
            .lines()
            .filter(|line| !is_member(line))
            .map(|line| if line == "    endpoints:" { &*own } else { line })
            .collect();
        Ok(fs::write(self.config(), lines.join("\n") + "\n")?)
    }

    /// As kubelet and systemd do.
    async fn start_seawall(&mut self) -> Result<()> {
        let builder = SeawallProcess::builder().binary(seawall());
        let config = self.config();
        let args = ["--config".as_ref(), config.as_os_str()];
        self.seawall = Some(builder.args(args).start().await?);
        Ok(())
    }

    /// The configuration as it is, for a machine whose root is a directory.
    fn move_config(&self) -> Result<()> {
        let text = fs::read_to_string(self.config())?;
        Ok(fs::write(self.config(), layouts::below(&self.root, &text))?)
    }

    /// A command of the guide with the places and ports of this machine, and the group of who runs it.
    fn translate(&self, command: &str) -> Result<String> {
        let root = self.root.display();
        let member = self.etcd.member(0).endpoint();
        let own = CERTIFICATES.replace(' ', &format!(" {root}/own/"));
        let mut command = command
            .replace(MEMBER, member.trim_start_matches("https://"))
            .replace(CERTIFICATES, own.trim_end_matches(&format!("{root}/own/")))
            .replace(" -g seawall ", " ")
            .replace(" /etc/", &format!(" {root}/etc/"))
            .replace(">/etc/", &format!(">{root}/etc/"))
            .replace(" /usr/", &format!(" {root}/usr/"))
            .replace("target/release/seawall", &seawall().display().to_string())
            .replace("target/debian", &format!("{root}/debian"))
            .replace(" values.yaml", &format!(" {root}/values.yaml"))
            .replace(">values.yaml", &format!(">{root}/values.yaml"));
        if command.starts_with("deploy/static-pod/point-apiserver ") {
            command.push_str(&format!(" {}", self.manifest("kube-apiserver.yaml").display()));
        }
        if let Some(seawall) = &self.seawall {
            command = command
                .replace("127.0.0.1:23791", &seawall.admin()?.to_string())
                .replace("127.0.0.1:23790", &seawall.address("apiserver")?.to_string());
        }
        Ok(command)
    }

    fn run(&self, command: &str) -> Result<String> {
        let mut places = vec![self.root.join("bin"), tools().join("helm/bin")];
        places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &self.translate(command)?]);
        shell.current_dir(repo()).env("PATH", env::join_paths(places)?);
        Ok(succeeds(&mut shell)?.0)
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.root.join("etc/kubernetes/manifests").join(name)
    }
}

/// As much of it as matters here.
const KUBE_APISERVER: &str = "spec:
  containers:
  - command:
    - kube-apiserver
    - --etcd-cafile=/etc/kubernetes/pki/etcd/ca.crt
    - --etcd-servers=https://127.0.0.1:2379
    - --secure-port=6443
";

/// Whether this machine has what the command needs; what it lacks is told.
fn can_run(command: &str) -> bool {
    if ELSEWHERE.iter().any(|elsewhere| command.starts_with(elsewhere)) {
        return false;
    }
    let program = command.split_whitespace().next().unwrap_or_default();
    let ours = ["seawall", "etcdctl"].contains(&program) || program.contains('/');
    let found = ours || is_installed(program) || tools().join(program).join("bin").exists();
    if !found {
        skipped(&format!("a guide's command was NOT run: there is no {program}: {command}"));
    }
    found
}

/// Runs the commands of a section, and after each what the guide leaves to its reader.
async fn follow(
    machine: &mut Machine,
    commands: &[String],
    mut after: impl AsyncFnMut(&mut Machine, &str) -> Result<()>,
) -> Result<()> {
    for command in commands {
        if can_run(command) {
            machine.run(command)?;
        }
        after(machine, command).await.with_context(|| command.clone())?;
    }
    Ok(())
}

/// Where kube-apiserver would look for etcd.
fn etcd_servers(machine: &Machine) -> Result<String> {
    let manifest = fs::read_to_string(machine.manifest("kube-apiserver.yaml"))?;
    ensure!(manifest.lines().count() == KUBE_APISERVER.lines().count(), "{manifest}");
    let flag = manifest.lines().find_map(|line| line.trim().strip_prefix("- --etcd-servers="));
    Ok(flag.context("the flag")?.to_owned())
}

#[tokio::test]
async fn kubeadm() -> Result<()> {
    let mut machine = Machine::with_kubeadm("kubeadm").await?;
    for (title, commands) in sections("kubeadm")? {
        follow(&mut machine, &commands, async |machine, command| {
            if command.starts_with("sed -i ") {
                machine.edit_config()?;
            }
            Ok(())
        })
        .await?;
        match &*title {
            // kubelet does.
            "Install" => {
                let pod = fs::read_to_string(machine.manifest("seawall.yaml"))?;
                ensure!(pod.contains("image: registry.internal/seawall:"), "{pod}");
                machine.start_seawall().await?;
            }
            "Switch over" => {
                let seawall = machine.seawall.as_ref().context("it runs")?;
                assert_eq!(
                    etcd_servers(&machine)?,
                    format!("https://{}", seawall.address("apiserver")?)
                );
            }
            "Take out" => {
                assert_eq!(etcd_servers(&machine)?, "https://127.0.0.1:2379");
                ensure!(!machine.manifest("seawall.yaml").exists());
            }
            _ => {}
        }
    }
    Ok(())
}

#[tokio::test]
async fn systemd() -> Result<()> {
    let mut machine = Machine::bare("systemd-guide").await?;
    for (title, commands) in sections("systemd")? {
        follow(&mut machine, &commands, async |machine, command| {
            match command.starts_with("sed -i ") {
                true => machine.move_config(),
                false => Ok(()),
            }
        })
        .await?;
        match &*title {
            // systemd does.
            "Install" => machine.start_seawall().await?,
            "Take out" => {
                ensure!(!machine.root.join("etc/seawall").exists(), "something is left");
            }
            _ => {}
        }
    }
    Ok(())
}

#[tokio::test]
async fn kubernetes() -> Result<()> {
    let mut machine = Machine::with_kubeadm("kubernetes").await?;
    fs::create_dir_all(machine.root.join("etc/seawall"))?;
    fs::copy(repo().join("deploy/layouts/one-external.yaml"), machine.config())?;
    machine.edit_config()?;
    machine.start_seawall().await?;
    for (_, commands) in sections("kubernetes")? {
        follow(&mut machine, &commands, async |_, _| Ok(())).await?;
    }
    Ok(())
}

#[tokio::test]
async fn debian() -> Result<()> {
    let mut machine = Machine::with_kubeadm("debian").await?;
    for (_, commands) in sections("debian")? {
        follow(&mut machine, &commands, async |machine, command| {
            let package = machine.root.join("debian").join("seawall_*.deb");
            match command {
                "sudo apt install ./target/debian/seawall_*.deb" if is_installed("dpkg-deb") => {
                    let unpack =
                        format!("dpkg-deb -x {} {}", package.display(), machine.root.display());
                    machine.run(&unpack).map(drop)
                }
                _ => Ok(()),
            }
        })
        .await?;
    }
    Ok(())
}

/// A guide that nobody follows here is not tested.
#[test]
fn every_guide_is_followed() -> Result<()> {
    let dir = repo().join("docs/deploy");
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.file_stem().and_then(|stem| stem.to_str()) {
            Some("kubeadm" | "systemd" | "kubernetes" | "debian") => {}
            // Have no steps.
            Some("alerts" | "dashboard") => {}
            _ => bail!("no test follows {}", path.display()),
        }
    }
    Ok(())
}

/// Paths that guides and files in `deploy/` refer to.
#[test]
fn links_lead_somewhere() -> Result<()> {
    for entry in fs::read_dir(repo().join("docs/deploy"))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            let found = file.is_empty() || path.parent().is_some_and(|dir| dir.join(file).exists());
            ensure!(found, "{} leads to {target}", path.display());
        }
    }
    Ok(())
}
