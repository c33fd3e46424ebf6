use crate::target::{Programs, Target, built_seawall};
use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use seawall_testkit::Binaries;
use std::{env, ffi::OsString, path::PathBuf, time::Duration};

/// What every run is told: of which programs, and where to write the report.
#[derive(Args, Debug)]
pub(crate) struct Common {
    /// What to measure [default: all whose program is there]; `direct` is always among them
    #[arg(long, value_delimiter = ',')]
    targets: Vec<Target>,

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

impl Common {
    pub(super) fn programs(&self) -> Result<Programs> {
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
    pub(super) fn targets(&self, programs: &Programs) -> Result<(Vec<Target>, Vec<String>)> {
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
}

const HAPROXY: &str = "haproxy/bin/haproxy";

/// Where `make setup` puts programs.
fn tools_dir() -> PathBuf {
    match env::var_os("SEAWALL_TOOLS_DIR") {
        Some(dir) => dir.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/tools"),
    }
}

pub(super) fn seconds(text: &str) -> Result<Duration> {
    let seconds = Duration::try_from_secs_f64(text.parse()?)?;
    ensure!(seconds <= Duration::from_secs(3600), "an hour is the most");
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_fractions_and_a_bound() -> Result<()> {
        assert_eq!(seconds("0.5")?, Duration::from_millis(500));
        assert!(seconds("-1").is_err());
        assert!(seconds("1e9").is_err());
        Ok(())
    }
}
