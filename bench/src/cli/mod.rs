//! The command line. One subcommand is one kind of run.

mod passthrough;

pub(crate) use passthrough::Passthrough;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Measures what a hop in front of etcd costs")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Closed loops of small operations and of 100 MB lists, directly and through each peer.
    Passthrough(Passthrough),
}
