use crate::{
    passthrough::Plan,
    target::{Programs, Target, built_seawall},
    workload::{Durations, Experiment, Workload},
};
use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use seawall_testkit::Binaries;
use std::{env, ffi::OsString, num::NonZeroUsize, path::PathBuf, time::Duration};

#[derive(Args, Debug)]
pub(crate) struct Passthrough {
    /// What to measure [default: all whose program is there]; `direct` is always among them
    #[arg(long, value_delimiter = ',')]
    targets: Vec<Target>,

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

    /// The version line of etcd, such as 3.5 [default: $SEAWALL_ETCD, else 3.5 if it is there, else
    /// what `make setup` chose]
    #[arg(long)]
    etcd: Option<String>,

    /// [default: target/tools/haproxy/bin/haproxy]
    #[arg(long, value_name = "PATH")]
    haproxy_bin: Option<PathBuf>,

    /// The proxy to measure [default: $SEAWALL_BIN, else the one beside this program]
    #[arg(long, value_name = "PATH")]
    seawall_bin: Option<PathBuf>,

    /// A further argument of `seawall run`; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    seawall_arg: Vec<OsString>,

    /// Where to write every single measurement
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Where to write the tables, which are printed in any case
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
}

impl Passthrough {
    /// # Errors
    ///
    /// When something that was asked for by name is not there or makes no sense.
    pub(crate) fn plan(&self) -> Result<Plan> {
        let programs = self.programs()?;
        let (targets, left_out) = self.targets(&programs)?;
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

    fn programs(&self) -> Result<Programs> {
        let seawall = self.seawall_bin.clone().map_or_else(built_seawall, Ok)?;
        let haproxy = self.haproxy_bin.clone().unwrap_or_else(|| tools_dir().join(HAPROXY));
        let seawall_args = self.seawall_arg.clone();
        Ok(Programs { etcd: self.etcd()?, haproxy, seawall, seawall_args })
    }

    fn etcd(&self) -> Result<Binaries> {
        match &self.etcd {
            Some(line) => Binaries::of(line),
            None if env::var_os("SEAWALL_ETCD").is_some() => Binaries::selected(),
            None => Binaries::of("3.5").or_else(|_| Binaries::selected()),
        }
    }

    /// Those to measure, `direct` first, and why others are not measured.
    fn targets(&self, programs: &Programs) -> Result<(Vec<Target>, Vec<String>)> {
        let (mut targets, mut left_out) = (vec![Target::Direct], Vec::new());
        for &target in Target::value_variants() {
            if target == Target::Direct {
                continue;
            }
            let named = self.targets.contains(&target);
            if !named && !self.targets.is_empty() {
                continue;
            }
            match target.available(programs) {
                Ok(()) => targets.push(target),
                Err(error) if named => return Err(error),
                Err(error) => left_out.push(format!("{target} is not measured: {error}")),
            }
        }
        Ok((targets, left_out))
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

const HAPROXY: &str = "haproxy/bin/haproxy";

/// Where `make setup` puts programs.
fn tools_dir() -> PathBuf {
    match env::var_os("SEAWALL_TOOLS_DIR") {
        Some(dir) => dir.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/tools"),
    }
}

fn seconds(text: &str) -> Result<Duration> {
    let seconds = Duration::try_from_secs_f64(text.parse()?)?;
    ensure!(seconds <= Duration::from_secs(3600), "an hour is the most");
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::{CommandFactory, Parser};

    fn experiments(args: &[&str]) -> Result<Vec<String>> {
        let args = ["seawall-bench", "passthrough"].iter().chain(args);
        let Command::Passthrough(flags) = Cli::try_parse_from(args)?.command;
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

    #[test]
    fn seconds_have_fractions_and_a_bound() -> Result<()> {
        assert_eq!(seconds("0.5")?, Duration::from_millis(500));
        assert!(seconds("-1").is_err());
        assert!(seconds("1e9").is_err());
        Ok(())
    }
}
