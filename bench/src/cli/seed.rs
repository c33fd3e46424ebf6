use super::{endpoints::EndpointFlags, interrupted};
use crate::{
    client::Dial,
    data::{Amount, DataSet, Emptiness, Resource, fill},
};
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use std::{collections::BTreeMap, process::ExitCode, sync::Arc};

#[derive(Args, Debug)]
pub(super) struct Seed {
    /// URLs of an etcd, or of what stands in front of one
    #[arg(long, value_delimiter = ',', required = true)]
    endpoint: Vec<String>,

    #[command(flatten)]
    endpoint_flags: EndpointFlags,

    /// A cluster of so many nodes: 30 pods on each, and what belongs to them
    #[arg(long, required_unless_present = "objects")]
    nodes: Option<usize>,

    /// So many of a resource, instead or besides: pods=1000, pods=1000x10240 with a size in bytes
    #[arg(long, value_delimiter = ',', value_name = "RESOURCE=COUNT")]
    objects: Vec<String>,

    /// The same seed makes the same data
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Seed {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let dial = Dial::of_urls(&self.endpoint, &self.endpoint_flags.certificates())?;
        let amounts = self.amounts()?;
        let data = Arc::new(DataSet::new(&self.endpoint_flags.root()?, self.seed, amounts));
        let style = ProgressStyle::with_template("{elapsed_precise} {bar:30} {pos}/{len} {msg}")?;
        let bar = ProgressBar::new(0).with_style(style);
        tokio::select! {
            filled = fill(&dial, &data, Emptiness::Required, &bar) => filled?,
            ended = interrupted() => ended?,
        }
        bar.finish_and_clear();
        for (&resource, amount) in data.amounts() {
            let mib = data.bytes(resource) >> 20;
            println!(
                "{} {} ({mib} MiB) below {}",
                amount.count,
                resource.path(),
                data.prefix(resource)
            );
        }
        Ok(ExitCode::SUCCESS)
    }

    fn amounts(&self) -> Result<BTreeMap<Resource, Amount>> {
        let mut amounts = self.nodes.map(cluster).unwrap_or_default();
        for text in &self.objects {
            let (resource, amount) = amount(text)?;
            amounts.insert(resource, amount);
        }
        ensure!(amounts.values().any(|amount| amount.count > 0), "there is nothing to write");
        Ok(amounts)
    }
}

/// What is usual beside so many nodes.
fn cluster(nodes: usize) -> BTreeMap<Resource, Amount> {
    use Resource::*;
    let counts = [
        (Nodes, nodes),
        (Leases, nodes),
        (Pods, 30 * nodes),
        (ReplicaSets, 6 * nodes),
        (EndpointSlices, nodes),
        (Services, nodes),
        (ConfigMaps, 4 * nodes),
        (Secrets, 4 * nodes),
        (Events, 40 * nodes),
        (Widgets, 2 * nodes),
        (Elections, 40),
    ];
    counts.map(|(resource, count)| (resource, Amount { count, bytes: None })).into()
}

fn amount(text: &str) -> Result<(Resource, Amount)> {
    let wrong = || format!("{text:?} is not written as pods=1000 or pods=1000x10240");
    let (name, amount) = text.split_once('=').with_context(wrong)?;
    let resource = Resource::from_str(name, false).ok().with_context(|| {
        let all: Vec<_> = Resource::value_variants()
            .iter()
            .filter_map(|known| known.to_possible_value().map(|value| value.get_name().to_owned()))
            .collect();
        format!("{name} is not among {}", all.join(", "))
    })?;
    let (count, bytes) = match amount.split_once('x') {
        None => (amount.parse().with_context(wrong)?, None),
        Some((count, bytes)) => {
            (count.parse().with_context(wrong)?, Some(bytes.parse().with_context(wrong)?))
        }
    };
    Ok((resource, Amount { count, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_they_are_written() -> Result<()> {
        let pods = |count, bytes| (Resource::Pods, Amount { count, bytes });
        assert_eq!(amount("pods=1000")?, pods(1000, None));
        assert_eq!(amount("pods=1000x10240")?, pods(1000, Some(10_240)));
        assert!(amount("pod=1").is_err_and(|error| error.to_string().contains("config_maps")));
        assert!(amount("pods:1").is_err());
        Ok(())
    }
}
