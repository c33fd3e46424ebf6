//! The command line.

mod args;
mod check;
mod explain;
mod request;
mod top;
mod version;

use crate::{
    app,
    config::{self, Loaded},
};
use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use std::{
    fmt,
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    match command(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.code()
        }
    }
}

fn command(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(source) => {
            let reloader = source.reloader();
            let Loaded { settings, origins, text } = reloader.load_with_origins()?;
            config::try_audit_file(&settings, &origins)?;
            app::run(settings, text, reloader).map_err(Failure::Runtime)
        }
        Command::Check(source) => check::check(&source.reloader()),
        Command::Explain(args) => print(&explain::explain(&args)?),
        Command::Top(args) => top::top(&args),
        Command::Version { json } => print(&version::version(json)),
        Command::Man { directory } => {
            clap_mangen::generate_to(Cli::command(), directory).map_err(Failure::Output)
        }
        Command::Schema => print(&format!("{:#}\n", config::schema().to_value())),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "seawall", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    }
}

/// A reader that has seen enough, such as `head`, is no failure.
fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

/// Why the program ends with an error.
#[derive(Debug)]
enum Failure {
    Config(config::Error),
    Usage(String),
    Output(io::Error),
    Runtime(anyhow::Error),
}

impl Failure {
    /// As `--help` says.
    fn code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Usage(_) => ExitCode::from(2),
            Self::Output(_) | Self::Runtime(_) => ExitCode::from(1),
        }
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::Config(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => match error.problems.len() {
                1 => write!(f, "error: {error}"),
                several => write!(f, "error: {several} problems in the configuration\n{error}"),
            },
            Self::Usage(text) => write!(f, "error: {text}"),
            Self::Output(error) => write!(f, "error: the output cannot be written: {error}"),
            Self::Runtime(error) => write!(f, "error: {error:#}"),
        }
    }
}
