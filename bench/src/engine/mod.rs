//! Runs scenarios: rounds over scenarios over targets, each sample on the same data.

mod account;
mod ceiling;
mod hands;
mod phase;
mod sample;
mod served;
mod stage;
mod steps;
mod truth;
mod watch;

pub(crate) use ceiling::ceiling;
pub(crate) use stage::Stage;

use crate::{
    data::DataSet,
    measure::{ensure_memory, ensure_wire},
    result::{Results, Sample},
    scenario::{Ask, Scenario, Storage},
    target::{Programs, Subject, Target},
};
use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Plan {
    /// None where nothing is started.
    pub(crate) programs: Option<Programs>,
    /// The first is what the others are compared with.
    pub(crate) subjects: Vec<Subject>,
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) rounds: usize,
    /// Before the name of each resource.
    pub(crate) root: String,
    pub(crate) seed: u64,
    /// Instead of what scenarios say.
    pub(crate) storage: Option<Storage>,
    pub(crate) members: Option<usize>,
}

/// Measures everything, and puts each sample into the results as soon as it is there.
pub(crate) async fn run(plan: &Plan, results: &mut Results) -> Result<()> {
    if let Err(error) = ensure_wire() {
        results.notes.push(format!("Bytes on the wire are left out: {error:#}"));
    }
    let bars = MultiProgress::new();
    let style = ProgressStyle::with_template("{elapsed_precise} {bar:30} {pos}/{len} {msg}")?;
    let samples = plan.scenarios.len() * plan.rounds * plan.subjects.len();
    let bar = bars.add(ProgressBar::new(samples as u64).with_style(style.clone()));
    for (index, scenario) in plan.scenarios.iter().enumerate() {
        bar.set_message(format!("{}: preparing", scenario.name));
        let filling = bars.add(ProgressBar::new(0).with_style(style.clone()));
        let staged = Box::pin(Stage::prepare(plan, scenario, &filling)).await;
        filling.finish_and_clear();
        let run = Run { plan, scenario, bar: &bar };
        match staged {
            Ok(stage) => run.rounds(&stage, index, results).await,
            // What one scenario needs and is not there spoils no other.
            Err(error) => run.failed(&format!("{}: {error:#}", scenario.name), results),
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// One scenario of a run.
struct Run<'a> {
    plan: &'a Plan,
    scenario: &'a Scenario,
    bar: &'a ProgressBar,
}

impl Run<'_> {
    /// All subjects one after the other in each round, so that they meet the same machine. Who begins
    /// changes with the round and the scenario.
    async fn rounds(&self, stage: &Stage, index: usize, results: &mut Results) {
        let name = &self.scenario.name;
        for round in 0..self.plan.rounds {
            for subject in in_turn(&self.plan.subjects, round + index) {
                self.bar.set_message(format!("{name}, {subject}, round {}", round + 1));
                if let Err(shortage) =
                    ensure_memory(memory_mib(self.scenario, subject, &stage.data))
                {
                    let note = format!("{name} of {subject} is left out: {shortage}");
                    if !results.notes.contains(&note) {
                        results.notes.push(note);
                    }
                    self.bar.inc(1);
                    continue;
                }
                let sampled =
                    Box::pin(sample::sample(self.plan, stage, self.scenario, subject, round));
                match sampled.await {
                    Ok(sample) => {
                        self.bar.suspend(|| eprintln!("{}", line(self.scenario, &sample)));
                        results.samples.push(sample);
                    }
                    // One peer that fails does not spoil what can be learnt of the others.
                    Err(error) => {
                        let round = round + 1;
                        self.failed(
                            &format!("{name} of {subject}, round {round}: {error:#}"),
                            results,
                        );
                    }
                }
                self.bar.inc(1);
            }
        }
    }

    fn failed(&self, what: &str, results: &mut Results) {
        self.bar.suspend(|| eprintln!("{what}"));
        results.failures.push(what.to_owned());
    }
}

/// What to say of a sample as soon as it is there.
fn line(scenario: &Scenario, sample: &Sample) -> String {
    let Sample { target, round, .. } = sample;
    let mut line = format!("{}, {target}, round {}:", scenario.name, round + 1);
    for headline in &scenario.headlines {
        if let Some(value) = crate::report::figure(sample, headline) {
            line += &format!(" {} {},", headline.says, crate::report::number(value));
        }
    }
    line + &format!(" {} violations", sample.violation_count())
}

/// All of them, each time another first.
fn in_turn(subjects: &[Subject], turn: usize) -> impl Iterator<Item = &Subject> {
    let first = turn % subjects.len();
    subjects[first..].iter().chain(&subjects[..first])
}

/// What it may take. etcd was seen to hold 4 times the bytes of each list in flight, and a proxy that
/// buffers as much again.
fn memory_mib(scenario: &Scenario, subject: &Subject, data: &Arc<DataSet>) -> u64 {
    let held = match subject {
        Subject::Started(Target::GrpcProxy) => 10,
        Subject::Started(_) => 5,
        Subject::Endpoint(_) => 1,
    };
    let lists = |phase| -> usize {
        let running = scenario.workloads.iter().filter(|workload| workload.runs_in(phase));
        let held_by = running.map(|workload| match workload.ask {
            Ask::List { of, .. } => workload.load.in_flight() * data.bytes(of) * held,
            _ => 0,
        });
        held_by.sum()
    };
    let lists = scenario.phases.iter().map(lists).max().unwrap_or_default();
    // The database itself, in memory and on a file system that is.
    let database: usize = data.amounts().keys().map(|&resource| 4 * data.bytes(resource)).sum();
    ((lists + database) >> 20) as u64
}

#[cfg(test)]
mod tests;
