//! What was measured: as tables for people, as JSON with every sample, and where it was measured.

mod environment;
mod figures;
mod tables;

use crate::{
    measure::Measurement,
    passthrough::Plan,
    target::Target,
    workload::{Experiment, Workload},
};
use anyhow::{Context, Result};
use environment::Environment;
use serde::Serialize;
use std::{fmt, fs, path::Path};

/// One experiment of one target in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    #[serde(flatten)]
    pub(crate) experiment: Experiment,
    pub(crate) target: Target,
    pub(crate) round: usize,
    #[serde(flatten)]
    pub(crate) measurement: Measurement,
}

/// All samples so far, and what must be known about them.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    environment: Environment,
    notes: Vec<String>,
    failures: Vec<String>,
    samples: Vec<Sample>,
}

impl Report {
    pub(crate) fn new(plan: &Plan) -> Result<Self> {
        let versions = plan.programs.versions(&plan.targets)?;
        let environment = Environment::here(versions)?;
        let notes = plan.left_out.clone();
        Ok(Self { environment, notes, failures: Vec::new(), samples: Vec::new() })
    }

    pub(crate) fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// Says something that a reader of the figures must know.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Says what could not be measured, and why.
    pub(crate) fn failure(&mut self, failure: String) {
        eprintln!("{failure}");
        self.failures.push(failure);
    }

    /// Whether everything was measured and every single answer was right.
    pub(crate) fn is_clean(&self) -> bool {
        let right = |sample: &Sample| sample.measurement.errors.is_empty();
        self.failures.is_empty() && self.samples.iter().all(right)
    }

    /// Prints the tables, and writes the files that were asked for.
    pub(crate) fn write(&self, json: Option<&Path>, markdown: Option<&Path>) -> Result<()> {
        let text = self.to_string();
        println!("{text}");
        if let Some(path) = markdown {
            write(path, &text)?;
        }
        if let Some(path) = json {
            write(path, &serde_json::to_string_pretty(self)?)?;
        }
        Ok(())
    }

    fn of(&self, workloads: &[Workload]) -> Vec<&Sample> {
        let chosen = |sample: &&Sample| workloads.contains(&sample.experiment.workload);
        self.samples.iter().filter(chosen).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.environment)?;
        let others = self.samples.iter().map(|sample| sample.measurement.costs.others_cores);
        if let Some(cores) = figures::Spread::of(others) {
            writeln!(f, "- Cores that other work took during the samples: {cores}")?;
        }
        for note in self.notes.iter().chain(&self.failures) {
            writeln!(f, "- {note}")?;
        }
        let small = [Workload::Get, Workload::Put, Workload::Txn];
        tables::small_operations(f, &self.of(&small))?;
        tables::lists(f, &self.of(&[Workload::List100]))?;
        tables::memory(f, &self.of(&[Workload::Mem100]))?;
        tables::errors(f, &self.samples)
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = figures::number(self.measurement.per_second);
        let errors: u64 = self.measurement.errors.values().sum();
        write!(f, "{} {}: {per_second}/s, {errors} errors", self.experiment, self.target)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
