use super::wire::{Traffic, Wire};
use anyhow::{Context, Result, ensure};
use procfs::{Current, CurrentSI};
use seawall_testkit::Usage;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, process, time::Duration};
use tokio::time::Instant;

/// Whose processor time, memory and sockets the kernel is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Group {
    /// All members together.
    Etcd,
    /// The hop between client and etcd; there is none when etcd is asked directly.
    Peer,
    Client,
}

/// What a group spent on a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_before_bytes: u64,
    /// The most that was resident during the phase.
    pub(crate) rss_peak_bytes: u64,
    /// What it had written to disks.
    pub(crate) disk_bytes: u64,
    /// None if the kernel does not tell.
    pub(crate) wire: Option<Traffic>,
}

/// What all groups have used at one time.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    at: Instant,
    groups: BTreeMap<Group, Used>,
    /// Processor time of everything that runs here.
    machine: Duration,
    /// Processor time of each thread of the client, by name.
    threads: BTreeMap<String, Duration>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    cpu: Duration,
    rss_bytes: u64,
    peak_bytes: u64,
    disk_bytes: u64,
    wire: Option<Traffic>,
}

/// Reads again and again what processes use. One that ended keeps what it used, and one that was
/// started again adds to it.
#[derive(Debug)]
pub(crate) struct Meter {
    seen: BTreeMap<(Group, u32), Used>,
    /// None where the kernel does not tell.
    wire: Option<Wire>,
    /// How long it took to look at all sockets.
    wire_took: Duration,
}

/// What looking at sockets may take twice a second: a hundredth of a core.
const WIRE_QUICK: Duration = Duration::from_millis(5);

impl Meter {
    /// Without sockets where [`ensure_wire`] fails, and says why.
    pub(crate) fn new() -> Self {
        let wire = ensure_wire().is_ok().then(Wire::default);
        Self { seen: BTreeMap::new(), wire, wire_took: Duration::ZERO }
    }

    /// `processes` are those that run now; the client is always among them.
    pub(crate) fn read(&mut self, processes: &[(Group, u32)]) -> Result<Reading> {
        let processes = with_client(processes);
        self.look_at_sockets(&processes)?;
        self.look_at_processes(&processes)
    }

    /// Between two readings: the sockets are as they were if it takes long to look at them.
    pub(crate) fn glance(&mut self, processes: &[(Group, u32)]) -> Result<Reading> {
        let processes = with_client(processes);
        if self.wire_took <= WIRE_QUICK {
            self.look_at_sockets(&processes)?;
        }
        self.look_at_processes(&processes)
    }

    fn look_at_sockets(&mut self, processes: &[(Group, u32)]) -> Result<()> {
        let Some(wire) = &mut self.wire else { return Ok(()) };
        let begin = Instant::now();
        wire.read(processes)?;
        self.wire_took = begin.elapsed();
        Ok(())
    }

    fn look_at_processes(&mut self, processes: &[(Group, u32)]) -> Result<Reading> {
        let mut groups: BTreeMap<Group, Used> = BTreeMap::new();
        for &(group, pid) in processes {
            // One that has just ended used what was read of it before.
            if let Ok(used) = Used::of(pid) {
                self.seen.insert((group, pid), used);
                let total = groups.entry(group).or_default();
                total.rss_bytes += used.rss_bytes;
                total.peak_bytes += used.peak_bytes;
            }
        }
        for (&(group, _), used) in &self.seen {
            let total = groups.entry(group).or_default();
            total.cpu += used.cpu;
            total.disk_bytes += used.disk_bytes;
        }
        if let Some(wire) = &self.wire {
            let totals = wire.totals();
            for (group, used) in &mut groups {
                used.wire = Some(totals.get(group).copied().unwrap_or_default());
            }
        }
        Ok(Reading { at: Instant::now(), groups, machine: machine()?, threads: threads()? })
    }

    /// Makes the peaks start again from what is resident now.
    pub(crate) fn forget_peaks(processes: &[(Group, u32)]) -> Result<()> {
        processes.iter().try_for_each(|&(_, pid)| forget_peak(pid))
    }
}

impl Used {
    fn of(pid: u32) -> Result<Self> {
        let Usage { cpu, rss_bytes, peak_rss_bytes, .. } = Usage::of(pid)?;
        let io = procfs::process::Process::new(pid.try_into()?)?.io()?;
        Ok(Self {
            cpu,
            rss_bytes,
            peak_bytes: peak_rss_bytes,
            disk_bytes: io.write_bytes,
            wire: None,
        })
    }
}

fn with_client(processes: &[(Group, u32)]) -> Vec<(Group, u32)> {
    processes.iter().copied().chain([(Group::Client, process::id())]).collect()
}

