//! The heaviest names of the last minute as metrics.

use super::{Attribution, Window, top::Load};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};
use std::{fmt, sync::Arc};

/// Names of each kind.
const NAMES: usize = 10;

/// At most [`NAMES`] samples of each kind; which names these are changes.
#[derive(Debug)]
pub(super) struct TopCollector(pub(super) Arc<Attribution>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    kind: &'static str,
    /// Empty for clients, which may use several.
    cluster: String,
    name: String,
}

impl Collector for TopCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let top = self.0.ranking(Window::Minute);
        let labels = |kind, cluster: &str, name: &str| Labels {
            kind,
            cluster: cluster.to_owned(),
            name: name.to_owned(),
        };
        let prefixes = top.prefixes.iter().take(NAMES).map(|ranked| {
            let name = match &*ranked.name.prefix {
                // A label that is empty is none to Prometheus.
                "" => "(no key)",
                prefix => prefix,
            };
            (labels("prefix", &ranked.name.cluster, name), ranked.load)
        });
        let clients = top
            .clients
            .iter()
            .take(NAMES)
            .map(|ranked| (labels("client", "", &ranked.name.to_string()), ranked.load));
        let loads: Vec<_> = prefixes.chain(clients).collect();
        let family = |of: fn(&Load) -> f64| {
            loads.iter().map(move |(labels, load)| (labels.clone(), of(load)))
        };
        gauges(&mut encoder, "top_cost", "Cost in the last minute", family(|load| load.cost))?;
        gauges(
            &mut encoder,
            "top_requests",
            "Requests in the last minute",
            family(|load| load.requests as f64),
        )?;
        gauges(
            &mut encoder,
            "top_bytes",
            "Bytes of requests and answers in the last minute",
            family(|load| load.bytes as f64),
        )?;
        let objects =
            top.objects.iter().take(NAMES).map(|object| {
                (labels("object", &object.cluster, &object.name), object.bytes as f64)
            });
        gauges(&mut encoder, "top_object_bytes", "Largest objects of the last minute", objects)
    }
}

/// A family without samples is left out.
fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl Iterator<Item = (Labels, f64)>,
) -> Result<(), fmt::Error> {
    let mut samples = samples.peekable();
    if samples.peek().is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
