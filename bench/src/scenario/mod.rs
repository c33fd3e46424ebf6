//! What is measured, as a file says it: data, phases, and who asks for what in each.

mod builtin;
mod load;
mod span;

pub(crate) use builtin::{builtin, builtins};
pub(crate) use load::Load;
pub(crate) use span::Span;

use crate::data::{Amount, Resource};
use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// That of its file.
    #[serde(default)]
    pub(crate) name: String,
    pub(crate) title: String,
    /// What happens, to whom, and why it matters: one paragraph.
    pub(crate) story: String,
    /// It takes long, and is measured only where it is named.
    #[serde(default)]
    pub(crate) by_name: bool,
    #[serde(default)]
    pub(crate) etcd: Etcd,
    pub(crate) data: BTreeMap<Resource, Amount>,
    /// The first phase runs so long before anything is counted.
    #[serde(default = "Span::second")]
    pub(crate) warm_up: Span,
    pub(crate) phases: Vec<Phase>,
    #[serde(default)]
    pub(crate) workloads: Vec<Workload>,
    #[serde(default)]
    pub(crate) watchers: Vec<Watchers>,
    #[serde(default)]
    pub(crate) steps: Vec<Step>,
    /// The figures that tell the story, the most telling first.
    pub(crate) headlines: Vec<Headline>,
}

/// The etcd that is started for it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Etcd {
    pub(crate) members: usize,
    pub(crate) storage: Storage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Storage {
    /// A file system in memory, so that no disk is measured.
    Memory,
    Disk,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) lasts: Span,
}

/// Operations of one kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) ask: Ask,
    pub(crate) load: Load,
    /// In which they run; in all without this.
    #[serde(default)]
    pub(crate) phases: Vec<String>,
    #[serde(default = "four")]
    pub(crate) connections: usize,
}

/// What one operation asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Ask {
    /// One object.
    Get { of: Resource },
    /// The current revision, as kube-apiserver asks for it: the bare name of the resource.
    Revision { of: Resource },
    /// All objects at once.
    List {
        of: Resource,
        /// Each in flight begins at another key, so that no two requests are the same.
        #[serde(default)]
        own: bool,
    },
    /// All objects, in pages at the revision of the first.
    Pages {
        of: Resource,
        limit: u64,
        /// Also the first page is asked for at a revision, as kube-apiserver's consistency check does.
        #[serde(default)]
        pinned: bool,
    },
    /// How many there are.
    Count { of: Resource },
    /// A plain put over an object.
    Put { of: Resource },
    /// Kubernetes' update: compare the revision, put, else range.
    Update { of: Resource },
    /// A new object each time.
    Create { of: Resource },
    /// A new object, which the next operation deletes.
    Churn { of: Resource },
    /// kube-apiserver's health check.
    Health,
    /// A lease of so many seconds.
    Grant { ttl: i64 },
    /// Two keys around all objects get the same new number in one transaction, which lists verify.
    Counter { of: Resource },
}

/// Those who watch a resource through all phases.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Watchers {
    pub(crate) name: String,
    pub(crate) of: Resource,
    pub(crate) count: usize,
    /// They share so many streams, each on a connection of its own.
    pub(crate) streams: usize,
    /// How long each rests after a message.
    #[serde(default)]
    pub(crate) rests: Span,
    /// When the connection breaks, they list all objects in pages of so many before they watch again.
    #[serde(default)]
    pub(crate) relist_limit: Option<u64>,
}

/// Something that happens once.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    pub(crate) phase: String,
    /// After the phase began.
    pub(crate) at: Span,
    #[serde(rename = "do")]
    pub(crate) action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Of all history but the newest.
    Compact,
    /// Of every member, one after the other.
    Defragment,
    KillLeader,
    KillFollower,
    /// All that are down.
    StartMembers,
    MoveLeader,
    /// All connections of watchers.
    BreakWatches,
}

/// One figure of one workload or of watchers in one phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Headline {
    /// In the words of an operator.
    pub(crate) says: String,
    /// The name of a workload, or of watchers.
    pub(crate) of: String,
    pub(crate) phase: String,
    pub(crate) figure: Figure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    PerSecond,
    MibPerSecond,
    P50Ms,
    P99Ms,
    MaxMs,
    /// Processor seconds of all members in the phase.
    EtcdCpu,
    EtcdPeakMib,
    PeerPeakMib,
}

fn four() -> usize {
    4
}

impl Default for Etcd {
    fn default() -> Self {
        Self { members: 1, storage: Storage::Memory }
    }
}

impl Ask {
    /// Whose objects are asked for.
    pub(crate) fn of(self) -> Option<Resource> {
        match self {
            Self::Get { of }
            | Self::Revision { of }
            | Self::List { of, .. }
            | Self::Pages { of, .. }
            | Self::Count { of }
            | Self::Put { of }
            | Self::Update { of }
            | Self::Create { of }
            | Self::Churn { of }
            | Self::Counter { of } => Some(of),
            Self::Health | Self::Grant { .. } => None,
        }
    }

    /// Whether an answer holds many objects, so that others would wait for it in the client.
    pub(crate) fn is_heavy(self) -> bool {
        matches!(self, Self::List { .. } | Self::Pages { .. })
    }

    /// Whether objects come or go by it.
    fn changes_count(self) -> bool {
        matches!(self, Self::Create { .. } | Self::Churn { .. })
    }

