use anyhow::{Context, Result};
use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

/// A peer that Seawall is compared with. It is killed when this value goes.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    output: PathBuf,
}

const OUTPUT_LINES: usize = 10;

impl Process {
    /// Starts it in `dir`, where what it prints goes to `<name>.log`.
    pub(super) fn start(
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        dir: &Path,
    ) -> Result<Self> {
        let output = dir.join(format!("{name}.log"));
        let log = File::create(&output)?;
        // So that it also goes when we are killed and can clean up nothing.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(args)
            .current_dir(dir)
            // Ctrl-C in the terminal is for us, who then end it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {} with setpriv", program.display()))?;
        Ok(Self { child, output })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// The last of what it printed.
    pub(super) fn output(&self) -> String {
        let printed = fs::read_to_string(&self.output).unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = printed.lines().collect();
        lines[lines.len().saturating_sub(OUTPUT_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended and was waited for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
