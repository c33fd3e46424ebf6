//! The program; see [`seawall::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    seawall::cli::main()
}
