use super::common::{Common, seconds};
use crate::{
    storm::{Experiment, HotKey, Keys, Load, Plan, Storm},
    workload::Objects,
};
use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use std::time::Duration;

#[derive(Args, Debug)]
pub(crate) struct StormFlags {
    #[command(flatten)]
    pub(crate) common: Common,

    /// Kinds of experiments [default: all]
    #[arg(long, value_delimiter = ',')]
    parts: Vec<Part>,

    /// Size of the 10,000 objects that are listed [default: 2k,10k]
    #[arg(long, value_delimiter = ',')]
    objects: Vec<Objects>,

    /// Whether all listers send one request or each one of its own [default: common,own]
    #[arg(long, value_delimiter = ',')]
    keys: Vec<Keys>,

    /// How many list at once in the closed loops [default: 16,32,64]
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1000))]
    listers: Vec<u16>,

    /// Lists a second in the open loop
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    rate: u16,

    /// How often everything is measured, each time in another order [default: 2]
    #[arg(long)]
    rounds: Option<usize>,

    /// How long the foreground runs alone, and then beside the storm [default: 5]
    #[arg(long, value_parser = seconds)]
    seconds: Option<Duration>,

    /// A first impression in 90 seconds: where nothing else is said, one round of three seconds
    /// with 16 listers of 2 KiB objects, and the hot keys
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Listers that wait for each answer.
    Closed,
    /// So many lists a second.
    Open,
    /// Reads of one key.
    Hotkey,
}

impl StormFlags {
    /// # Errors
    ///
    /// When something that was asked for by name is not there or makes no sense.
    pub(crate) fn plan(&self) -> Result<Plan> {
        let programs = self.common.programs()?;
        let (targets, left_out) = self.common.targets(&programs)?;
        let (rounds, seconds) = if self.quick { (1, 3) } else { (2, 5) };
        let phase = self.seconds.unwrap_or_else(|| Duration::from_secs(seconds));
        ensure!(!phase.is_zero(), "a phase must have a duration");
        Ok(Plan {
            programs,
            targets,
            left_out,
            experiments: self.experiments(),
            rounds: self.rounds.unwrap_or(rounds),
            phase,
        })
    }

    fn experiments(&self) -> Vec<Experiment> {
        let parts = self.chosen(&self.parts, Part::value_variants(), &[Part::Closed, Part::Hotkey]);
        let objects = self.chosen(&self.objects, Objects::value_variants(), &[Objects::Of2KiB]);
        let keys = self.chosen(&self.keys, Keys::value_variants(), Keys::value_variants());
        let listers = self.chosen(&self.listers, &[16, 32, 64], &[16]);
        let closed = listers.iter().map(|&n| Load::Closed { listers: n.into() });
        let open = [Load::Open { per_second: self.rate.into() }];
        let mut loads = Vec::new();
        if parts.contains(&Part::Closed) {
            loads.extend(closed);
        }
        if parts.contains(&Part::Open) {
            loads.extend(open);
        }
        let mut experiments = Vec::new();
        for &objects in objects {
            for &load in &loads {
                let storm = |&keys| Experiment::Storm(Storm { objects, load, keys });
                experiments.extend(keys.iter().map(storm));
            }
        }
        if parts.contains(&Part::Hotkey) {
            experiments.extend([HotKey::Point, HotKey::Revision].map(Experiment::HotKey));
        }
        experiments
    }

    fn chosen<'a, T>(&self, asked: &'a [T], all: &'a [T], quick: &'a [T]) -> &'a [T] {
        match asked {
            [] if self.quick => quick,
            [] => all,
            asked => asked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn experiments(args: &str) -> Result<String> {
        let args = ["seawall-bench", "storm"].into_iter().chain(args.split_whitespace());
        let Command::Storm(flags) = Cli::try_parse_from(args)?.command else {
            anyhow::bail!("another command");
        };
        let names: Vec<_> = flags.experiments().iter().map(Experiment::to_string).collect();
        Ok(names.join(" "))
    }

    #[test]
    fn everything_is_measured_by_default() -> Result<()> {
        let expected = "storm20-16-common storm20-16-own storm20-32-common storm20-32-own \
                        storm20-64-common storm20-64-own storm20-10/s-common storm20-10/s-own \
                        storm100-16-common storm100-16-own storm100-32-common storm100-32-own \
                        storm100-64-common storm100-64-own storm100-10/s-common storm100-10/s-own \
                        hotkey-point hotkey-revision";
        assert_eq!(experiments("")?, expected);
        Ok(())
    }

    #[test]
    fn quick_is_little_unless_more_is_asked_for() -> Result<()> {
        let little = "storm20-16-common storm20-16-own hotkey-point hotkey-revision";
        assert_eq!(experiments("--quick")?, little);
        assert_eq!(
            experiments("--quick --parts open --objects 10k --rate 3")?,
            "storm100-3/s-common storm100-3/s-own"
        );
        Ok(())
    }

    #[test]
    fn a_subset_is_selectable() -> Result<()> {
        assert_eq!(
            experiments("--objects 2k --keys own --listers 4,8 --parts closed")?,
            "storm20-4-own storm20-8-own"
        );
        assert!(experiments("--listers 0").is_err());
        Ok(())
    }
}