    /// Whether it writes objects that others write too if they ask for the same.
    fn owns_objects(self) -> bool {
        matches!(self, Self::Put { .. } | Self::Update { .. } | Self::Counter { .. })
    }
}

impl Scenario {
    /// Of one of those that are built in, or of a file.
    pub(crate) fn find(name: &str) -> Result<Self> {
        if let Some(found) = builtin(name) {
            return found;
        }
        let path = Path::new(name);
        ensure!(
            path.extension().is_some_and(|end| end == "yaml"),
            "there is no scenario {name}: `seawall-bench list` names them, a file ends in .yaml"
        );
        let text = fs::read_to_string(path).with_context(|| format!("reading {name}"))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self::parse(&stem, name, &text)
    }

    /// # Errors
    ///
    /// With line and column of what is not as it must be.
    pub(crate) fn parse(name: &str, file: &str, text: &str) -> Result<Self> {
        let parsed: Result<Self, _> = serde_saphyr::from_str(text);
        let mut scenario = parsed.map_err(|error| match error.location() {
            Some(place) => anyhow!("{file}:{}:{}: {error}", place.line(), place.column()),
            None => anyhow!("{file}: {error}"),
        })?;
        scenario.name = name.to_owned();
        scenario.story = scenario.story.split_whitespace().collect::<Vec<_>>().join(" ");
        scenario.check().with_context(|| format!("{file} makes no sense"))?;
        Ok(scenario)
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.phases.is_empty(), "it has no phases");
        ensure!([1, 3, 5].contains(&self.etcd.members), "etcd has 1, 3 or 5 members");
        self.check_names()?;
        let named = |phase: &String| self.phases.iter().any(|known| known.name == *phase);
        let references = self.workloads.iter().flat_map(|workload| &workload.phases);
        let references = references.chain(self.steps.iter().map(|step| &step.phase));
        for phase in references.chain(self.headlines.iter().map(|headline| &headline.phase)) {
            ensure!(named(phase), "there is no phase {phase}");
        }
        let asked = self.workloads.iter().filter_map(|workload| workload.ask.of());
        for resource in asked.chain(self.watchers.iter().map(|watchers| watchers.of)) {
            ensure!(self.data.contains_key(&resource), "there is no data of {}", resource.path());
        }
        for watchers in &self.watchers {
            let (count, streams) = (watchers.count, watchers.streams);
            ensure!(
                (1..=count).contains(&streams),
                "{count} watchers cannot share {streams} streams"
            );
        }
        Ok(())
    }

    fn check_names(&self) -> Result<()> {
        let workloads = self.workloads.iter().map(|workload| &workload.name);
        let names: Vec<_> = workloads.chain(self.watchers.iter().map(|each| &each.name)).collect();
        let unique: BTreeSet<_> = names.iter().collect();
        ensure!(unique.len() == names.len(), "two workloads have the same name");
        for Headline { of, .. } in &self.headlines {
            let relists = |each: &Watchers| each.relist_limit.is_some() && *of == each.relists();
            let known = names.contains(&of) || self.watchers.iter().any(relists);
            ensure!(known, "there is no workload {of}");
        }
        let mut owned = BTreeSet::new();
        for Workload { name, ask, .. } in &self.workloads {
            let of = (ask.of(), matches!(ask, Ask::Counter { .. }));
            let alone = !ask.owns_objects() || owned.insert(of);
            ensure!(alone, "{name} writes objects that another workload writes");
        }
        Ok(())
    }

    /// Whether nothing of the scenario makes or deletes objects of a resource.
    pub(crate) fn keeps_count(&self, resource: Resource) -> bool {
        let of = self.workloads.iter().filter(|workload| workload.ask.of() == Some(resource));
        of.map(|workload| workload.ask).all(|ask| !ask.changes_count())
    }

    pub(crate) fn counts(&self, resource: Resource) -> bool {
        self.workloads.iter().any(|workload| workload.ask == Ask::Counter { of: resource })
    }

    /// The same with all rates, numbers of objects and watchers multiplied.
    pub(crate) fn scaled(mut self, factor: f64) -> Self {
        let scale = |count: usize| ((count as f64 * factor).round() as usize).max(1);
        for amount in self.data.values_mut() {
            amount.count = scale(amount.count);
        }
        for workload in &mut self.workloads {
            // One that counts, or asks one at a time, does so at any scale.
            if !matches!(workload.ask, Ask::Counter { .. } | Ask::Health) {
                workload.load = workload.load.scaled(factor);
            }
        }
        for watchers in &mut self.watchers {
            watchers.count = scale(watchers.count);
            watchers.streams = scale(watchers.streams).min(watchers.count);
        }
        self
    }

    /// The same with all phases so many times as long, and its steps where they were in them.
    pub(crate) fn stretched(mut self, factor: f64) -> Self {
        for phase in &mut self.phases {
            phase.lasts = phase.lasts.times(factor);
        }
        for step in &mut self.steps {
            step.at = step.at.times(factor);
        }
        self
    }
}

impl Watchers {
    /// Under which name it is told how long they took to be current again.
    pub(crate) fn relists(&self) -> String {
        format!("{} relist", self.name)
    }
}

impl Workload {
    pub(crate) fn runs_in(&self, phase: &Phase) -> bool {
        self.phases.is_empty() || self.phases.contains(&phase.name)
    }
}

#[cfg(test)]
mod tests;
