use crate::scenario::{Scenario, builtins};
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;

#[derive(Args, Debug)]
pub(super) struct List {
    /// Also who asks for what
    #[arg(long)]
    verbose: bool,
}

impl List {
    pub(super) fn run(&self) -> Result<ExitCode> {
        for scenario in builtins()? {
            let only = if scenario.by_name { " (only where it is named)" } else { "" };
            println!("{}{only}\n    {}\n    {}", scenario.name, scenario.title, scenario.story);
            if self.verbose {
                details(&scenario);
            }
            println!();
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn details(scenario: &Scenario) {
    for (resource, amount) in &scenario.data {
        println!("    data: {} {}", amount.count, resource.path());
    }
    for phase in &scenario.phases {
        println!("    phase {} lasts {}", phase.name, phase.lasts);
        for workload in scenario.workloads.iter().filter(|workload| workload.runs_in(phase)) {
            println!("        {}: {}", workload.name, workload.load);
        }
        for step in scenario.steps.iter().filter(|step| step.phase == phase.name) {
            println!("        at {}: {:?}", step.at, step.action);
        }
    }
    for watchers in &scenario.watchers {
        println!("    {}: {} watchers of {}", watchers.name, watchers.count, watchers.of.path());
    }
}
