//! One run: clients, faults, and what is to be said of it.

use crate::{
    check::{Case, Violation},
    client::{Client, DEADLINE},
    failpoints::{Failpoint, shuffled},
    follow::Followed,
    history::{Answer, History, Kv, Owner, Range, Recorder, Request, Via},
    report,
    stage::Stage,
    traffic::Traffic,
    truth::Truth,
};
use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use rand::{SeedableRng, rngs::StdRng};
use seawall::{
    etcd::{
        method::Method,
        proto::etcdserverpb::{RangeRequest, RangeResponse},
    },
    sabotage::Sabotage,
};
use seawall_testkit::Binaries;
use std::{collections::BTreeMap, env, sync::Arc, time::Duration};
use tokio::time::Instant;

/// What decides a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) members: usize,
    pub(crate) duration: Duration,
    pub(crate) binaries: Binaries,
    /// What Seawall is to get wrong, where it was built to.
    pub(crate) sabotage: Option<Sabotage>,
}

impl Plan {
    /// With the etcd that `VERSION` names, or the newest there is: older ones break some of these
    /// rules themselves.
    pub(crate) fn of(seed: u64, duration: Duration) -> Result<Self> {
        let binaries = match env::var("VERSION") {
            Ok(line) => Binaries::of(&line)?,
            Err(_) => Binaries::newest()?,
        };
        Ok(Self { seed, members: 1, duration, binaries, sabotage: None })
    }

    /// # Errors
    ///
    /// When clients were not told the truth; what they were told is then kept.
    pub(crate) async fn run(&self) -> Result<()> {
        let mut stage = Stage::start(self).await?;
        let mut happened = Vec::new();
        let outcome = self.observe(&mut stage, &mut happened).await;
        let (case, mut violations) = match &outcome {
            Ok(case) => (Some(case), case.violations()),
            Err(error) => (None, vec![Violation { rule: "it ends", what: format!("{error:#}") }]),
        };
        violations.extend(panics(&stage));
        eprintln!("{}", report::summary(self, &happened, case));
        let Some(first) = violations.first() else { return Ok(()) };
        let kept = report::keep(self, &stage, &happened, case, &violations)?;
        bail!("{} violations, all in {}; the first is {first}", violations.len(), kept.display())
    }

    /// The rules that are broken in a run of a Seawall that was built to break some.
    #[cfg(feature = "sabotage")]
    pub(crate) async fn broken_rules(&self) -> Result<std::collections::BTreeSet<&'static str>> {
        let mut stage = Stage::start(self).await?;
        let mut happened = Vec::new();
        let case = self.observe(&mut stage, &mut happened).await?;
        eprintln!("{}", report::summary(self, &happened, Some(&case)));
        Ok(case.violations().into_iter().map(|violation| violation.rule).collect())
    }

    /// Clients and faults, and what they come to.
    async fn observe(&self, stage: &mut Stage, happened: &mut Vec<Failpoint>) -> Result<Case> {
        let recorder = Arc::new(Recorder::new());
        let follow = |owner| (owner, Followed::start(owner, &stage.map, &recorder));
        let followed: BTreeMap<_, _> = Owner::ALL.map(follow).into();
        let traffic = Traffic::start(self.seed, &stage.map, &recorder, &followed);
        let end = Instant::now() + self.duration;
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut bag = Vec::new();
        while Instant::now() < end {
            let Some(failpoint) = bag.pop() else {
                bag = shuffled(self.members, &mut random);
                continue;
            };
            happened.push(failpoint);
            failpoint.happen(stage, &mut random).await?;
        }
        traffic.end().await?;
        let mut truths = BTreeMap::new();
        for (owner, followed) in &followed {
            truths.insert(*owner, whole(stage, *owner, followed).await?);
        }
        let case = Case { history: recorder.take(), truths };
        worked(&case.history)?;
        Ok(case)
    }
}

/// All that has happened at a cluster, as far as its keys now show.
async fn whole(stage: &Stage, owner: Owner, followed: &Followed) -> Result<Truth> {
    let client = Client::connect(stage.cluster(owner).member(0).address()).await?;
    let everything = RangeRequest {
        key: b"\0"[..].into(),
        range_end: b"\0"[..].into(),
        ..RangeRequest::default()
    };
    let reply = client.unary(Method::Range.path(), &[], &everything.encode_to_vec()).await?;
    let message = reply.messages.into_iter().next().context("no answer")?;
    let state = RangeResponse::decode(message)?;
    let revision = state.header.context("no header")?.revision;
    let truth = followed.up_to(revision).await?;
    let kvs: Vec<_> = state.kvs.iter().map(Kv::of).collect();
    let range = Range { key: String::new(), end: "\u{10ffff}".to_owned() };
    let same = truth.range(&range, revision).into_iter().eq(&kvs);
    ensure!(same, "{owner:?} is not as its own events say");
    Ok(truth)
}

/// A run in which nobody was served shows nothing.
fn worked(history: &History) -> Result<()> {
    for via in [Via::Seawall(0), Via::Seawall(1), Via::Direct] {
        let calls = history.calls.iter().filter(|call| call.via == via);
        let answered = calls.filter(|call| call.answer.is_ok()).count();
        ensure!(answered > 30, "only {answered} calls were answered by {via:?}");
    }
    let swapped = history.calls.iter().any(|call| {
        matches!(
            (&call.request, &call.answer),
            (Request::Swap { .. }, Ok(Answer::Swapped { succeeded: true, .. }))
        )
    });
    ensure!(swapped, "no swap was made within {DEADLINE:?}");
    Ok(())
}

fn panics(stage: &Stage) -> Vec<Violation> {
    let logs = stage.seawalls.iter().map(|front| front.logged.clone() + &front.seawall.log_text());
    let lines: Vec<String> =
        logs.flat_map(|log| log.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let panicked = lines.into_iter().filter(|line| line.contains("panicked"));
    panicked.map(|what| Violation { rule: "no panic", what }).collect()
}
