//! What was measured: as tables for people, as JSON with every sample, and where it was measured.

mod environment;
mod figures;
mod passthrough;
mod rows;
mod storm;

pub(crate) use passthrough::Sample as PassthroughSample;
pub(crate) use storm::{
    HotKeyFigures, Outcome as StormOutcome, Sample as StormSample, StormFigures,
};

use crate::{
    measure::Costs,
    target::{Programs, Target},
};
use anyhow::{Context, Result};
use environment::Environment;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::{self, Display, Write},
    fs,
    path::Path,
};

/// One experiment of one target in one round.
pub(crate) trait Sample: Display + Serialize + Sized {
    type Experiment: Copy + Display + PartialEq;

    fn experiment(&self) -> Self::Experiment;
    fn target(&self) -> Target;
    fn round(&self) -> usize;
    fn costs(&self) -> &Costs;
    /// What was not answered rightly, by part of the experiment and by reason.
    fn errors(&self) -> Vec<(&'static str, &BTreeMap<String, u64>)>;
    /// Whether the run may count as a success.
    fn is_right(&self) -> bool;
    fn tables(out: &mut impl Write, samples: &[Self]) -> fmt::Result;
}

/// All samples so far, and what must be known about them.
#[derive(Debug, Serialize)]
pub(crate) struct Report<S> {
    environment: Environment,
    notes: Vec<String>,
    failures: Vec<String>,
    samples: Vec<S>,
}

impl<S: Sample> Report<S> {
    pub(crate) fn new(programs: &Programs, targets: &[Target], notes: &[String]) -> Result<Self> {
        let environment = Environment::here(programs.versions(targets)?)?;
        Ok(Self { environment, notes: notes.to_vec(), failures: Vec::new(), samples: Vec::new() })
    }

    pub(crate) fn add(&mut self, sample: S) {
        eprintln!("round {}: {sample}", sample.round() + 1);
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
        self.failures.is_empty() && self.samples.iter().all(Sample::is_right)
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
}

impl<S: Sample> Display for Report<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.environment)?;
        let others = self.samples.iter().map(|sample| sample.costs().others_cores);
        if let Some(cores) = figures::Spread::of(others) {
            writeln!(f, "- Cores that other work took during the samples: {cores}")?;
        }
        for note in self.notes.iter().chain(&self.failures) {
            writeln!(f, "- {note}")?;
        }
        S::tables(f, &self.samples)?;
        errors(f, &self.samples)
    }
}

/// Every operation that was not answered rightly, by reason.
fn errors<S: Sample>(out: &mut impl Write, samples: &[S]) -> fmt::Result {
    let any = |sample: &&S| sample.errors().iter().any(|(_, errors)| !errors.is_empty());
    let failed: Vec<_> = samples.iter().filter(any).collect();
    if failed.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n### Errors\n")?;
    for sample in failed {
        let (experiment, target, round) =
            (sample.experiment(), sample.target(), sample.round() + 1);
        for (part, errors) in sample.errors() {
            let of_part = if part.is_empty() { String::new() } else { format!(", {part}") };
            for (reason, count) in errors {
                writeln!(
                    out,
                    "- {experiment} of {target}, round {round}{of_part}: {count} × {reason}"
                )?;
            }
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
