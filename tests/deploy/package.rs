//! The Debian package.

use crate::{is_installed, read, repo, run, scratch, seawall, skipped, succeeds};
use anyhow::{Context, Result, ensure};
use std::{
    env,
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
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
        ("-rw-r--r--", "usr/share/doc/seawall/docs/deploy/alerts.md"),
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

/// What stands for systemd: it writes down what it is asked to do, and the service's process has the
/// number in `pid`. One that exchanges gives the service another process when it is sent SIGUSR2.
const SYSTEMCTL: &str = r#"#!/bin/sh
cd "$(dirname "$0")/.."
echo "$*" >>asked
case $1 in
is-active) test -e pid ;;
show) if [ -e pid ]; then cat pid; else echo 0; fi ;;
kill) if [ -e exchanges ]; then echo 4712 >pid; fi ;;
esac
"#;

/// A machine that the package is installed on, with a service that runs or not.
struct Machine(PathBuf);

impl Machine {
    fn new(name: &str, config: &str) -> Result<Self> {
        let root = scratch(name)?;
        for dir in ["bin", "etc/seawall", "run/systemd/system"] {
            fs::create_dir_all(root.join(dir))?;
        }
        fs::write(root.join("etc/seawall/seawall.yaml"), config)?;
        symlink(seawall(), root.join("bin/seawall"))?;
        let machine = Self(root);
        machine.place("systemctl", SYSTEMCTL)?;
        // Time passes by itself, and users and their groups are another test's.
        for program in ["sleep", "systemd-sysusers", "install"] {
            machine.place(program, "#!/bin/sh\n")?;
        }
        Ok(machine)
    }

    fn place(&self, program: &str, text: &str) -> Result<()> {
        let path = self.0.join("bin").join(program);
        fs::write(&path, text)?;
        Ok(fs::set_permissions(path, Permissions::from_mode(0o755))?)
    }

    fn runs(self) -> Result<Self> {
        fs::write(self.0.join("pid"), "4711\n")?;
        Ok(self)
    }

    fn exchanges(self) -> Result<Self> {
        fs::write(self.0.join("exchanges"), "")?;
        Ok(self)
    }

    /// What systemd is asked to do by the package, apart from questions; and what is said.
    fn configure(&self) -> Result<(Vec<String>, String)> {
        let root = self.0.display();
        let script = read("deploy/debian/postinst")?
            .replace(" /etc/", &format!(" {root}/etc/"))
            .replace(" /run/", &format!(" {root}/run/"));
        let path = env::var_os("PATH").unwrap_or_default();
        let places = [self.0.join("bin")].into_iter().chain(env::split_paths(&path));
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "postinst", "configure", "0.0.1"]);
        let (_, said) = succeeds(shell.env("PATH", env::join_paths(places)?))?;
        let asked = fs::read_to_string(self.0.join("asked"))?;
        let acts = asked
            .lines()
            .filter(|line| !["is-active", "show"].iter().any(|it| line.starts_with(it)));
        Ok((acts.map(str::to_owned).collect(), said))
    }
}

const SOUND: &str = "clusters: {main: {endpoints: [http://127.0.0.1:2379]}}\n";
const RELOAD: &str = "daemon-reload";
const EXCHANGE: &str = "kill --kill-who=main --signal=USR2 seawall.service";

/// An upgrade restarted the service, where the guide had said that nobody would notice.
#[test]
fn a_running_service_is_exchanged_by_the_package() -> Result<()> {
    let machine = Machine::new("postinst-exchange", SOUND)?.runs()?.exchanges()?;
    assert_eq!(machine.configure()?, (vec![RELOAD.into(), EXCHANGE.into()], String::new()));
    let machine = Machine::new("postinst-stopped", SOUND)?;
    assert_eq!(machine.configure()?, (vec![RELOAD.into()], String::new()));
    Ok(())
}

#[test]
fn a_service_that_does_not_hand_over_is_restarted_if_it_can_start() -> Result<()> {
    let machine = Machine::new("postinst-restart", SOUND)?.runs()?;
    let (asked, _) = machine.configure()?;
    assert_eq!(asked, [RELOAD, EXCHANGE, "try-restart seawall.service"]);
    let machine = Machine::new("postinst-wrong", "clusters: {}\n")?.runs()?;
    let (asked, said) = machine.configure()?;
    assert_eq!(asked, [RELOAD, EXCHANGE], "it would not come up again");
    ensure!(said.contains("the old program goes on"), "{said}");
    Ok(())
}