impl Reading {
    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    pub(crate) fn rss_bytes(&self, group: Group) -> Option<u64> {
        self.groups.get(&group).map(|used| used.rss_bytes)
    }

    /// How many cores a group kept busy since `before`.
    pub(crate) fn cores_since(&self, before: &Self, group: Group) -> Option<f64> {
        let elapsed = (self.at - before.at).as_secs_f64();
        self.cost_since(before, group).map(|cost| cost.cpu_seconds / elapsed)
    }

    pub(crate) fn cost_since(&self, before: &Self, group: Group) -> Option<Cost> {
        let now = self.groups.get(&group)?;
        let then = before.groups.get(&group).copied().unwrap_or_default();
        Some(Cost {
            cpu_seconds: now.cpu.saturating_sub(then.cpu).as_secs_f64(),
            rss_before_bytes: then.rss_bytes,
            rss_peak_bytes: now.peak_bytes,
            disk_bytes: now.disk_bytes.saturating_sub(then.disk_bytes),
            wire: now.wire.map(|wire| wire.since(then.wire.unwrap_or_default())),
        })
    }

    /// How many cores all other work on the machine took meanwhile, with what a hypervisor stole.
    pub(crate) fn others_since(&self, before: &Self) -> f64 {
        let costs = self.groups.keys().filter_map(|&group| self.cost_since(before, group));
        let ours: f64 = costs.map(|cost| cost.cpu_seconds).sum();
        let all = self.machine.saturating_sub(before.machine).as_secs_f64();
        (all - ours).max(0.0) / (self.at - before.at).as_secs_f64()
    }

    /// How much of its time the busiest thread of the client ran. Near one, latencies are the
    /// client's own.
    pub(crate) fn busiest_thread_since(&self, before: &Self) -> f64 {
        let busy = self.threads.iter().map(|(name, now)| {
            let then = before.threads.get(name).copied().unwrap_or_default();
            now.saturating_sub(then).as_secs_f64()
        });
        busy.fold(0.0, f64::max) / (self.at - before.at).as_secs_f64()
    }
}

/// Processor time of everything that runs here. That of interrupts is left out: the kernel may have
/// charged it to whoever was interrupted.
fn machine() -> Result<Duration> {
    let total = procfs::KernelStats::current().context("reading /proc/stat")?.total;
    let ticks = total.user + total.nice + total.system + total.steal.unwrap_or_default();
    Ok(Duration::from_secs(ticks) / u32::try_from(procfs::ticks_per_second())?)
}

fn threads() -> Result<BTreeMap<String, Duration>> {
    let ticks_per_second = u32::try_from(procfs::ticks_per_second())?;
    let mut threads: BTreeMap<String, Duration> = BTreeMap::new();
    for task in procfs::process::Process::myself()?.tasks()? {
        // A thread may have ended since its name was read.
        let Ok(stat) = task.and_then(|task| Ok((task.tid, task.stat()?))) else { continue };
        let (tid, stat) = stat;
        let cpu = Duration::from_secs(stat.utime + stat.stime) / ticks_per_second;
        threads.insert(format!("{tid} {}", stat.comm), cpu);
    }
    Ok(threads)
}

fn forget_peak(pid: u32) -> Result<()> {
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

/// Whether the kernel tells what sockets carry.
pub(crate) fn ensure_wire() -> Result<()> {
    Wire::default().read(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_that_of_the_measurement() -> Result<()> {
        // Far more than other tests of this process hold.
        const BLOCK_BYTES: usize = 256 << 20;
        let touch = || drop(std::hint::black_box(vec![1_u8; BLOCK_BYTES]));
        let mut meter = Meter::new();
        let before = meter.read(&[])?;
        let mut peak = || -> Result<u64> {
            let cost = meter.read(&[])?.cost_since(&before, Group::Client);
            Ok(cost.context("the client runs")?.rss_peak_bytes)
        };
        touch();
        assert!(peak()? > BLOCK_BYTES as u64);
        forget_peak(process::id())?;
        assert!(peak()? < BLOCK_BYTES as u64);
        touch();
        assert!(peak()? > BLOCK_BYTES as u64);
        Ok(())
    }

    #[test]
    fn a_process_that_ended_keeps_what_it_used() -> Result<()> {
        let mut meter = Meter::new();
        let gone = Used { cpu: Duration::from_secs(7), rss_bytes: 1, ..Used::default() };
        meter.seen.insert((Group::Etcd, u32::MAX), gone);
        let reading = meter.read(&[])?;
        assert_eq!(reading.groups[&Group::Etcd].cpu, Duration::from_secs(7));
        assert_eq!(reading.rss_bytes(Group::Etcd), Some(0));
        Ok(())
    }
}
