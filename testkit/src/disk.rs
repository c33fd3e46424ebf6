//! Disks of a member's own, which can be filled without harm to the machine.

use crate::process::Program;
use anyhow::{Context, Result};
use nix::errno::Errno;
use std::{
    ffi::OsString,
    fs::File,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::LazyLock,
};

/// Mounts a file system in memory of so many bytes on a directory and becomes the program. Where another
/// user namespace begins, the kernel forgets who is to die with whom.
const MOUNT: &str = r#"
set -e
mkdir -p "$2"
mount -t tmpfs -o size="$1",mode=0700 tmpfs "$2"
shift 2
if setpriv --pdeathsig KILL true; then exec setpriv --pdeathsig KILL -- "$@"; fi
exec "$@"
"#;

static UNSHARE: LazyLock<bool> = LazyLock::new(|| {
    let mount = ["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"];
    let mounted = Command::new("unshare").args(mount).stderr(Stdio::null()).status();
    mounted.is_ok_and(|status| status.success())
});

/// Whether this machine lets anybody have a disk of their own: `unshare`, and namespaces for users.
pub fn has_own_disks() -> bool {
    *UNSHARE
}

/// The program with a disk of so many bytes at `dir`, which nobody else sees and which goes with it.
pub(crate) fn with_own(program: Program, dir: &Path, bytes: u64) -> Program {
    let mut args: Vec<OsString> =
        ["-rm", "sh", "-c", MOUNT, "sh", &bytes.to_string()].map(OsString::from).into();
    args.extend([dir.into(), program.path.into()]);
    args.extend(program.args);
    Program { path: "/usr/bin/unshare".into(), args, env: program.env }
}

/// Leaves no byte on the disk at `dir` as this process sees it.
pub(crate) fn fill(pid: u32, dir: &Path) -> Result<()> {
    let seen = Path::new("/proc").join(pid.to_string()).join("root");
    let path = seen.join(dir.strip_prefix("/").context("an absolute path")?).join("filler");
    let mut filler = File::create(&path).with_context(|| path.display().to_string())?;
    let mut length = 1 << 20;
    loop {
        match filler.write(&vec![0; length]) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() != Some(Errno::ENOSPC as i32) => {
                return Err(error.into());
            }
            Err(_) if length == 1 => return Ok(()),
            Err(_) => length /= 2,
        }
    }
}
