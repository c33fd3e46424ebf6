//! What was measured, for people: a page, Markdown, and what changed since another run.

mod chart;
mod compare;
mod environment;
mod figures;
mod html;
mod markdown;
mod scale;
mod table;

pub(crate) use compare::{Comparison, compare};
pub(crate) use environment::environment;
pub(crate) use figures::number;

use crate::{
    measure::Group,
    result::{Results, Sample},
    scenario::{Figure, Headline},
};
use anyhow::{Context, Result};
use clap::Args;
use figures::{BYTES_PER_MIB, Spread};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where a report goes.
#[derive(Args, Debug)]
pub(crate) struct Outputs {
    /// Where to write every single measurement
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Where to write the page, which needs nothing but itself
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Where to write the tables, which are printed in any case
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

impl Outputs {
    pub(crate) fn write(&self, results: &Results) -> Result<()> {
        // First what cannot be had again.
        if let Some(path) = &self.json {
            write(path, &serde_json::to_string(results)?)?;
        }
        if let Some(path) = &self.html {
            write(path, &html::page(results))?;
        }
        let text = markdown::text(results);
        if let Some(path) = &self.markdown {
            write(path, &text)?;
        }
        println!("{text}");
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// What a headline speaks of, in one sample.
pub(crate) fn figure(sample: &Sample, headline: &Headline) -> Option<f64> {
    let phase = sample.phase(&headline.phase)?;
    let mib = |bytes: u64| bytes as f64 / BYTES_PER_MIB;
    let part = || phase.part(&headline.of);
    // Nothing that was not answered has a latency.
    let timed = || part().filter(|figures| figures.max_ms > 0.0);
    match headline.figure {
        Figure::PerSecond => part().map(|figures| figures.per_second),
        Figure::MibPerSecond => part().map(|figures| figures.bytes_per_second / BYTES_PER_MIB),
        Figure::P50Ms => timed().map(|figures| figures.p50_ms),
        Figure::P99Ms => timed().map(|figures| figures.p99_ms),
        Figure::MaxMs => timed().map(|figures| figures.max_ms),
        Figure::EtcdCpu => phase.costs.get(&Group::Etcd).map(|cost| cost.cpu_seconds),
        Figure::EtcdPeakMib => phase.costs.get(&Group::Etcd).map(|cost| mib(cost.rss_peak_bytes)),
        Figure::PeerPeakMib => phase.costs.get(&Group::Peer).map(|cost| mib(cost.rss_peak_bytes)),
    }
}

impl Figure {
    fn unit(self) -> &'static str {
        match self {
            Self::PerSecond => "/s",
            Self::MibPerSecond => "MiB/s",
            Self::P50Ms => "p50 ms",
            Self::P99Ms => "p99 ms",
            Self::MaxMs => "max ms",
            Self::EtcdCpu => "etcd CPU s",
            Self::EtcdPeakMib => "etcd peak MiB",
            Self::PeerPeakMib => "peer peak MiB",
        }
    }

    fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond | Self::MibPerSecond)
    }
}

/// Of all rounds.
fn spread(results: &Results, scenario: &str, target: &str, headline: &Headline) -> Option<Spread> {
    Spread::of(results.of(scenario, Some(target)).filter_map(|sample| figure(sample, headline)))
}
