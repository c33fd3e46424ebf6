//! The command line.

mod compare;
mod endpoints;
mod list;
mod programs;
mod replay;
mod run;
mod seed;
mod show;

use crate::target::floor;
use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use std::{net::SocketAddr, process::ExitCode};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

#[derive(Debug, Parser)]
#[command(about = "Reproduces what brings etcd down, and shows what becomes of it behind Seawall")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The scenarios that are built in, with their stories.
    List(list::List),
    /// Measures scenarios: against etcd itself, behind each peer, and behind Seawall.
    Run(Box<run::Run>),
    /// Writes a data set as Kubernetes would into an etcd that runs.
    Seed(seed::Seed),
    /// Names what became worse between two results, beyond their noise.
    Compare(compare::Compare),
    /// Asks again what `seawall run --record` has recorded.
    Replay(replay::Replay),
    /// What the target of this name runs.
    #[command(hide = true)]
    Floor { address: SocketAddr, upstream: SocketAddr },
    /// Turns a result into a page, or into Markdown.
    Report(show::Show),
}

impl Cli {
    pub(crate) async fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::List(list) => list.run(),
            Command::Run(run) => run.run().await,
            Command::Seed(seed) => seed.run().await,
            Command::Compare(compare) => compare.run(),
            Command::Replay(replay) => replay.run().await,
            Command::Floor { address, upstream } => {
                // A runtime of its own, with more threads.
                let serving = spawn_blocking(move || floor::run(address, upstream));
                serving.await?.map(|()| ExitCode::SUCCESS)
            }
            Command::Report(show) => show.run(),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
