use crate::target::{Programs, Target, built_seawall};
use anyhow::Result;
use clap::{Args, ValueEnum};
use seawall_testkit::Binaries;
use std::{env, ffi::OsString, path::PathBuf};

/// What is started, and of which programs.
#[derive(Args, Debug)]
pub(super) struct ProgramFlags {
    /// What to measure [default: all but haproxy-tcp and floor whose program is there]; `direct` is always among
    /// them
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
}

impl ProgramFlags {
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
    pub(super) fn targets(
        &self,
        programs: &Programs,
        default: &[Target],
    ) -> Result<(Vec<Target>, Vec<String>)> {
        let chosen = if self.targets.is_empty() { default } else { &self.targets };
        let (mut targets, mut left_out) = (vec![Target::Direct], Vec::new());
        for &target in Target::value_variants() {
            if target == Target::Direct || !chosen.contains(&target) {
                continue;
            }
            match target.available(programs) {
                Ok(()) => targets.push(target),
                Err(error) if self.targets.contains(&target) => return Err(error),
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
