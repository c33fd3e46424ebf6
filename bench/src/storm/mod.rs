//! The storm: what becomes of small writes while many list everything, and whether lists stay right.

mod counter;
mod experiment;
mod foreground;
mod hot_key;
mod lister;
mod meter;

pub(crate) use experiment::{Experiment, HotKey, Keys, Load, Storm};
pub(crate) use foreground::ForegroundFigures;
pub(crate) use meter::Served;

use crate::{
    client::Connection,
    measure::{
        Apart, Figures, Loop, Operation, Pace, Precision, Until, ensure_memory, run, run_paced,
    },
    report::{HotKeyFigures, Report, StormFigures, StormOutcome, StormSample},
    target::{Programs, Running, Target, in_turn},
    workload::{Objects, compact, fill},
};
use anyhow::{Context, Result};
use counter::{Acknowledged, Writer};
use foreground::Foreground;
use hot_key::HotRead;
use lister::{Lister, Whole};
use meter::Meter;
use seawall_testkit::{Cluster, Member};
use std::{net::SocketAddr, sync::Arc, time::Duration};

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) programs: Programs,
    /// `direct` is the first.
    pub(crate) targets: Vec<Target>,
    /// Why other targets are not measured.
    pub(crate) left_out: Vec<String>,
    pub(crate) experiments: Vec<Experiment>,
    pub(crate) rounds: usize,
    /// Of each phase of a storm.
    pub(crate) phase: Duration,
}

/// The foreground alone, before its quiet phase is counted.
const WARM_UP: Duration = Duration::from_millis(500);
const HOT_KEY: Duration = Duration::from_secs(2);

/// Measures everything, and puts each sample into the report as soon as it is there.
pub(crate) async fn measure(plan: &Plan, report: &mut Report<StormSample>) -> Result<()> {
    eprintln!("starting and filling etcd {}", plan.programs.etcd.line());
    let etcd = plan.programs.start_etcd().await?;
    let wholes = load(etcd.member(0).address(), &plan.experiments).await?;
    let bench = Bench { plan, etcd, wholes };
    for round in 0..plan.rounds {
        for (index, &experiment) in plan.experiments.iter().enumerate() {
            for target in in_turn(&plan.targets, round + index) {
                bench.target(experiment, target, round, report).await;
            }
        }
    }
    Ok(())
}

/// Writes what the experiments list, asking etcd directly.
async fn load(etcd: SocketAddr, experiments: &[Experiment]) -> Result<Vec<Whole>> {
    let connection = Connection::open(etcd).await?;
    let mut wholes: Vec<Whole> = Vec::new();
    for experiment in experiments {
        let objects = experiment.objects();
        if wholes.iter().any(|whole| whole.objects == objects) {
            continue;
        }
        fill(&connection, objects).await?;
        Writer::open(&connection, objects, Arc::default()).await?.perform(&connection).await?;
        wholes.push(Lister::learn(&connection, objects).await?);
    }
    Ok(wholes)
}

struct Bench<'a> {
    plan: &'a Plan,
    etcd: Cluster,
    wholes: Vec<Whole>,
}

impl Bench<'_> {
    /// Measures one target, and says in the report what it could not.
    async fn target(
        &self,
        experiment: Experiment,
        target: Target,
        round: usize,
        report: &mut Report<StormSample>,
    ) {
        if let Experiment::Storm(storm) = experiment
            && let Err(shortage) = ensure_memory(storm.memory_mib(target))
        {
            report.note(format!("{experiment} of {target} is left out: {shortage}"));
            return;
        }
        match Box::pin(self.sample(experiment, target, round)).await {
            Ok(sample) => report.add(sample),
            // One peer that fails does not spoil what can be learnt of the others.
            Err(error) => {
                let round = round + 1;
                report.failure(format!("{experiment} of {target}, round {round}: {error:#}"));
            }
        }
    }

    /// etcd and the peer are started for this sample alone, so that what each holds is of it, and
    /// the history of those before is dropped.
    async fn sample(
        &self,
        experiment: Experiment,
        target: Target,
        round: usize,
    ) -> Result<StormSample> {
        self.member().restart().await?;
        compact(self.member().address()).await?;
        let mut running = target.start(&self.plan.programs, &self.etcd).await?;
        let outcome = match experiment {
            Experiment::Storm(storm) => self.storm(storm, &running).await,
            Experiment::HotKey(what) => self.hot_key(what, &running).await,
        };
        running.still_runs().await?;
        Ok(StormSample { experiment, target, round, outcome: outcome? })
    }

    async fn storm(&self, storm: Storm, running: &Running) -> Result<StormOutcome> {
        let (target, phase) = (running.address(), self.plan.phase);
        let whole = self.wholes.iter().find(|whole| whole.objects == storm.objects);
        let whole = *whole.context("these objects were not loaded")?;
        let acknowledged = Arc::<Acknowledged>::default();
        let apart = Apart::start()?;
        let prepare = Foreground::prepare(target, storm.objects, acknowledged.clone());
        let foreground = apart.run(prepare).await?;
        let (foreground, _) = apart.run(foreground.run(WARM_UP)).await?;
        let (foreground, quiet) = apart.run(foreground.run(phase)).await?;
        let mut listers = Vec::new();
        for index in 0..storm.in_flight() {
            let operation = Lister::new(whole, storm.keys, index, acknowledged.clone());
            listers.push(Loop { connection: Connection::open(target).await?, operation });
        }
        let meter = Meter::start(self.member(), running).await?;
        let (lists, (_, during)) =
            tokio::try_join!(lists(listers, storm.load, phase), apart.run(foreground.run(phase)))?;
        let (costs, served) = meter.read().await?;
        let list_bytes = whole.message_bytes;
        let figures = StormFigures { quiet, during, lists, list_bytes, costs, served };
        Ok(StormOutcome::Storm(Box::new(figures)))
    }

    async fn hot_key(&self, what: HotKey, running: &Running) -> Result<StormOutcome> {
        let acknowledged = Arc::<Acknowledged>::default();
        let apart = Apart::start()?;
        let count = foreground::count(running.address(), hot_key::OBJECTS, acknowledged.clone());
        let writer = apart.run(count).await?;
        let loops = HotRead::loops(running.address(), what, &acknowledged).await?;
        let meter = Meter::start(self.member(), running).await?;
        let ((_, reads), (_, counter)) = tokio::try_join!(
            run(loops, Until::Elapsed(HOT_KEY)),
            apart.run(run_paced(writer, foreground::counting(HOT_KEY))),
        )?;
        let (costs, served) = meter.read().await?;
        let (reads, counter) = (reads.figures(), counter.figures());
        Ok(StormOutcome::HotKey(Box::new(HotKeyFigures { reads, counter, costs, served })))
    }

    fn member(&self) -> &Member {
        self.etcd.member(0)
    }
}

async fn lists(listers: Vec<Loop<Lister>>, load: Load, phase: Duration) -> Result<Figures> {
    let (_, tally) = match load {
        Load::Closed { .. } => run(listers, Until::Elapsed(phase)).await?,
        Load::Open { per_second } => {
            let precision = Precision::Milliseconds;
            let pace = Pace { per_second, duration: phase, times_failures: false, precision };
            run_paced(listers, pace).await?
        }
    };
    Ok(tally.figures())
}

impl Experiment {
    fn objects(&self) -> Objects {
        match self {
            Self::Storm(storm) => storm.objects,
            Self::HotKey(_) => hot_key::OBJECTS,
        }
    }
}
