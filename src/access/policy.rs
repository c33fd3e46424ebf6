//! What is let and what is not.

use super::{Config, Grant, Need, Verb};
use crate::{
    admission::{Client, Mode},
    etcd::key_range::KeyRange,
    telemetry::audit::{self, audit},
};
use arc_swap::ArcSwapOption;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use std::sync::Arc;

/// The grants that hold at the moment.
#[derive(Debug)]
pub struct Access {
    /// `None` lets everybody do everything.
    current: ArcSwapOption<Config>,
    refused: Family<Labels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    verb: &'static str,
    mode: &'static str,
}

/// What a configuration makes of one need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The number of the first grant that lets it.
    By(usize),
    /// No grant does.
    Refused,
}

impl Config {
    pub fn judge(&self, client: &Client, need: &Need) -> Verdict {
        let lets =
            |grant: &Grant| grant.is_for(client) && grant.lets(need.verb, need.keys.as_ref());
        self.grants.iter().position(lets).map_or(Verdict::Refused, Verdict::By)
    }
}

impl Access {
    pub fn new(config: Option<Config>, registry: &mut Registry) -> Arc<Self> {
        let refused = Family::<Labels, Counter>::default();
        registry.register(
            "access_refused",
            "Calls that no grant of access lets, or that none would",
            refused.clone(),
        );
        for verb in Verb::ALL {
            for mode in [Mode::Enforce, Mode::Observe] {
                drop(refused.get_or_create(&labels(verb, mode)));
            }
        }
        Arc::new(Self { current: ArcSwapOption::from_pointee(config), refused })
    }

    pub fn apply(&self, config: Option<Config>) {
        self.current.store(config.map(Arc::new));
    }

    /// Whether everybody may do everything.
    pub fn is_open(&self) -> bool {
        self.current.load().as_ref().is_none_or(|config| config.mode == Mode::Off)
    }

    /// Whether what no grant lets is refused, and not only counted.
    pub fn enforces(&self) -> bool {
        self.current.load().as_ref().is_some_and(|config| config.mode == Mode::Enforce)
    }

    /// Whether grants let `client` do this, whatever comes of it; only asked.
    pub fn lets(&self, client: &Client, need: &Need) -> bool {
        let current = self.current.load();
        let config = current.as_ref().filter(|config| config.mode != Mode::Off);
        config.is_none_or(|config| config.judge(client, need) != Verdict::Refused)
    }

    /// Whether `client` may do all that is needed for a call of `method`. What it may not is counted
    /// and written down.
    pub fn allows(
        &self,
        client: &Client,
        method: &str,
        needs: impl IntoIterator<Item = Need>,
    ) -> bool {
        let current = self.current.load();
        let Some(config) = current.as_ref().filter(|config| config.mode != Mode::Off) else {
            return true;
        };
        let refused = |need: &Need| config.judge(client, need) == Verdict::Refused;
        let Some(need) = needs.into_iter().find(refused) else { return true };
        self.refused.get_or_create(&labels(need.verb, config.mode)).inc();
        tell(client, method, &need, config.mode);
        config.mode != Mode::Enforce
    }
}

fn labels(verb: Verb, mode: Mode) -> Labels {
    Labels { verb: verb.as_str(), mode: mode.as_str() }
}

fn tell(client: &Client, method: &str, need: &Need, mode: Mode) {
    let (name, address, verb) = (&*client.name, client.address, need.verb.as_str());
    let keys = need.keys.as_ref().map(KeyRange::to_string);
    let mode = mode.as_str();
    audit::of_client(|| {
        audit!(
            "access_refused",
            client = name,
            %address,
            method,
            verb,
            keys,
            mode,
            "no grant lets this client do this"
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Pattern;

    fn client(name: &str) -> Client {
        Client { name: name.into(), address: [127, 0, 0, 1].into() }
    }

    fn grant(name: &str, verbs: &[Verb], prefixes: &[&str]) -> Grant {
        Grant {
            clients: vec![Pattern::new(name)],
            addresses: Vec::new(),
            verbs: verbs.to_vec(),
            prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
        }
    }

    fn read(start: &'static str, end: &'static str) -> Need {
        Need::with(Verb::Read, KeyRange::of(start.into(), end.into()))
    }

    fn access(mode: Mode) -> Arc<Access> {
        let grants = vec![
            grant("cilium-*", &[Verb::Read, Verb::Lease], &["cilium", "/a"]),
            grant("*", &[Verb::Status], &[]),
        ];
        Access::new(Some(Config { mode, grants }), &mut Registry::default())
    }

    #[test]
    fn what_no_grant_lets_is_refused() {
        let access = access(Mode::Enforce);
        for (name, need, expected) in [
            ("cilium-1", read("cilium/state/x", ""), true),
            ("cilium-1", read("/a/", "/a0"), true),
            ("cilium-1", read("/b", ""), false),
            ("cilium-1", Need::with(Verb::Write, KeyRange::single("/a".into())), false),
            ("cilium-1", Need::new(Verb::Lease), true),
            ("other", Need::new(Verb::Lease), false),
            ("other", Need::new(Verb::Status), true),
            ("other", read("/a/x", ""), false),
        ] {
            assert_eq!(access.allows(&client(name), "Range", [need.clone()]), expected, "{need:?}");
        }
        // Two prefixes are not one, though each half of the range lies in one.
        assert!(!access.allows(&client("cilium-1"), "Range", [read("/a/", "cilium0")]));
        assert!(!access.allows(&client("cilium-1"), "New", Need::everything()));
    }

    #[test]
    fn observing_and_no_configuration_refuse_nothing() {
        let observing = access(Mode::Observe);
        assert!(observing.allows(&client("other"), "Range", [read("/a", "")]));
        assert_eq!(observing.refused.get_or_create(&labels(Verb::Read, Mode::Observe)).get(), 1);
        let open = Access::new(None, &mut Registry::default());
        assert!(open.is_open() && open.allows(&client("other"), "Range", [read("/a", "")]));
    }
}
