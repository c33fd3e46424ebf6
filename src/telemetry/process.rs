use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use serde::Serialize;
use std::fmt;

/// What the process uses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
}

/// As the operating system tells; `None` where it does not.
pub fn usage() -> Option<Usage> {
    procfs::process::Process::myself().and_then(|process| process.stat()).ok().as_ref().map(used)
}

fn used(stat: &procfs::process::Stat) -> Usage {
    Usage {
        cpu_seconds: (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64,
        resident_bytes: stat.rss * procfs::page_size(),
    }
}

/// What the operating system says of this process, under the names that Prometheus' own clients use.
#[derive(Debug)]
pub struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Ok(process) = procfs::process::Process::myself() else { return Ok(()) };
        let Ok(stat) = process.stat() else { return Ok(()) };
        let Usage { cpu_seconds, resident_bytes } = used(&stat);
        let cpu = ConstCounter::new(cpu_seconds);
        let encoder_of = encoder.encode_descriptor(
            "process_cpu",
            "CPU time used",
            Some(&Unit::Seconds),
            cpu.metric_type(),
        )?;
        cpu.encode(encoder_of)?;
        let mut gauge = |name, help, unit: Option<&Unit>, value: u64| {
            let gauge = ConstGauge::new(value as f64);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
        };
        gauge("process_resident_memory", "Memory in use", Some(&Unit::Bytes), resident_bytes)?;
        gauge("process_virtual_memory", "Memory mapped", Some(&Unit::Bytes), stat.vsize)?;
        if let Ok(open) = process.fd_count() {
            gauge("process_open_fds", "Open file descriptors", None, open as u64)?;
        }
        gauge("process_threads", "Threads", None, stat.num_threads.unsigned_abs())
    }
}
