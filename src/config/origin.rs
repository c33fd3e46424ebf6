//! Where each value came from, and what is wrong with some of them.

use super::{
    decode,
    yaml::{Fault, Node, Position, Value},
};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File {
        file: PathBuf,
        at: Position,
    },
    /// `--listen`
    Flag(&'static str),
}

/// The origins of all values that were given, by key path (`listeners[0].tls.cert_file`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    file: Option<PathBuf>,
    given: BTreeMap<String, Origin>,
}

impl Origins {
    pub fn of(&self, path: &str) -> &Origin {
        self.given.get(path).unwrap_or(&Origin::Default)
    }

    /// The file that was read.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    pub(super) fn set(&mut self, path: impl Into<String>, origin: Origin) {
        self.given.insert(path.into(), origin);
    }

    /// Everything at and below `from` was given at and below `to` too.
    pub(super) fn copy(&mut self, from: &str, to: &str) {
        let below = |path: &str| {
            let rest = path.strip_prefix(from)?;
            (rest.is_empty() || rest.starts_with(['.', '['])).then(|| format!("{to}{rest}"))
        };
        let copies: Vec<(String, Origin)> = self
            .given
            .iter()
            .filter_map(|(path, origin)| Some((below(path)?, origin.clone())))
            .collect();
        self.given.extend(copies);
    }

    /// Everything that stands in the tree of a file. What holds other values is where its key is.
    pub(super) fn add_file(&mut self, file: &Path, root: &Node) {
        self.file = Some(file.to_owned());
        self.add_node(file, root, "");
    }

    fn add_node(&mut self, file: &Path, node: &Node, path: &str) {
        let origin = |at| Origin::File { file: file.to_owned(), at };
        match &node.value {
            Value::Nothing | Value::Scalar(_) => {}
            Value::List(items) => {
                for (index, node) in items.iter().enumerate() {
                    let path = decode::item(path, index);
                    self.set(&path, origin(node.at));
                    self.add_node(file, node, &path);
                }
            }
            Value::Map(entries) => {
                for (key, node) in entries {
                    let path = decode::child(path, &key.name);
                    let scalar = matches!(node.value, Value::Scalar(_));
                    self.set(&path, origin(if scalar { node.at } else { key.at }));
                    self.add_node(file, node, &path);
                }
            }
        }
    }

    /// The origin of `path`, or of what it would stand in.
    fn near(&self, mut path: &str) -> Origin {
        loop {
            match self.given.get(path) {
                Some(origin) => return origin.clone(),
                None if path.is_empty() => return Origin::Default,
                None => path = &path[..path.rfind(['.', '[']).unwrap_or(0)],
            }
        }
    }
}

/// The line is what an editor jumps to.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, at } => write!(f, "{}:{}", file.display(), at.line),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One thing that is wrong, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub origin: Origin,
    /// The file that the place is missing in, where there is no better origin.
    file: Option<PathBuf>,
    /// Key path; empty when the problem is not that of a key.
    pub path: String,
    /// What was expected and what was met.
    pub text: String,
}

impl Problem {
    pub(super) fn new(origins: &Origins, path: &str, text: impl Into<String>) -> Self {
        Self {
            origin: origins.near(path),
            file: origins.file.clone(),
            path: path.into(),
            text: text.into(),
        }
    }

    pub(super) fn of_flag(flag: &'static str, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { origin: Origin::Flag(flag), file: None, path: String::new(), text }
    }

    pub(super) fn in_file(file: &Path, fault: Fault) -> Self {
        let Fault { at, path, text } = fault;
        let origin = at.map(|at| Origin::File { file: file.to_owned(), at });
        let origin = origin.unwrap_or(Origin::Default);
        Self { origin, file: Some(file.to_owned()), path, text }
    }

    pub(super) fn of_file(file: &Path, text: impl Into<String>) -> Self {
        let fault = Fault { at: None, path: String::new(), text: text.into() };
        Self::in_file(file, fault)
    }
}

/// `seawall.yaml:3:12: drain.grace: expected ..., met ...`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.origin, &self.file) {
            (Origin::File { file, at }, _) => write!(f, "{}:{at}: ", file.display())?,
            (Origin::Flag(flag), _) => write!(f, "{flag}: ")?,
            (Origin::Default, Some(file)) => write!(f, "{}: ", file.display())?,
            (Origin::Default, None) => {}
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.text)
    }
}

/// Everything that is wrong with a configuration, in the order of the file; flags come last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub problems: Vec<Problem>,
}

impl Error {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| match problem.origin {
            Origin::Default => (0, None),
            Origin::File { at, .. } => (1, Some(at)),
            Origin::Flag(_) => (2, None),
        });
        Self { problems }
    }
}

impl std::error::Error for Error {}

/// A line for each problem.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
