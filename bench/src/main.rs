//! Reproduces the incidents that bring etcd down, and measures what becomes of them behind Seawall and
//! its peers, against the same etcd without them.
//!
//! - [`cli`]: subcommands and flags.
//! - [`scenario`]: what is measured, as YAML files say it.
//! - [`engine`]: runs scenarios: rounds over targets, phases, steps, and what was true.
//! - [`target`]: what is measured, and how it is started.
//! - [`data`]: what etcd holds; [`operation`]: what is asked, and what is a right answer.
//! - [`client`]: HTTP/2 and gRPC at little cost.
//! - [`measure`]: closed and open loops, latencies, processor time and memory.
//! - [`mod@replay`]: asks again what Seawall has recorded.
//! - [`mod@result`]: what came of it; [`report`]: as a page, as Markdown, compared with another.

mod cli;
mod client;
mod data;
mod engine;
mod measure;
mod operation;
mod replay;
mod report;
mod result;
mod scenario;
mod target;

use anyhow::Result;
use clap::Parser;
use std::process::ExitCode;

/// One thread for what starts, ends and reads; those that ask have their own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    cli::Cli::parse().run().await
}
