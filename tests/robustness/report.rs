//! What is left of a run.

use crate::{
    check::{Case, Violation},
    failpoints::Failpoint,
    run::Plan,
    stage::Stage,
};
use anyhow::Result;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

/// What a run was, in a few lines.
pub(crate) fn summary(plan: &Plan, happened: &[Failpoint], case: Option<&Case>) -> String {
    let Plan { seed, members, duration, binaries, .. } = plan;
    let mut text = format!(
        "seed {seed}, etcd {} with {members} members, {duration:?}\nfaults: {happened:?}\n",
        binaries.line()
    );
    let Some(case) = case else { return text };
    let calls = &case.history.calls;
    let mut by_path: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for call in calls {
        let (answered, failed) = by_path.entry(format!("{:?}", call.via)).or_default();
        *(if call.answer.is_ok() { answered } else { failed }) += 1;
    }
    for (via, (answered, failed)) in by_path {
        let _ = writeln!(text, "{via}: {answered} calls answered, {failed} failed");
    }
    let told = case.history.watches.iter().flat_map(|watch| &watch.told);
    let events: usize = told.map(|told| told.events.len()).sum();
    let _ = writeln!(text, "{} watchers were told of {events} events", case.history.watches.len());
    for (owner, truth) in &case.truths {
        let _ = writeln!(text, "{owner:?} came to revision {}", truth.revision);
    }
    text
}

/// Keeps all that may explain what went wrong, and tells where.
pub(crate) fn keep(
    plan: &Plan,
    stage: &Stage,
    happened: &[Failpoint],
    case: Option<&Case>,
    violations: &[Violation],
) -> Result<PathBuf> {
    let dir = target().join("robustness").join(format!("{}-{}", plan.seed, plan.members));
    fs::create_dir_all(&dir)?;
    let mut text = summary(plan, happened, case);
    text += "\nwhat must not be, by the names in tests/robustness/check/mod.rs:\n";
    for violation in violations {
        let _ = writeln!(text, "- {violation}");
    }
    fs::write(dir.join("explanation.txt"), text)?;
    if let Some(case) = case {
        lines(&dir.join("calls.jsonl"), case.history.calls.iter())?;
        lines(&dir.join("watches.jsonl"), case.history.watches.iter())?;
        for (owner, truth) in &case.truths {
            lines(&dir.join(format!("truth-{owner:?}.jsonl")), truth.all())?;
        }
    }
    for (index, front) in stage.seawalls.iter().enumerate() {
        let log = front.logged.clone() + &front.seawall.log_text();
        fs::write(dir.join(format!("seawall-{index}.log")), log)?;
    }
    for (owner, cluster) in &stage.clusters {
        for member in cluster.members() {
            fs::write(dir.join(format!("etcd-{owner:?}-{}.log", member.name())), member.log()?)?;
        }
    }
    Ok(dir)
}

fn lines<T: Serialize>(path: &Path, items: impl Iterator<Item = T>) -> Result<()> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    for item in items {
        serde_json::to_writer(&mut file, &item)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from)
}
