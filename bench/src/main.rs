//! Measures what Seawall and its peers cost in front of etcd, against the same etcd without them.
//!
//! - [`cli`]: flags, and the plan they make.
//! - [`mod@passthrough`], [`mod@storm`]: the runs: rounds over experiments over targets.
//! - [`target`]: what is measured, and how it is started.
//! - [`workload`]: what is asked of it, and what is a right answer.
//! - [`client`]: HTTP/2 and gRPC at little cost.
//! - [`measure`]: closed and open loops, latencies, processor time and memory.
//! - [`report`]: tables, JSON, and where it was measured.

mod cli;
mod client;
mod measure;
mod passthrough;
mod report;
mod storm;
mod target;
mod workload;

use anyhow::{Context, Result, bail};
use clap::Parser;
use cli::{Cli, Command, Common};
use report::Report;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// One thread: what the client does not use is left to those it measures.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Passthrough(flags) => {
            let plan = flags.plan()?;
            let report = Report::new(&plan.programs, &plan.targets, &plan.left_out)?;
            run(report, &flags.common, async |report| passthrough::run(&plan, report).await).await
        }
        Command::Storm(flags) => {
            let plan = flags.plan()?;
            let report = Report::new(&plan.programs, &plan.targets, &plan.left_out)?;
            run(report, &flags.common, async |report| storm::measure(&plan, report).await).await
        }
    }
}

/// Measures until the end or a signal, and writes what there is by then.
async fn run<S: report::Sample>(
    mut report: Report<S>,
    flags: &Common,
    measure: impl AsyncFnOnce(&mut Report<S>) -> Result<()>,
) -> Result<ExitCode> {
    let ended = tokio::select! {
        ended = Box::pin(measure(&mut report)) => ended,
        ended = interrupted() => ended,
    };
    if let Err(error) = ended {
        report.failure(format!("The run is not complete: {error:#}"));
    }
    report.write(flags.json.as_deref(), flags.markdown.as_deref())?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything that was started ends with the values that own it, so a signal only has to be heard.
///
/// # Errors
///
/// Always: with the signal that ends the run.
async fn interrupted() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    tokio::select! {
        _ = interrupt.recv() => bail!("interrupted by Ctrl-C"),
        _ = terminate.recv() => bail!("ended by SIGTERM"),
    }
}
