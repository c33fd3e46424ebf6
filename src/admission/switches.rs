//! Protections as operators see and switch them.

use super::{Mode, Protection, protection::Current};
use std::collections::BTreeMap;

/// One protection as an operator sees it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Standing {
    pub protection: String,
    pub mode: &'static str,
    /// Whether the mode was set by hand.
    pub switched: bool,
    pub delayed: u64,
    pub refused: u64,
    pub would_delay: u64,
    pub would_refuse: u64,
}

/// There is no protection of this name, or none that can be switched.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct UnknownProtection(String);

/// Protections that are always there, in the order in which a call meets them.
const BUILT_IN: [&str; 8] =
    ["all", "read_only", "space", "deletes", "mirror", "coalescing", "paging", "queues"];

/// The bound of what is held, which is there to stay.
const MEMORY: &str = "memory";

impl Protection {
    /// Sets a protection to `mode` whatever its configuration says, or back to that.
    ///
    /// # Errors
    ///
    /// When there is no protection of this name.
    pub fn switch(&self, name: &str, mode: Option<Mode>) -> Result<(), UnknownProtection> {
        {
            // Held until it is in force, lest a configuration that is taken over meanwhile is undone.
            let mut switches = self.switches.lock();
            let current = self.current.load_full();
            if current.has(name) {
                match mode {
                    Some(mode) => switches.insert(name.to_owned(), mode),
                    None => switches.remove(name),
                };
                self.put_in_force(current.config.clone(), &mut switches);
                return Ok(());
            }
        }
        Err(self.unknown(name))
    }

    /// What was switched by hand, and to what.
    pub fn switched(&self) -> BTreeMap<String, Mode> {
        self.switches.lock().clone()
    }

    /// That there is no protection of this name to switch, but others.
    pub fn unknown(&self, name: &str) -> UnknownProtection {
        if name == MEMORY {
            return UnknownProtection(
                "memory has no switch; its bound is protection.memory".into(),
            );
        }
        let known = self.standings().into_iter().map(|standing| standing.protection);
        let known: Vec<_> = known.filter(|name| name != MEMORY).collect();
        let known = known.join(", ");
        UnknownProtection(format!("there is no protection {name:?}; there are {known}"))
    }

    /// Every protection, what it does, and what it has done.
    pub fn standings(&self) -> Vec<Standing> {
        let current = self.current();
        current.rules.iter().for_each(|running| running.settle());
        let switches = self.switches.lock();
        let standing = |protection: &str, mode: Mode, figures: [u64; 4]| {
            let [delayed, refused, would_delay, would_refuse] = figures;
            Standing {
                protection: protection.to_owned(),
                mode: mode.as_str(),
                switched: switches.contains_key(protection),
                delayed,
                refused,
                would_delay,
                would_refuse,
            }
        };
        let mut standings: Vec<_> = BUILT_IN
            .iter()
            .map(|name| {
                let mode = current.mode(name, &switches);
                standing(name, mode, self.figures(name))
            })
            .collect();
        standings.push(standing(MEMORY, Mode::Enforce, self.figures(MEMORY)));
        standings.extend(current.rules.iter().map(|running| {
            standing(&format!("rules.{}", running.name), running.mode(), running.counters.figures())
        }));
        standings
    }

    /// What a built-in protection has done; the queues of all clusters together.
    fn figures(&self, name: &str) -> [u64; 4] {
        match name {
            "all" | "mirror" => [0; 4],
            "queues" => {
                // The counters of a queue are shared by all clusters.
                let queues = ["queues.reads", "queues.writes", "queues.lists"];
                let figures = queues.map(|queue| self.metrics.protection(queue).figures());
                std::array::from_fn(|index| figures.iter().map(|each| each[index]).sum())
            }
            _ => self.metrics.protection(name).figures(),
        }
    }
}

impl Current {
    /// Whether there is a protection of this name.
    fn has(&self, name: &str) -> bool {
        let rule = name.strip_prefix("rules.");
        BUILT_IN.contains(&name)
            || rule.is_some_and(|name| self.rules.iter().any(|running| &*running.name == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Config;
    use std::thread;

    /// What memory had refused was counted as the queues', which had not.
    #[test]
    fn memory_shows_what_it_has_refused_and_has_no_switch() {
        let protection = Protection::new(Config::fixture(), &mut Default::default());
        let more = Config::fixture().memory_bytes + 1;
        assert!(protection.hold_stalled(more).is_none());
        let refused = |name| {
            let standings = protection.standings();
            let standing = standings.into_iter().find(|standing| standing.protection == name);
            standing.map(|standing| (standing.mode, standing.refused))
        };
        assert_eq!(refused("memory"), Some(("enforce", 1)));
        assert_eq!(refused("queues"), Some(("enforce", 0)));
        assert!(protection.switch("memory", Some(Mode::Off)).is_err());
    }

    /// An operator switched something while a changed configuration was read: the change was logged as
    /// taken over, and was gone.
    #[test]
    fn a_switch_does_not_undo_a_configuration_that_is_taken_over_meanwhile() {
        let protection = Protection::new(Config::fixture(), &mut Default::default());
        thread::scope(|scope| {
            let switching = scope.spawn(|| {
                for mode in [Some(Mode::Observe), None].into_iter().cycle().take(2_000) {
                    protection.switch("space", mode).expect("it is there");
                }
            });
            let mut keys_max = 0;
            while !switching.is_finished() {
                keys_max += 1;
                let mut config = Config::fixture();
                config.deletes.keys_max = keys_max;
                protection.apply(config);
                assert_eq!(protection.current().config.deletes.keys_max, keys_max);
            }
        });
    }
}
