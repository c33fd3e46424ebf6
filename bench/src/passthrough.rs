//! The pass-through run: what a hop costs when it only has to hand requests on.

use crate::{
    measure::{Processes, ensure_memory, forget_peak},
    report::{PassthroughSample as Sample, Report},
    target::{Programs, Target, in_turn},
    workload::{Data, Durations, Experiment, Needs, Workload, compact},
};
use anyhow::{Context, Result};
use seawall_testkit::Cluster;
use std::net::SocketAddr;

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) programs: Programs,
    /// `direct` is the first.
    pub(crate) targets: Vec<Target>,
    /// Why other targets are not measured.
    pub(crate) left_out: Vec<String>,
    pub(crate) experiments: Vec<Experiment>,
    pub(crate) rounds: usize,
    pub(crate) memory_rounds: usize,
    pub(crate) durations: Durations,
}

/// Measures everything, and puts each sample into the report as soon as it is there.
pub(crate) async fn run(plan: &Plan, report: &mut Report<Sample>) -> Result<()> {
    eprintln!("starting and filling etcd {}", plan.programs.etcd.line());
    let etcd = plan.programs.start_etcd().await?;
    let workloads = plan.experiments.iter().map(|experiment| experiment.workload);
    let data = Data::load(etcd.member(0).address(), Needs::of(workloads)).await?;
    let bench = Bench { plan, etcd, data };
    let memory = |experiment: &&Experiment| experiment.workload == Workload::Mem100;
    for round in 0..plan.rounds {
        for (index, experiment) in plan.experiments.iter().filter(|e| !memory(e)).enumerate() {
            bench.experiment(*experiment, round, index, report).await?;
        }
    }
    for round in 0..plan.memory_rounds {
        for (index, experiment) in plan.experiments.iter().filter(memory).enumerate() {
            bench.experiment(*experiment, round, index, report).await?;
        }
    }
    Ok(())
}

struct Bench<'a> {
    plan: &'a Plan,
    etcd: Cluster,
    data: Data,
}

impl Bench<'_> {
    /// Measures all targets once, one after the other, so that they meet the same machine. Who
    /// begins changes with the round and the experiment.
    async fn experiment(
        &self,
        experiment: Experiment,
        round: usize,
        index: usize,
        report: &mut Report<Sample>,
    ) -> Result<()> {
        for target in in_turn(&self.plan.targets, round + index) {
            if let Err(shortage) = enough_memory(experiment, target) {
                report.note(format!("{experiment} of {target} is left out: {shortage}"));
                continue;
            }
            match self.sample(experiment, target, round).await {
                Ok(sample) => report.add(sample),
                // One peer that fails does not spoil what can be learnt of the others.
                Err(error) => {
                    let round = round + 1;
                    report.failure(format!("{experiment} of {target}, round {round}: {error:#}"));
                }
            }
        }
        if experiment.workload.writes() {
            compact(self.etcd_address()).await?;
        }
        Ok(())
    }

    /// The peer is started for this sample alone: its peak memory is of this, and peers that wait
    /// for their turn take nothing from the one that is measured.
    async fn sample(&self, experiment: Experiment, target: Target, round: usize) -> Result<Sample> {
        let member = self.etcd.member(0);
        if experiment.workload == Workload::Mem100 {
            member.restart().await?;
        }
        let mut running = target.start(&self.plan.programs, &self.etcd).await?;
        let etcd = member.pid().context("etcd has ended")?;
        forget_peak(etcd)?;
        let processes = Processes::new(etcd, running.peer_pid());
        let measurement = experiment
            .measure(running.address(), &self.data, self.plan.durations, &processes)
            .await;
        running.still_runs().await?;
        Ok(Sample { experiment, target, round, measurement: measurement? })
    }

    fn etcd_address(&self) -> SocketAddr {
        self.etcd.member(0).address()
    }
}

/// Lists in flight fill the memory of etcd, and of a peer that buffers.
fn enough_memory(experiment: Experiment, target: Target) -> Result<()> {
    if matches!(experiment.workload, Workload::Get | Workload::Put | Workload::Txn) {
        return Ok(());
    }
    let per_list_mib = if target == Target::GrpcProxy { 1024 } else { 512 };
    // One more for what etcd holds anyway.
    ensure_memory((experiment.in_flight as u64 + 1) * per_list_mib)
}
