//! What can be said of the image without building it; `scripts/container-test` builds it.

use crate::read;
use anyhow::{Context, Result, ensure};

/// "1.95" as (1, 95).
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[test]
fn the_image_is_built_by_a_rust_that_can() -> Result<()> {
    let file = read("deploy/container/Containerfile")?;
    let image = file.lines().find_map(|line| line.strip_prefix("FROM rust:")?.split('-').next());
    let needed = version(env!("CARGO_PKG_RUST_VERSION")).context("a version")?;
    ensure!(version(image.context("an image")?).context("a version")? >= needed);
    Ok(())
}

/// Nothing in the image has an owner but root, and the program runs as somebody else.
#[test]
fn the_image_runs_unprivileged() -> Result<()> {
    let file = read("deploy/container/Containerfile")?;
    let (_, last) = file.rsplit_once("\nFROM ").context("stages")?;
    ensure!(last.starts_with("scratch\n"), "there is more in it than the program");
    let user = last.lines().find_map(|line| line.strip_prefix("USER ")).context("a user")?;
    // By number: kubelet does not know whether a name is root's.
    let (user, group) = user.split_once(':').context("user and group")?;
    ensure!(user.parse::<u32>()? > 0 && group.parse::<u32>()? > 0);
    let values = read("deploy/manifests/seawall.yaml")?;
    ensure!(values.contains(&format!("runAsUser: {user}\n")), "pods run as another user");
    Ok(())
}
