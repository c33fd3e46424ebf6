use super::{hands::Hands, sample::Company, served::Counters, stage::Stage, steps::Steps};
use crate::{
    measure::{Group, Meter, Reading, Tally},
    result::{Part, PhaseSample, Sample, Usage},
    scenario::{Phase, Scenario},
};
use anyhow::Result;
use std::{collections::BTreeMap, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

/// What measures the phases of a sample.
pub(super) struct Clock<'a> {
    pub(super) stage: &'a Stage,
    /// When the counted part of the sample began.
    pub(super) epoch: Instant,
    pub(super) gauge: Gauge,
}

/// Reads what processes use.
pub(super) struct Gauge {
    meter: Meter,
    peer: Option<u32>,
}

/// Of the time line of processes. Processor time has a resolution of 10 ms.
const LOOK: Duration = Duration::from_millis(500);

impl Gauge {
    pub(super) fn new(peer: Option<u32>) -> Self {
        Self { meter: Meter::new(), peer }
    }

    fn processes(&self, stage: &Stage) -> Vec<(Group, u32)> {
        let mut processes = stage.etcd_processes();
        processes.extend(self.peer.map(|pid| (Group::Peer, pid)));
        processes
    }

    fn read(&mut self, stage: &Stage) -> Result<Reading> {
        self.meter.read(&self.processes(stage))
    }

    fn glance(&mut self, stage: &Stage) -> Result<Reading> {
        self.meter.glance(&self.processes(stage))
    }
}

impl Clock<'_> {
    pub(super) async fn phase(
        &mut self,
        scenario: &Scenario,
        phase: &Phase,
        company: &mut Company,
        sample: &mut Sample,
    ) -> Result<PhaseSample> {
        Meter::forget_peaks(&self.gauge.processes(self.stage))?;
        let counters = self.counters().await?;
        let (begin, before) = (Instant::now(), self.gauge.read(self.stage)?);
        let steps: Vec<_> = scenario.steps.iter().filter(|step| step.phase == phase.name).collect();
        let happen = Steps {
            stage: self.stage,
            epoch: self.epoch,
            audiences: &company.audiences,
            revision: company.ground.newest_revision(),
        };
        let (lasts, epoch) = (phase.lasts.0, self.epoch);
        let chosen = |hands: &Hands| hands.workload.runs_in(phase);
        let all = async {
            tokio::join!(
                work(&mut company.hands, chosen, lasts, epoch),
                happen.happen(&steps, begin),
                sleep(lasts),
            )
        };
        let (worked, happened, ()) = self.watch(Box::pin(all), before.clone(), sample).await?;
        sample.happened.extend(happened);
        let now = self.gauge.read(self.stage)?;
        let lasted = begin.elapsed();
        let mut parts: Vec<Part> = worked?
            .into_iter()
            .map(|(name, tally)| Part { name, figures: tally.figures() })
            .collect();
        for audience in &company.audiences {
            parts.extend(audience.parts(self.epoch, lasted));
        }
        let groups = [Group::Etcd, Group::Peer, Group::Client];
        let cost = |group| now.cost_since(&before, group).map(|cost| (group, cost));
        Ok(PhaseSample {
            name: phase.name.clone(),
            at: (begin - self.epoch).as_secs_f64(),
            lasted: lasted.as_secs_f64(),
            parts,
            costs: groups.into_iter().filter_map(cost).collect(),
            others_cores: now.others_since(&before),
            client_busy: now.busiest_thread_since(&before),
            served: self.counters().await?.since(&counters),
        })
    }

    /// Reads what processes use, again and again, until `work` is done.
    async fn watch<T>(
        &mut self,
        mut work: impl Future<Output = T> + Unpin,
        before: Reading,
        sample: &mut Sample,
    ) -> Result<T> {
        let (mut last, mut ticks) = (before, interval(LOOK));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                _ = ticks.tick() => {
                    let now = self.gauge.glance(self.stage)?;
                    sample.usage.push(usage(&now, &last, self.epoch));
                    last = now;
                }
            }
        }
    }

    /// Nothing for an etcd that was not started here.
    async fn counters(&self) -> Result<Counters> {
        match &self.stage.cluster {
            Some(cluster) => Counters::read(cluster).await,
            None => Ok(Counters::default()),
        }
    }
}

fn usage(now: &Reading, last: &Reading, epoch: Instant) -> Usage {
    let of = |group| {
        let cores = now.cores_since(last, group)?;
        Some((group, (cores, now.rss_bytes(group)?)))
    };
    let groups: BTreeMap<_, _> =
        [Group::Etcd, Group::Peer, Group::Client].into_iter().filter_map(of).collect();
    Usage { at: (now.at() - epoch).as_secs_f64(), groups }
}

/// Lets those that are chosen work side by side, and returns what each counted, by its name.
pub(super) async fn work(
    hands: &mut Vec<Hands>,
    chosen: impl Fn(&Hands) -> bool,
    lasts: Duration,
    epoch: Instant,
) -> Result<Vec<(String, Tally)>> {
    let (busy, idle): (Vec<_>, Vec<_>) = hands.drain(..).partition(chosen);
    *hands = idle;
    let mut working = JoinSet::new();
    for each in busy {
        working.spawn(each.work(lasts, epoch));
    }
    let mut tallies = Vec::new();
    while let Some(done) = working.join_next().await {
        let (each, tally) = done??;
        tallies.push((each.workload.name.clone(), tally));
        hands.push(each);
    }
    tallies.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(tallies)
}
