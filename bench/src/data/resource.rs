use super::{NAMESPACES, random::Random};
use serde::{Deserialize, Serialize};

/// What there are objects of.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum Resource {
    Pods,
    Nodes,
    /// One of each node, which the node renews.
    Leases,
    /// Those of leaders of controllers.
    Elections,
    ConfigMaps,
    Secrets,
    Services,
    EndpointSlices,
    ReplicaSets,
    /// With a time to live.
    Events,
    /// Of a custom resource.
    Widgets,
    /// Of another one.
    Gadgets,
}

/// How keys and sizes of a resource look.
struct Layout {
    path: &'static str,
    namespaced: bool,
    /// Of the value, as protobuf for what is built in and as JSON for custom resources.
    median_bytes: f64,
    /// Of the logarithm of the size: 0.5 makes the largest hundredth thrice the median.
    spread: f64,
}

impl Resource {
    fn layout(self) -> Layout {
        let layout = |path, namespaced, median_bytes, spread| Layout {
            path,
            namespaced,
            median_bytes,
            spread,
        };
        match self {
            Self::Pods => layout("pods", true, 5000.0, 0.5),
            // The name they had before they were called nodes.
            Self::Nodes => layout("minions", false, 9000.0, 0.2),
            Self::Leases => layout("leases/kube-node-lease", false, 420.0, 0.0),
            Self::Elections => layout("leases/kube-system", false, 420.0, 0.0),
            Self::ConfigMaps => layout("configmaps", true, 1500.0, 1.2),
            Self::Secrets => layout("secrets", true, 3000.0, 1.0),
            Self::Services => layout("services/specs", true, 900.0, 0.3),
            Self::EndpointSlices => layout("endpointslices", true, 1800.0, 0.6),
            Self::ReplicaSets => layout("replicasets", true, 2500.0, 0.4),
            Self::Events => layout("events", true, 800.0, 0.2),
            Self::Widgets => layout("example.com/widgets", true, 3000.0, 0.8),
            Self::Gadgets => layout("example.com/gadgets", true, 3000.0, 0.8),
        }
    }

    pub(crate) fn path(self) -> &'static str {
        self.layout().path
    }

    /// How long objects live, if not until they are deleted.
    pub(crate) fn ttl_seconds(self) -> Option<i64> {
        // An hour, and the minute for which kube-apiserver gives out the same lease.
        (self == Self::Events).then_some(3660)
    }

    pub(super) fn bytes(self, random: &mut Random) -> usize {
        let Layout { median_bytes, spread, .. } = self.layout();
        (median_bytes * (spread * random.normal()).exp()) as usize
    }

    /// What stands after the prefix. The index makes it unique, the rest scatters it.
    pub(super) fn name(self, index: usize, random: &mut Random) -> String {
        if !self.layout().namespaced {
            return format!("node-{index:05}");
        }
        let namespace = random.below(NAMESPACES);
        let suffix = random.below(1 << 40);
        format!("namespace-{namespace:03}/app-{:03}-{suffix:010x}-{index:05}", index % 997)
    }
}
