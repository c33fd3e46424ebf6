use crate::result::Environment;
use anyhow::{Context, Result};
use procfs::Current;
use std::{env, thread};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Where this runs, and now.
pub(crate) fn environment(versions: Vec<String>) -> Result<Environment> {
    let cpus = procfs::CpuInfo::current().context("reading /proc/cpuinfo")?;
    let kernel = procfs::sys::kernel::Version::current().context("reading the kernel")?;
    Ok(Environment {
        date: OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?,
        cpu: cpus.model_name(0).unwrap_or("of an unknown model").to_owned(),
        cores: thread::available_parallelism()?.get(),
        memory_bytes: procfs::Meminfo::current()?.mem_total,
        kernel: format!("Linux {}.{}.{}", kernel.major, kernel.minor, kernel.patch),
        load_average: procfs::LoadAverage::current()?.one,
        versions,
        command: env::args().collect::<Vec<_>>().join(" "),
        is_debug: cfg!(debug_assertions),
        ..Environment::default()
    })
}

impl Environment {
    /// A line for each thing that must be known of the figures.
    pub(super) fn lines(&self) -> Vec<String> {
        let Self { date, cpu, cores, memory_bytes, kernel, command, .. } = self;
        let memory_gib = memory_bytes >> 30;
        let mut lines = vec![
            format!("Measured {date}: `{command}`"),
            format!("{cores} cores of {cpu}, {memory_gib} GiB, {kernel}"),
            format!("Load average when it began: {:.2}", self.load_average),
        ];
        lines.extend(self.versions.iter().cloned());
        if let Some(ceiling) = self.ceiling {
            let reads = super::number(ceiling.reads_per_second);
            let mib = super::number(ceiling.list_bytes_per_second / super::BYTES_PER_MIB);
            lines.push(format!(
                "One thread of the client, against a server that does nothing: {reads} calls/s with \
                 64 in flight, {mib} MiB/s of lists with 4"
            ));
        }
        if (self.scale - 1.0).abs() > f64::EPSILON {
            lines
                .push(format!("Rates and numbers are {} times those of the scenarios", self.scale));
        }
        if self.is_debug {
            lines.push("The client is a debug build: its figures mean little".to_owned());
        }
        lines
    }
}
