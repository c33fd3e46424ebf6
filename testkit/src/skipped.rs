use anyhow::Result;
use std::{env, fs::OpenOptions, io::Write};

/// Says what was not checked for want of something, now and at the end of `make test`.
///
/// # Errors
///
/// When that cannot be told.
pub fn skipped(what: &str) -> Result<()> {
    eprintln!("SKIPPED: {what}");
    if let Some(path) = env::var_os("SEAWALL_SKIPPED") {
        writeln!(OpenOptions::new().create(true).append(true).open(path)?, "{what}")?;
    }
    Ok(())
}
