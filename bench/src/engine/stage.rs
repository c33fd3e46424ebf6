use super::Plan;
use crate::{
    client::Dial,
    data::{DataSet, Emptiness, fill},
    measure::Group,
    scenario::{Scenario, Storage},
    target::{Endpoint, Subject},
};
use anyhow::{Context, Result};
use indicatif::ProgressBar;
use seawall_testkit::{Cluster, Member};
use std::{fs, path::Path, sync::Arc};

/// The etcd of a scenario, with its data; or, where endpoints are measured, only the data.
pub(crate) struct Stage {
    pub(crate) data: Arc<DataSet>,
    pub(crate) cluster: Option<Cluster>,
}

impl Stage {
    pub(super) async fn prepare(
        plan: &Plan,
        scenario: &Scenario,
        progress: &ProgressBar,
    ) -> Result<Self> {
        let root = match plan.subjects.first() {
            // Scenarios must not find what those before them left there.
            Some(Subject::Endpoint(_)) => format!("{}/{}", plan.root, scenario.name),
            _ => plan.root.clone(),
        };
        let data = Arc::new(DataSet::new(&root, plan.seed, scenario.data.clone()));
        if let Some(Subject::Endpoint(Endpoint { dial, .. })) = plan.subjects.first() {
            fill(dial, &data, Emptiness::Required, progress).await?;
            return Ok(Self { data, cluster: None });
        }
        let cluster = start(plan, scenario).await.context("starting etcd")?;
        fill(&dial(&cluster), &data, Emptiness::Given, progress).await?;
        save(&cluster).await.context("saving the data")?;
        Ok(Self { data, cluster: Some(cluster) })
    }

    /// Makes everything what it was before the first sample, unless etcd is someone else's.
    pub(super) async fn reset(&self) -> Result<()> {
        match &self.cluster {
            Some(cluster) => restore(cluster).await.context("restoring the data"),
            None => Ok(()),
        }
    }

    pub(super) fn etcd_processes(&self) -> Vec<(Group, u32)> {
        let members = self.cluster.iter().flat_map(Cluster::members);
        members.filter_map(Member::pid).map(|pid| (Group::Etcd, pid)).collect()
    }

    /// etcd itself, rather than what stands in front of it.
    pub(super) fn dial(&self) -> Option<Dial> {
        self.cluster.as_ref().map(dial)
    }
}

fn dial(cluster: &Cluster) -> Dial {
    Dial::plain(cluster.members().iter().map(Member::address))
}

/// With the largest quota etcd's authors recommend: it is used up by history between compactions.
async fn start(plan: &Plan, scenario: &Scenario) -> Result<Cluster> {
    let args = ["--log-level=error", "--quota-backend-bytes=8589934592"];
    let members = plan.members.unwrap_or(scenario.etcd.members);
    let builder =
        Cluster::builder().binaries(&plan.programs.etcd).extra_args(args).members(members);
    match plan.storage.unwrap_or(scenario.etcd.storage) {
        Storage::Memory => builder.start().await,
        Storage::Disk => builder.root("/var/tmp").start().await,
    }
}

/// Where the data of a member is kept between samples.
fn saved(cluster: &Cluster, member: &Member) -> std::path::PathBuf {
    cluster.dir().join(format!("{}.saved", member.name()))
}

async fn save(cluster: &Cluster) -> Result<()> {
    for member in cluster.members() {
        member.terminate().await?;
    }
    for member in cluster.members() {
        copy(&cluster.dir().join(member.name()), &saved(cluster, member))?;
    }
    Ok(())
}

async fn restore(cluster: &Cluster) -> Result<()> {
    for member in cluster.members() {
        if member.pid().is_some() {
            member.kill().await?;
        }
        let data = cluster.dir().join(member.name());
        if data.exists() {
            fs::remove_dir_all(&data)?;
        }
        copy(&saved(cluster, member), &data)?;
    }
    for member in cluster.members() {
        member.launch()?;
    }
    cluster.serving().await
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_whole() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("seawall-bench-copy-{}", std::process::id()));
        fs::create_dir_all(dir.join("from/member/wal"))?;
        fs::write(dir.join("from/member/wal/0"), b"log")?;
        copy(&dir.join("from"), &dir.join("to"))?;
        assert_eq!(fs::read(dir.join("to/member/wal/0"))?, b"log");
        Ok(fs::remove_dir_all(dir)?)
    }
}
