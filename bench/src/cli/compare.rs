use crate::{
    report::{Comparison, compare},
    result::{FORMAT, Results},
};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[derive(Args, Debug)]
pub(super) struct Compare {
    /// What `run --json` wrote
    before: PathBuf,

    after: PathBuf,

    /// Compares ratios to the first target of the same round, so that a faster machine makes nothing
    /// better
    #[arg(long)]
    relative: bool,
}

impl Compare {
    /// Fails where something became worse.
    pub(super) fn run(&self) -> Result<ExitCode> {
        let comparison: Comparison =
            compare(&read(&self.before)?, &read(&self.after)?, self.relative);
        println!("{comparison}");
        Ok(if comparison.has_regressions() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

pub(super) fn read(path: &Path) -> Result<Results> {
    let name = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("reading {name}"))?;
    let results: Results =
        serde_json::from_str(&text).with_context(|| format!("{name} is no result of a run"))?;
    ensure!(results.format == FORMAT, "{name} is of format {}, not {FORMAT}", results.format);
    Ok(results)
}
