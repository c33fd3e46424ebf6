//! Tries the files that a configuration has the process write.

use super::{
    Settings,
    origin::{Error, Origins, Problem},
};
use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind},
    path::Path,
};

/// Whether the audit can be written. Nothing is served without it, and trying again does not help.
///
/// # Errors
///
/// When it cannot.
pub fn try_audit_file(settings: &Settings, origins: &Origins) -> Result<(), Error> {
    let key = "log.audit_file";
    match settings.log.audit_file.as_deref().and_then(|file| unwritable(origins, key, file)) {
        Some(problem) => Err(Error::new(vec![problem])),
        None => Ok(()),
    }
}

/// What keeps calls from being recorded, which are served all the same.
pub(super) fn try_trace_file(settings: &Settings, origins: &Origins) -> Option<Problem> {
    let trace = settings.attribution.trace.as_ref()?;
    unwritable(origins, "attribution.trace.file", &trace.file)
}

fn unwritable(origins: &Origins, key: &str, file: &Path) -> Option<Problem> {
    let error = try_append(file).err()?;
    let text = format!(
        "{}: cannot be written: {error}; name a file in a directory that is there and that the user \
         who runs Seawall may write to, or leave it out",
        file.display()
    );
    Some(Problem::new(origins, key, text))
}

/// Leaves a file that is there as it is, and none where there was none.
fn try_append(file: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    match options.append(true).open(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        result => return result.map(drop),
    }
    match options.create_new(true).open(file) {
        Ok(_) => fs::remove_file(file),
        // Somebody else has made it meanwhile, or it is a link to what is still to be made.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
