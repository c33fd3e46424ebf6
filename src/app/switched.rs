//! What was switched by hand, on its way from one process to the next.

use super::backends::{Backend, Backends};
use crate::{
    admission::{Mode, Protection},
    telemetry::audit::audit,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// As it is handed over. Another version may know more of it, or less.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Switched {
    /// Modes by the names of protections.
    protections: BTreeMap<String, String>,
    /// Those that are not answered from memory, by the names of clusters.
    collections: BTreeMap<String, Vec<String>>,
}

impl Switched {
    pub(super) fn of(protection: &Protection, backends: &Backends) -> Self {
        let modes = protection.switched().into_iter();
        let off = |(cluster, backend): (&String, &Backend)| {
            // They were named in a URL, so that all of them are text.
            let name = |name: Vec<u8>| String::from_utf8(name).ok();
            let all = backend.running.mirror.collections().into_iter();
            let off = all.filter(|collection| collection.is_off());
            let names: Vec<_> = off.filter_map(|it| name(it.name.to_vec())).collect();
            (!names.is_empty()).then(|| (cluster.clone(), names))
        };
        Self {
            protections: modes.map(|(name, mode)| (name, mode.as_str().to_owned())).collect(),
            collections: backends.iter().filter_map(off).collect(),
        }
    }

    /// What the process before has told; nothing of it is worth staying down for.
    pub(super) fn read(note: &str) -> Self {
        serde_json::from_str(note).unwrap_or_else(|error| {
            tracing::warn!(%error, note, "what was switched by hand cannot be read");
            Self::default()
        })
    }

    /// Switches the same in this process.
    pub(super) fn take_over(&self, protection: &Protection, backends: &Backends) {
        for (name, mode) in &self.protections {
            let known = Mode::named(mode);
            if known.is_some() && protection.switch(name, known).is_ok() {
                audit!("switch_taken_over", protection = name, mode, "switched as before");
            } else {
                tracing::warn!(protection = name, mode, "{GONE}");
            }
        }
        for (cluster, names) in &self.collections {
            let Some(backend) = backends.get(cluster) else {
                tracing::warn!(cluster, collections = ?names, mode = "off", "{GONE}");
                continue;
            };
            for collection in names {
                backend.running.mirror.start_off(collection.as_bytes());
                audit!(
                    "switch_taken_over",
                    cluster,
                    collection,
                    mode = "off",
                    "switched as before"
                );
            }
        }
    }
}

const GONE: &str = "was switched so by hand, which this process cannot take over";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Config;

    #[test]
    fn what_is_not_known_here_keeps_nothing_else_from_being_taken_over() {
        let protection = || Protection::new(Config::fixture(), &mut Default::default());
        let (before, after, backends) = (protection(), protection(), Backends::new());
        before.switch("read_only", Some(Mode::Enforce)).expect("it is there");
        before.switch("queues", Some(Mode::Off)).expect("it is there");
        let mut told = Switched::of(&before, &backends);
        told.protections.insert("rules.gone".into(), "off".into());
        told.protections.insert("space".into(), "upside down".into());
        told.collections.insert("gone".into(), vec!["/registry/pods".into()]);
        let note = serde_json::to_string(&told).expect("it is written");
        Switched::read(&note.replacen('{', r#"{"newer": 1, "#, 1)).take_over(&after, &backends);
        assert_eq!(Switched::of(&after, &backends), Switched::of(&before, &backends));
        assert_eq!(Switched::read("nonsense"), Switched::default());
    }
}
