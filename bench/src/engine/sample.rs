use super::{
    Plan,
    hands::Hands,
    phase::{Clock, Gauge},
    stage::Stage,
    truth::Truth,
    watch::Audience,
};
use crate::{
    data::Resource,
    measure::Apart,
    operation::Ground,
    result::Sample,
    scenario::{Ask, Scenario},
    target::{Running, Subject},
};
use anyhow::Result;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

/// Measures one subject once. etcd and peer are started for this alone, with the same data each time,
/// so that what each holds is of this sample.
pub(super) async fn sample(
    plan: &Plan,
    stage: &Stage,
    scenario: &Scenario,
    subject: &Subject,
    round: usize,
) -> Result<Sample> {
    stage.reset().await?;
    let read = read(scenario);
    let cluster = stage.cluster.as_ref();
    let running = subject.start(plan.programs.as_ref(), cluster, &stage.data, &read).await?;
    let mut company = Company::gather(stage, scenario, &running).await?;
    let mut sample = Sample {
        scenario: scenario.name.clone(),
        target: subject.to_string(),
        round,
        phases: Vec::new(),
        violations: BTreeMap::new(),
        happened: Vec::new(),
        usage: Vec::new(),
    };
    company.warm_up(scenario).await?;
    let mut clock = Clock { stage, epoch: Instant::now(), gauge: Gauge::new(running.peer_pid()) };
    company.audiences.iter().for_each(|audience| {
        // What was heard of the warm-up does not count.
        audience.parts(clock.epoch, Duration::ZERO);
    });
    for phase in &scenario.phases {
        let measured = Box::pin(clock.phase(scenario, phase, &mut company, &mut sample)).await?;
        sample.phases.push(measured);
    }
    company.verify(stage, &mut sample).await?;
    running.still_runs().await?;
    Ok(sample)
}

/// Whose objects a mirror is asked for.
fn read(scenario: &Scenario) -> Vec<Resource> {
    let asked = scenario.workloads.iter().filter_map(|workload| match workload.ask {
        Ask::Get { of } | Ask::List { of, .. } | Ask::Pages { of, .. } | Ask::Count { of } => {
            Some(of)
        }
        _ => None,
    });
    let mut read: Vec<_> = asked.chain(scenario.watchers.iter().map(|each| each.of)).collect();
    read.sort_unstable();
    read.dedup();
    // Those with a time to live come and go too fast to be worth it, and nobody caches them.
    read.retain(|resource| *resource != Resource::Events);
    read
}

/// All who ask and watch, on threads of their own, and what is true.
pub(super) struct Company {
    pub(super) ground: Arc<Ground>,
    pub(super) hands: Vec<Hands>,
    pub(super) audiences: Vec<Audience>,
    truth: Truth,
    /// Last, so that nobody asks when the threads end.
    _threads: [Arc<Apart>; 3],
}

impl Company {
    /// Small answers wait for no large ones: who lists and who watches has another thread.
    async fn gather(stage: &Stage, scenario: &Scenario, running: &Running) -> Result<Self> {
        let dial = stage.dial().unwrap_or_else(|| running.dial().clone());
        let run = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis() as u64;
        let connection = dial.open(0).await?;
        let ground = Ground::learn(&connection, &stage.data, scenario, run).await?;
        let ground = Arc::new(ground);
        let truth = Truth::begin(&dial, &stage.data).await?;
        let threads = ["bench-light", "bench-heavy", "bench-watch"].map(Apart::start);
        let [light, heavy, ears] = threads;
        let threads = [Arc::new(light?), Arc::new(heavy?), Arc::new(ears?)];
        let [light, heavy, ears] = &threads;
        let (mut hands, mut connections) = (Vec::new(), 0);
        for workload in &scenario.workloads {
            let thread = if workload.ask.is_heavy() { heavy } else { light };
            let ready = Hands::ready(workload, thread, running.dial(), &ground, connections);
            hands.push(ready.await?);
            connections += workload.connections;
        }
        let mut audiences = Vec::new();
        for watchers in &scenario.watchers {
            let opened = Audience::open(watchers, ears, running.dial(), &ground, truth.revision);
            audiences.push(opened.await?);
        }
        Ok(Self { ground, hands, audiences, truth, _threads: threads })
    }

    /// What the first phase does, without being counted.
    async fn warm_up(&mut self, scenario: &Scenario) -> Result<()> {
        let Some(first) = scenario.phases.first() else { return Ok(()) };
        let lasts = scenario.warm_up.0;
        if lasts.is_zero() {
            return Ok(());
        }
        let chosen = |hands: &Hands| hands.workload.runs_in(first) && hands.warms_up();
        super::phase::work(&mut self.hands, chosen, lasts, self.ground.epoch).await?;
        Ok(())
    }

    /// Whether all that was acknowledged happened, once, and came to all who watch.
    async fn verify(self, stage: &Stage, sample: &mut Sample) -> Result<()> {
        let Self { ground, audiences, truth, _threads, .. } = self;
        let began = truth.revision;
        let (facts, revision) = truth.end(&stage.data).await?;
        for audience in &audiences {
            audience.settle(&facts).await;
            for (what, count) in audience.violations(&facts) {
                *sample.violations.entry(what).or_default() += count;
            }
        }
        // Nobody else writes to an etcd that was started for this.
        if stage.cluster.is_some() {
            check_writes(ground.writes(), (revision - began) as u64, &mut sample.violations);
        }
        for phase in &sample.phases {
            for part in phase.parts.iter().filter(|part| part.figures.violations > 0) {
                let what = format!("{}: wrong answers", part.name);
                *sample.violations.entry(what).or_default() += part.figures.violations;
            }
        }
        Ok(())
    }
}

/// Each write makes one revision, so that there are as many as were acknowledged, and at most those
/// more whose outcome is not known.
fn check_writes(
    (acknowledged, in_doubt): (u64, u64),
    made: u64,
    violations: &mut BTreeMap<String, u64>,
) {
    if made < acknowledged {
        violations.insert("acknowledged writes that are not there".to_owned(), acknowledged - made);
    }
    if made > acknowledged + in_doubt {
        let doubled = made - acknowledged - in_doubt;
        violations.insert("writes that nobody made, or twice".to_owned(), doubled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_doubled_writes_come_out_as_such() {
        let found = |writes, made| {
            let mut violations = BTreeMap::new();
            check_writes(writes, made, &mut violations);
            violations
                .into_iter()
                .map(|(what, count)| format!("{count} {what}"))
                .collect::<String>()
        };
        assert_eq!(found((100, 0), 100), "");
        assert_eq!(found((100, 3), 102), "");
        assert_eq!(found((100, 3), 98), "2 acknowledged writes that are not there");
        assert_eq!(found((100, 3), 104), "1 writes that nobody made, or twice");
    }
}
