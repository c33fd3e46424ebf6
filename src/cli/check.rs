//! `seawall check`

use super::{Failure, print};
use crate::config::{self, Inspection, Loaded, Reloader};
use std::time::SystemTime;

/// Prints the effective configuration even where certificates are wrong, since they may be on
/// another machine.
pub(super) fn check(reloader: &Reloader) -> Result<(), Failure> {
    let Loaded { settings, origins, .. } = reloader.load_with_origins()?;
    print(&config::effective(&settings, &origins))?;
    let Inspection { result, warnings } = config::inspect(&settings, &origins, SystemTime::now());
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    Ok(result?)
}
