use super::compare::read;
use crate::report::Outputs;
use anyhow::Result;
use clap::Args;
use std::{path::PathBuf, process::ExitCode};

#[derive(Args, Debug)]
pub(super) struct Show {
    /// What `run --json` wrote
    results: PathBuf,

    #[command(flatten)]
    outputs: Outputs,
}

impl Show {
    pub(super) fn run(&self) -> Result<ExitCode> {
        self.outputs.write(&read(&self.results)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
