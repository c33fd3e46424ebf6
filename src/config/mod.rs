//! The configuration file and the flags, turned into the components' own configurations.
//!
//! The way of a value: text (`yaml`), the file's shape (`file`, by `decode`), flags laid over it
//! (`flags`), checks (`validate`), [`Settings`]. Every value keeps its origin on the way, and every
//! problem is found at once.

mod certificates;
mod decode;
mod effective;
mod file;
mod flags;
mod near;
mod origin;
mod outputs;
pub mod reload;
mod units;
mod validate;
mod yaml;

use crate::{access, admin, admission, attribution, drain, listener, mirror, telemetry, upstream};
use serde::de::DeserializeOwned;
use std::{
    fs,
    path::{Path, PathBuf},
};

pub use certificates::{Inspection, inspect};
pub use effective::effective;
pub use flags::Flags;
pub use origin::{Error, Origin, Origins, Problem};
pub use outputs::try_audit_file;
pub use units::parse_duration;
pub use yaml::Position;

/// Everything that was configured, checked and complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// At least one; names and addresses differ.
    pub listeners: Vec<Listener>,
    /// Names differ; every cluster named by a listener is here.
    pub clusters: Vec<upstream::Config>,
    /// `None` lets everybody do everything.
    pub access: Option<access::Config>,
    pub protection: admission::Config,
    pub mirror: mirror::Config,
    pub attribution: attribution::Config,
    pub admin: Option<admin::Config>,
    /// Data threads, each with its own connections; at least 1.
    pub workers: usize,
    pub drain: drain::Config,
    pub log: telemetry::LogConfig,
    pub tracing: Option<telemetry::TracingConfig>,
}

/// A listener and where its keys live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub listener: listener::Config,
    /// URLs that `MemberList` shows to clients; empty: the address each client connected to.
    pub advertise: Vec<String>,
    /// The cluster of every key that no route takes.
    pub default: String,
    /// Prefixes differ and have no slash at their end.
    pub routes: Vec<Route>,
}

/// Sends `prefix` and every key below `prefix/` to `cluster`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub prefix: String,
    pub cluster: String,
}

/// Settings, and where each of them came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub settings: Settings,
    pub origins: Origins,
    /// What the file said.
    pub text: Option<String>,
}

/// Reads the configuration as it was asked for, as often as it is needed.
#[derive(Debug, Clone)]
pub struct Reloader {
    path: Option<PathBuf>,
    flags: Flags,
}

impl Reloader {
    /// Without a path the flags say everything.
    pub fn new(path: Option<PathBuf>, flags: Flags) -> Self {
        Self { path, flags }
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Reads the file anew and lays the flags over it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Settings, Error> {
        self.load_with_origins().map(|loaded| loaded.settings)
    }

    /// The same, with the origin of every value.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn load_with_origins(&self) -> Result<Loaded, Error> {
        let text = match &self.path {
            None => None,
            Some(path) => Some((path.as_path(), read(path)?)),
        };
        build(text.as_ref().map(|(path, text)| (*path, &text[..])), &self.flags)
    }
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|error| {
        let text = format!("cannot be read: {error}");
        Error::new(vec![Problem::of_file(path, text)])
    })
}

/// Makes settings of a file's name and text, if there is one, with `flags` laid over it.
///
/// # Errors
///
/// Everything that is wrong, in the order of the file.
pub fn build(text: Option<(&Path, &str)>, flags: &Flags) -> Result<Loaded, Error> {
    let mut problems = Vec::new();
    let mut origins = Origins::default();
    let (mut file, left_out) = match text {
        None => Default::default(),
        Some((path, text)) => parse(path, text, &mut origins, &mut problems)?,
    };
    problems.extend(flags::apply(flags, &mut file, &mut origins));
    let settings = match validate::validate(file, &mut origins, &left_out) {
        Ok(settings) if problems.is_empty() => {
            let text = text.map(|(_, text)| text.to_owned());
            return Ok(Loaded { settings, origins, text });
        }
        Ok(_) => Vec::new(),
        Err(error) => error.problems,
    };
    problems.extend(settings);
    Err(Error::new(problems))
}

fn parse(
    path: &Path,
    text: &str,
    origins: &mut Origins,
    problems: &mut Vec<Problem>,
) -> Result<(file::File, decode::LeftOut), Error> {
    let mut faults = Vec::new();
    let result = yaml::parse(text, &mut faults).map(|root| {
        origins.add_file(path, &root);
        let (file, left_out) = decode::decode(&root, &mut faults);
        (file.unwrap_or_default(), left_out)
    });
    problems.extend(faults.into_iter().map(|fault| Problem::in_file(path, fault)));
    result.map_err(|fault| Error::new(vec![Problem::in_file(path, fault)]))
}

/// Reads a file of any shape, with the same messages about what is wrong with it. The first line of
/// `text` is line `first_line` of the file.
pub(crate) fn read_shape<T: DeserializeOwned>(
    path: &Path,
    text: &str,
    first_line: usize,
) -> Result<T, Error> {
    let mut faults = Vec::new();
    let value = match yaml::parse(text, &mut faults) {
        Ok(root) => decode::decode(&root, &mut faults).0,
        Err(fault) => {
            faults.push(fault);
            None
        }
    };
    match value {
        Some(value) if faults.is_empty() => Ok(value),
        _ => {
            for at in faults.iter_mut().filter_map(|fault| fault.at.as_mut()) {
                at.line += first_line - 1;
            }
            let problems = faults.into_iter().map(|fault| Problem::in_file(path, fault));
            Err(Error::new(problems.collect()))
        }
    }
}

/// The JSON schema of the file.
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(file::File)
}
