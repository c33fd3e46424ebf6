use super::Scenario;
use anyhow::Result;

macro_rules! scenarios {
    ($($name:literal,)*) => {
        /// Name and text of each, in the order in which they are told.
        const BUILTIN: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../scenarios/", $name, ".yaml"))),)*];
    };
}

scenarios! {
    "daemonset-list-storm",
    "daemonset-list-burst",
    "apiserver-restart",
    "event-flood",
    "runaway-controller",
    "relist-herd",
    "steady-1000",
    "steady-5000",
    "steady-15000",
    "lease-renewals",
    "one-watcher",
    "watch-fan-out",
    "ten-thousand-watchers",
    "slow-watcher",
    "large-objects",
    "paged-lists-under-churn",
    "consistency-checker",
    "compaction-and-defragmentation",
    "member-loss",
    "noisy-neighbour",
    "lists-in-flight",
    "many-keys-in-pages",
    "million-objects",
    "list-storm-closed",
    "list-storm-sizes",
    "list-storm-large",
    "hot-key",
    "hop-small",
    "hop-lists",
}

pub(crate) fn builtin(name: &str) -> Option<Result<Scenario>> {
    let &(name, text) = BUILTIN.iter().find(|(known, _)| *known == name)?;
    Some(Scenario::parse(name, &format!("scenarios/{name}.yaml"), text))
}

/// # Errors
///
/// Never, which a test sees to.
pub(crate) fn builtins() -> Result<Vec<Scenario>> {
    BUILTIN.iter().filter_map(|(name, _)| builtin(name)).collect()
}
