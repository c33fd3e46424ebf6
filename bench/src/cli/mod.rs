//! The command line. One subcommand is one kind of run.

mod common;
mod passthrough;
mod storm;

pub(crate) use common::Common;
pub(crate) use passthrough::Passthrough;
pub(crate) use storm::StormFlags;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Measures what a hop in front of etcd costs, and what it protects")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Closed loops of small operations and of 100 MB lists, directly and through each peer.
    Passthrough(Passthrough),
    /// Small writes beside a storm of lists, and a thousand reads of one key.
    Storm(StormFlags),
}
