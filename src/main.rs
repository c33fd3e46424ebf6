//! The program; see [`seawall::cli`].

use mimalloc::MiMalloc;
use std::process::ExitCode;

/// Calls end on other threads than they began on, and what they held is freed there: glibc's allocator takes a
/// quarter more of the processor for a small call.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    seawall::cli::main()
}
