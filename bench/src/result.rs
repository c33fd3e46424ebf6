//! What came of a run: everything a report is made of, as JSON keeps it.

use crate::{
    measure::{Cost, Figures, Group},
    scenario::Scenario,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Changes with every field that another program could miss.
pub(crate) const FORMAT: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) format: u32,
    pub(crate) environment: Environment,
    /// What a reader of the figures must know.
    pub(crate) notes: Vec<String>,
    /// What could not be measured, and why.
    pub(crate) failures: Vec<String>,
    /// As they were run: scaled and stretched.
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) samples: Vec<Sample>,
}

/// Where, when and with what it was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Environment {
    pub(crate) date: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    /// How many tasks wanted to run when the run began, over the last minute: the noise.
    pub(crate) load_average: f32,
    pub(crate) versions: Vec<String>,
    pub(crate) command: String,
    pub(crate) seed: u64,
    pub(crate) scale: f64,
    pub(crate) is_debug: bool,
    /// What the client can do when nothing is in its way.
    pub(crate) ceiling: Option<Ceiling>,
}

/// What one thread of the client gets from a server that does nothing, over the loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ceiling {
    pub(crate) reads_per_second: f64,
    pub(crate) list_bytes_per_second: f64,
}

/// One scenario of one target in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) scenario: String,
    pub(crate) target: String,
    pub(crate) round: usize,
    pub(crate) phases: Vec<PhaseSample>,
    /// Answers that etcd never gives, writes and events that were lost or doubled, by what it was.
    pub(crate) violations: BTreeMap<String, u64>,
    pub(crate) happened: Vec<Happened>,
    pub(crate) usage: Vec<Usage>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PhaseSample {
    pub(crate) name: String,
    /// Seconds since the counted part of the sample began.
    pub(crate) at: f64,
    pub(crate) lasted: f64,
    pub(crate) parts: Vec<Part>,
    pub(crate) costs: BTreeMap<Group, Cost>,
    /// How many cores all other work on the machine took, with what a hypervisor stole.
    pub(crate) others_cores: f64,
    /// How much of its time the busiest thread of the client ran.
    pub(crate) client_busy: f64,
    /// Unless etcd was not started for this, or was ended meanwhile.
    pub(crate) served: Option<Served>,
}

/// A workload, or watchers, in a phase.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) figures: Figures,
}

/// What etcd itself had to do, as its metrics say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Served {
    /// Ranges of any size that it answered.
    pub(crate) ranges: u64,
    /// Transactions and puts.
    pub(crate) writes: u64,
    /// All that it sent to its clients.
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
}

/// A step of the scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Happened {
    pub(crate) at: f64,
    pub(crate) what: String,
    /// How long it took, or why it failed.
    pub(crate) took: f64,
    pub(crate) error: Option<String>,
}

/// A moment of the time line of processes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) at: f64,
    /// Busy cores, and resident bytes.
    pub(crate) groups: BTreeMap<Group, (f64, u64)>,
}

impl Sample {
    pub(crate) fn phase(&self, name: &str) -> Option<&PhaseSample> {
        self.phases.iter().find(|phase| phase.name == name)
    }

    pub(crate) fn violation_count(&self) -> u64 {
        self.violations.values().sum()
    }
}

impl PhaseSample {
    pub(crate) fn part(&self, name: &str) -> Option<&Figures> {
        self.parts.iter().find(|part| part.name == name).map(|part| &part.figures)
    }
}

impl Results {
    /// Whether everything was measured and every single answer was right.
    pub(crate) fn is_clean(&self) -> bool {
        self.failures.is_empty() && self.samples.iter().all(|sample| sample.violations.is_empty())
    }

    /// In the order in which they were measured first.
    pub(crate) fn targets<'a>(&'a self, scenario: &'a str) -> Vec<&'a str> {
        let mut targets = Vec::new();
        // The first round begins with the first target.
        for sample in self.of(scenario, None) {
            if !targets.contains(&&*sample.target) {
                targets.push(&*sample.target);
            }
        }
        targets.sort_by_key(|target| TARGET_ORDER.iter().position(|known| known == target));
        targets
    }

    /// The samples of a scenario, of one target or of all.
    pub(crate) fn of<'a>(
        &'a self,
        scenario: &'a str,
        target: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.scenario == scenario && target.is_none_or(|target| sample.target == target)
        })
    }
}

/// What is started comes in this order, endpoints before it, as they were named.
const TARGET_ORDER: [&str; 6] =
    ["direct", "grpc-proxy", "haproxy-tcp", "haproxy-h2", "seawall", "seawall-mirror"];
