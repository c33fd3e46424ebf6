use super::common::{Common, seconds};
use crate::{
    passthrough::Plan,
    workload::{Durations, Experiment, Workload},
};
use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use std::{num::NonZeroUsize, time::Duration};

#[derive(Args, Debug)]
pub(crate) struct Passthrough {
    #[command(flatten)]
    pub(crate) common: Common,

    /// What to ask [default: all]
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<Workload>,

    /// Requests in flight [default: 1,16,64; 1,4 for list100; 1,4,16 for mem100]. Lists leave out
    /// what is above 16
    #[arg(long, value_delimiter = ',')]
    inflight: Vec<NonZeroUsize>,

    /// How often everything but mem100 is measured, each time in another order
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// How often mem100 is measured
    #[arg(long, default_value_t = 1)]
    memory_rounds: usize,

    /// How long each small operation is measured
    #[arg(long, default_value = "2", value_parser = seconds)]
    seconds: Duration,

    /// How long lists are measured
    #[arg(long, default_value = "4", value_parser = seconds)]
    list_seconds: Duration,

    /// What precedes each measurement and is not counted
    #[arg(long, default_value = "0.5", value_parser = seconds)]
    warm_up_seconds: Duration,
}

impl Passthrough {
    /// # Errors
    ///
    /// When something that was asked for by name is not there or makes no sense.
    pub(crate) fn plan(&self) -> Result<Plan> {
        let programs = self.common.programs()?;
        let (targets, left_out) = self.common.targets(&programs)?;
        Ok(Plan {
            programs,
            targets,
            left_out,
            experiments: self.experiments()?,
            rounds: self.rounds,
            memory_rounds: self.memory_rounds,
            durations: Durations {
                warm_up: self.warm_up_seconds,
                small: self.seconds,
                list: self.list_seconds,
            },
        })
    }

    fn experiments(&self) -> Result<Vec<Experiment>> {
        let chosen =
            |workload: &&Workload| self.workloads.is_empty() || self.workloads.contains(workload);
        let mut experiments = Vec::new();
        for &workload in Workload::value_variants().iter().filter(chosen) {
            let asked: Vec<_> = self.inflight.iter().map(|n| n.get()).collect();
            let levels = if asked.is_empty() { workload.in_flight() } else { &asked };
            let possible = levels.iter().filter(|level| **level <= workload.in_flight_max());
            experiments.extend(possible.map(|&in_flight| Experiment { workload, in_flight }));
        }
        ensure!(!experiments.is_empty(), "lists are measured with up to 16 in flight");
        Ok(experiments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::{CommandFactory, Parser};

    fn experiments(args: &[&str]) -> Result<Vec<String>> {
        let args = ["seawall-bench", "passthrough"].iter().chain(args);
        let Command::Passthrough(flags) = Cli::try_parse_from(args)?.command else {
            anyhow::bail!("another command");
        };
        Ok(flags.experiments()?.iter().map(Experiment::to_string).collect())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_is_measured_by_default() -> Result<()> {
        let expected = "get-1 get-16 get-64 put-1 put-16 put-64 txn-1 txn-16 txn-64 \
                        list100-1 list100-4 mem100-1 mem100-4 mem100-16";
        assert_eq!(experiments(&[])?.join(" "), expected);
        Ok(())
    }

    #[test]
    fn a_subset_is_selectable_and_lists_stay_within_memory() -> Result<()> {
        let chosen = experiments(&["--workloads", "get,list100", "--inflight", "1,64"])?;
        assert_eq!(chosen, ["get-1", "get-64", "list100-1"]);
        assert!(experiments(&["--workloads", "list100", "--inflight", "64"]).is_err());
        Ok(())
    }
}
