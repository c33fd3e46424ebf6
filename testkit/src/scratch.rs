use anyhow::{Context, Result};
use nix::sys::statvfs::statvfs;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
};
use tempfile::TempDir;

/// A directory for data and logs that goes with its owner, or stays when `SEAWALL_KEEP` is set.
#[derive(Debug)]
pub(crate) struct Scratch(TempDir);

const PREFIX: &str = "seawall-test-";
const ROOM_BYTES: u64 = 4 << 30;

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        Self::below(&root())
    }

    pub(crate) fn below(root: &Path) -> Result<Self> {
        sweep(root)?;
        let mut dir = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", process::id()))
            .tempdir_in(root)
            .with_context(|| format!("creating a directory in {}", root.display()))?;
        if env::var_os("SEAWALL_KEEP").is_some() {
            dir.disable_cleanup(true);
            eprintln!("keeping {}", dir.path().display());
        }
        Ok(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Memory spares etcd the fsyncs; each member preallocates 128 MB there for its log.
fn root() -> PathBuf {
    let memory = Path::new("/dev/shm");
    match statvfs(memory) {
        Ok(fs) if fs.blocks_available() * fs.fragment_size() >= ROOM_BYTES => memory.to_owned(),
        _ => env::temp_dir(),
    }
}

/// Removes what test processes left that were killed, or that kept a cluster in a static.
fn sweep(root: &Path) -> Result<()> {
    if env::var_os("SEAWALL_KEEP").is_some() {
        return Ok(());
    }
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let Some(owner) = rest.split('-').next().and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new(&format!("/proc/{owner}")).exists() {
            // Another test process may be sweeping at the same time.
            fs::remove_dir_all(entry.path()).ok();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_only_what_dead_processes_left() -> Result<()> {
        let root = TempDir::new()?;
        let of = |pid: &str| root.path().join(format!("{PREFIX}{pid}-x"));
        let (dead, alive) = (of("4194305"), of(&process::id().to_string()));
        let foreign = root.path().join("something-else");
        for dir in [&dead, &alive, &foreign] {
            fs::create_dir(dir)?;
        }
        sweep(root.path())?;
        assert_eq!([dead.exists(), alive.exists(), foreign.exists()], [false, true, true]);
        Ok(())
    }
}
