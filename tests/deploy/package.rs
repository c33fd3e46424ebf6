//! The Debian package.

use crate::{is_installed, repo, run, scratch, seawall, skipped, succeeds};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A package of the program that is tested, or nothing where no package can be made.
fn build(into: &Path) -> Result<Option<PathBuf>> {
    if let Some(lacking) =
        ["dpkg-deb", "objdump", "strip"].into_iter().find(|tool| !is_installed(tool))
    {
        skipped(&format!("the Debian package was NOT made: there is no {lacking}"));
        return Ok(None);
    }
    let mut script = Command::new(repo().join("scripts/deb"));
    let (path, _) = succeeds(script.arg(seawall()).arg(into))?;
    Ok(Some(path.trim_end().into()))
}

#[test]
fn the_package_has_all_its_parts_and_they_work() -> Result<()> {
    let dir = scratch("package")?;
    let Some(package) = build(&dir)? else { return Ok(()) };
    describes_itself(&package)?;
    has_its_files(&package)?;
    works_when_installed(&package, &dir)
}

fn describes_itself(package: &Path) -> Result<()> {
    let (control, _) = run("dpkg-deb", &["--field".as_ref(), package])?;
    for expected in [
        "Package: seawall\n",
        &format!("Version: {}\n", env!("CARGO_PKG_VERSION")),
        "Depends: libc6 (>= 2.",
    ] {
        ensure!(control.contains(expected), "no {expected:?} in\n{control}");
    }
    Ok(())
}

fn has_its_files(package: &Path) -> Result<()> {
    let (contents, _) = run("dpkg-deb", &["--contents".as_ref(), package])?;
    for (mode, path) in [
        ("-rwxr-xr-x", "usr/bin/seawall"),
        ("-rw-r--r--", "etc/seawall/seawall.yaml"),
        ("-rw-r--r--", "usr/lib/systemd/system/seawall.service"),
        ("-rw-r--r--", "usr/lib/systemd/system/seawall.socket"),
        ("-rw-r--r--", "usr/lib/sysusers.d/seawall.conf"),
        ("-rw-r--r--", "usr/share/bash-completion/completions/seawall"),
        ("-rw-r--r--", "usr/share/man/man1/seawall.1.gz"),
        ("-rw-r--r--", "usr/share/man/man1/seawall-run.1.gz"),
        ("-rw-r--r--", "usr/share/doc/seawall/examples/layouts/three-stacked.yaml"),
    ] {
        let line = contents.lines().find(|line| line.ends_with(&format!(" ./{path}")));
        let line = line.with_context(|| format!("no {path} in\n{contents}"))?;
        ensure!(line.starts_with(&format!("{mode} root/root ")), "{line}");
    }
    Ok(())
}

fn works_when_installed(package: &Path, dir: &Path) -> Result<()> {
    let root = dir.join("root");
    run("dpkg-deb", &["-x".as_ref(), package.as_os_str(), root.as_os_str()])?;
    let program = root.join("usr/bin/seawall");
    let config = root.join("etc/seawall/seawall.yaml");
    run(&program, &["check".as_ref(), "--config".as_ref(), &*config])?;
    // Scripts of the package are run by whatever the system's shell is.
    let control = dir.join("control");
    run("dpkg-deb", &["-e".as_ref(), package.as_os_str(), control.as_os_str()])?;
    for script in ["postinst", "prerm", "postrm"] {
        run("sh", &["-n".as_ref(), &*control.join(script)])?;
    }
    assert_eq!(fs::read_to_string(control.join("conffiles"))?, "/etc/seawall/seawall.yaml\n");
    let mut sums = Command::new("md5sum");
    succeeds(sums.args(["--check", "--quiet"]).arg(control.join("md5sums")).current_dir(&root))?;
    Ok(())
}
