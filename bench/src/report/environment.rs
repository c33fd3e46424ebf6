use anyhow::{Context, Result};
use procfs::Current;
use serde::Serialize;
use std::{env, fmt, thread};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Where, when and with what it was measured.
#[derive(Debug, Serialize)]
pub(super) struct Environment {
    date: String,
    cpu: String,
    cores: usize,
    memory_bytes: u64,
    kernel: String,
    /// How many tasks wanted to run when the run began, over the last minute: the noise.
    load_average: f32,
    versions: Vec<String>,
    command: String,
}

impl Environment {
    pub(super) fn here(versions: Vec<String>) -> Result<Self> {
        let cpus = procfs::CpuInfo::current().context("reading /proc/cpuinfo")?;
        let kernel = procfs::sys::kernel::Version::current().context("reading the kernel")?;
        let kernel = format!("Linux {}.{}.{}", kernel.major, kernel.minor, kernel.patch);
        Ok(Self {
            date: OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?,
            cpu: cpus.model_name(0).unwrap_or("of an unknown model").to_owned(),
            cores: thread::available_parallelism()?.get(),
            memory_bytes: procfs::Meminfo::current()?.mem_total,
            kernel,
            load_average: procfs::LoadAverage::current()?.one,
            versions,
            command: env::args().collect::<Vec<_>>().join(" "),
        })
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, cpu, cores, memory_bytes, kernel, load_average, versions, command } = self;
        writeln!(f, "- Measured {date}: `{command}`")?;
        let memory_gib = memory_bytes >> 30;
        writeln!(f, "- {cores} cores of {cpu}, {memory_gib} GiB, {kernel}")?;
        writeln!(f, "- Load average when it began: {load_average:.2}")?;
        for version in versions {
            writeln!(f, "- {version}")?;
        }
        if cfg!(debug_assertions) {
            writeln!(f, "- The client is a debug build: its figures mean little")?;
        }
        Ok(())
    }
}
