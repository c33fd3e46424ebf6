use anyhow::{Context, Result, ensure};
use std::{
    env,
    path::{Path, PathBuf},
};

/// The programs of one etcd version line, as `make setup` put them below `target/tools/etcd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    line: String,
    bin: PathBuf,
}

/// The lines that there are, the oldest first.
const LINES: [&str; 4] = ["3.4", "3.5", "3.6", "3.7"];

impl Binaries {
    /// Of a line: "3.4", "3.5", "3.6", "3.7", or "default".
    ///
    /// # Errors
    ///
    /// When it is not there; the text says how to obtain it.
    pub fn of(line: &str) -> Result<Self> {
        Self::below(&tools_dir().join("etcd"), line)
    }

    /// Of the line that the environment names in `SEAWALL_ETCD`, or the default one.
    pub fn selected() -> Result<Self> {
        Self::of(&env::var("SEAWALL_ETCD").unwrap_or_else(|_| "default".into()))
    }

    /// All lines that were obtained, the oldest first.
    ///
    /// # Errors
    ///
    /// When there is none; the text says how to obtain one.
    pub fn all() -> Result<Vec<Self>> {
        let all: Vec<_> = LINES.iter().filter_map(|line| Self::of(line).ok()).collect();
        ensure!(!all.is_empty(), "there is no etcd: run `make setup`");
        Ok(all)
    }

    /// The newest line that was obtained.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn newest() -> Result<Self> {
        Self::all()?.pop().context("there is no etcd")
    }

    fn below(dir: &Path, line: &str) -> Result<Self> {
        let found = dir.join(line);
        ensure!(
            found.join("bin/etcd").exists(),
            "there is no etcd {line} in {}: run `make setup`, or `scripts/etcd install {line}`",
            dir.display()
        );
        // `default` is a link to the directory that bears the line's name.
        let dir = found.canonicalize()?;
        let line = dir.file_name().context("a line's directory has a name")?;
        let line = line.to_string_lossy().into_owned();
        Ok(Self { line, bin: dir.join("bin") })
    }

    /// The version line, "3.6" for instance, also when "default" was asked for.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// The major and minor version, to be compared: `binaries.version() >= (3, 6)`.
    pub fn version(&self) -> (u32, u32) {
        let (major, minor) = self.line.split_once('.').unwrap_or_default();
        (major.parse().unwrap_or_default(), minor.parse().unwrap_or_default())
    }

    pub fn etcd(&self) -> PathBuf {
        self.bin.join("etcd")
    }

    pub fn etcdctl(&self) -> PathBuf {
        self.bin.join("etcdctl")
    }

    /// Since 3.5, unless a distribution left it out.
    pub fn etcdutl(&self) -> Option<PathBuf> {
        Some(self.bin.join("etcdutl")).filter(|path| path.exists())
    }
}

/// Where the scripts put what they obtain: `SEAWALL_TOOLS_DIR`, or `target/tools` of the checkout.
fn tools_dir() -> PathBuf {
    match env::var_os("SEAWALL_TOOLS_DIR") {
        Some(dir) => dir.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};
    use tempfile::TempDir;

    #[test]
    fn finds_a_line_and_what_default_stands_for() -> Result<()> {
        let dir = TempDir::new()?;
        fs::create_dir_all(dir.path().join("3.6/bin"))?;
        fs::write(dir.path().join("3.6/bin/etcd"), "")?;
        symlink("3.6", dir.path().join("default"))?;
        let default = Binaries::below(dir.path(), "default")?;
        assert_eq!(default, Binaries::below(dir.path(), "3.6")?);
        assert_eq!((default.line(), default.version()), ("3.6", (3, 6)));
        assert_eq!(default.etcdutl(), None);
        Ok(())
    }

    #[test]
    fn says_how_to_obtain_what_is_missing() -> Result<()> {
        let dir = TempDir::new()?;
        let error = Binaries::below(dir.path(), "3.5").expect_err("the directory is empty");
        assert!(error.to_string().contains("run `make setup`, or `scripts/etcd install 3.5`"));
        Ok(())
    }
}
