use anyhow::{Context, Result, ensure};
use procfs::{Current, CurrentSI};
use seawall_testkit::Usage;
use serde::Serialize;
use std::{fs, process, time::Duration};
use tokio::time::Instant;

/// Whose processor time and memory a measurement reads from /proc.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Processes {
    etcd: Option<u32>,
    peer: Option<u32>,
    client: u32,
}

/// What a process spent on a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Cost {
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_before_bytes: u64,
    /// The most that was resident since the process began, or since its peak was forgotten.
    pub(crate) rss_peak_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Costs {
    pub(crate) etcd: Option<Cost>,
    /// Of the hop between client and etcd; there is none when etcd is asked directly.
    pub(crate) peer: Option<Cost>,
    pub(crate) client: Cost,
    /// How many cores all other work on the machine took meanwhile, with what a hypervisor stole.
    pub(crate) others_cores: f64,
}

/// What all of them have used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readings {
    etcd: Option<Usage>,
    peer: Option<Usage>,
    client: Usage,
    machine: Duration,
    at: Instant,
}

impl Processes {
    pub(crate) fn new(etcd: u32, peer: Option<u32>) -> Self {
        Self { etcd: Some(etcd), peer, client: process::id() }
    }

    /// When it does not matter what the others spend.
    pub(crate) fn only_client() -> Self {
        Self { etcd: None, peer: None, client: process::id() }
    }

    pub(crate) fn read(&self) -> Result<Readings> {
        let usage = |name: &str, pid| Usage::of(pid).with_context(|| format!("{name} has ended"));
        Ok(Readings {
            etcd: self.etcd.map(|pid| usage("etcd", pid)).transpose()?,
            peer: self.peer.map(|pid| usage("the peer", pid)).transpose()?,
            client: usage("the client", self.client)?,
            machine: machine()?,
            at: Instant::now(),
        })
    }
}

impl Readings {
    pub(crate) fn since(&self, before: &Self) -> Costs {
        let cost = |now: Usage, before: Usage| Cost {
            cpu_seconds: now.cpu.saturating_sub(before.cpu).as_secs_f64(),
            rss_before_bytes: before.rss_bytes,
            rss_peak_bytes: now.peak_rss_bytes,
        };
        let mut costs = Costs {
            etcd: self.etcd.zip(before.etcd).map(|(now, before)| cost(now, before)),
            peer: self.peer.zip(before.peer).map(|(now, before)| cost(now, before)),
            client: cost(self.client, before.client),
            others_cores: 0.0,
        };
        let ours = [costs.etcd, costs.peer, Some(costs.client)].into_iter().flatten();
        let ours: f64 = ours.map(|cost| cost.cpu_seconds).sum();
        let all = self.machine.saturating_sub(before.machine).as_secs_f64();
        costs.others_cores = (all - ours).max(0.0) / (self.at - before.at).as_secs_f64();
        costs
    }
}

/// Processor time of everything that runs here. That of interrupts is left out: the kernel may have
/// charged it to whoever was interrupted.
fn machine() -> Result<Duration> {
    let total = procfs::KernelStats::current().context("reading /proc/stat")?.total;
    let ticks = total.user + total.nice + total.system + total.steal.unwrap_or_default();
    Ok(Duration::from_secs(ticks) / u32::try_from(procfs::ticks_per_second())?)
}

/// Makes the peak of a process start again from what is resident now.
pub(crate) fn forget_peak(pid: u32) -> Result<()> {
    const PEAK_RSS: &str = "5";
    fs::write(format!("/proc/{pid}/clear_refs"), PEAK_RSS)
        .with_context(|| format!("resetting the peak memory of process {pid}"))
}

/// Better no figure than a machine that kills what others run on it.
pub(crate) fn ensure_memory(wanted_mib: u64) -> Result<()> {
    let memory = procfs::Meminfo::current().context("reading /proc/meminfo")?;
    let available_mib = memory.mem_available.unwrap_or(memory.mem_free) >> 20;
    ensure!(
        available_mib >= wanted_mib,
        "{available_mib} MiB of memory are available and it may take {wanted_mib}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_that_of_the_measurement() -> Result<()> {
        let processes = Processes::only_client();
        // Far more than other tests of this process hold.
        const BLOCK_BYTES: usize = 256 << 20;
        let touch = || drop(std::hint::black_box(vec![1_u8; BLOCK_BYTES]));
        let peak = || anyhow::Ok(processes.read()?.client.peak_rss_bytes);
        touch();
        assert!(peak()? > BLOCK_BYTES as u64);
        forget_peak(process::id())?;
        assert!(peak()? < BLOCK_BYTES as u64);
        touch();
        assert!(peak()? > BLOCK_BYTES as u64);
        Ok(())
    }
}
