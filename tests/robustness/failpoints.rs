//! What goes wrong: one thing at a time, for a moment, and then it is mended.

use crate::{
    client::Client,
    history::Owner,
    operator,
    stage::{Settings, Stage},
};
use anyhow::{Context, Result, ensure};
use prost::Message;
use rand::{Rng, rngs::StdRng, seq::SliceRandom};
use seawall::etcd::{
    method::Method,
    proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction},
};
use seawall_testkit::{Direction, Fault};
use std::time::Duration;
use tokio::time::sleep;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failpoint {
    KillMember,
    PauseMember,
    MoveLeader,
    IsolateLeader,
    NoSpace,
    KillSeawall,
    PauseSeawall,
    Drain,
    Reload,
    Certificates,
    Evict,
    CutLinks,
    DelayLinks,
    HoldLinks,
    LoseAnswers,
    CutClients,
    DelayClients,
    CompactBeneath,
}

use Failpoint::*;

const ALL: [Failpoint; 18] = [
    KillMember,
    PauseMember,
    MoveLeader,
    IsolateLeader,
    NoSpace,
    KillSeawall,
    PauseSeawall,
    Drain,
    Reload,
    Certificates,
    Evict,
    CutLinks,
    DelayLinks,
    HoldLinks,
    LoseAnswers,
    CutClients,
    DelayClients,
    CompactBeneath,
];

/// All that can happen to clusters of this size, in a random order.
pub(crate) fn shuffled(members: usize, random: &mut StdRng) -> Vec<Failpoint> {
    let needs_others = |failpoint| matches!(failpoint, MoveLeader | IsolateLeader);
    let mut bag: Vec<_> =
        ALL.into_iter().filter(|failpoint| members > 1 || !needs_others(*failpoint)).collect();
    bag.shuffle(random);
    bag
}

/// A Seawall that takes longer to end was told to take two seconds at most.
const END_MAX: Duration = Duration::from_secs(60);

impl Failpoint {
    /// Breaks something and mends it again.
    pub(crate) async fn happen(self, stage: &mut Stage, random: &mut StdRng) -> Result<()> {
        let hold = Duration::from_millis(random.random_range(100..700));
        let index = random.random_range(0..stage.seawalls.len());
        let owner = Owner::ALL[random.random_range(0..Owner::ALL.len())];
        let member = random.random_range(0..stage.cluster(owner).members().len());
        match self {
            KillMember => {
                stage.cluster(owner).member(member).kill().await?;
                sleep(hold).await;
                stage.cluster(owner).member(member).restart().await?;
            }
            PauseMember => {
                stage.cluster(owner).member(member).pause()?;
                sleep(hold).await;
                stage.cluster(owner).member(member).resume()?;
            }
            MoveLeader => {
                let main = stage.cluster(Owner::Main);
                let next = (main.leader().await?.index() + 1) % main.members().len();
                main.move_leader(next).await?;
            }
            IsolateLeader => {
                let main = stage.cluster(Owner::Main);
                main.isolate(main.leader().await?.index())?;
                sleep(3 * hold).await;
            }
            NoSpace => {
                alarm(stage, owner, AlarmAction::Activate).await?;
                sleep(hold).await;
                alarm(stage, owner, AlarmAction::Deactivate).await?;
            }
            KillSeawall => {
                stage.seawalls[index].seawall.kill()?;
                ended(stage, index).await?;
                stage.start_again(index).await?;
            }
            PauseSeawall => {
                stage.seawalls[index].seawall.pause()?;
                sleep(hold).await;
                stage.seawalls[index].seawall.resume()?;
            }
            Drain => {
                stage.seawalls[index].seawall.terminate()?;
                ended(stage, index).await?;
                stage.start_again(index).await?;
            }
            Reload => reload(stage, index, random)?,
            Certificates => {
                let front = &mut stage.seawalls[index];
                stage.pki.renew_server()?;
                let settings = front.settings();
                front.reload(&stage.pki, settings)?;
            }
            Evict => evict(stage, index, hold).await?,
            CutLinks => stage.seawalls[index].links().for_each(|link| link.cut()),
            DelayLinks => {
                stage.seawalls[index].set_links(Fault::Delay(hold / 10));
                sleep(2 * hold).await;
            }
            HoldLinks => {
                stage.seawalls[index].set_links(Fault::Blackhole);
                sleep(hold).await;
            }
            LoseAnswers => {
                // What was sent has arrived, and nobody hears of it.
                for _ in 0..3 {
                    stage.seawalls[index].set_links(Fault::Stall(Direction::ToClient));
                    sleep(hold / 3).await;
                    stage.seawalls[index].links().for_each(|link| link.cut());
                    sleep(hold / 3).await;
                    stage.seawalls[index].set_links(Fault::Forward);
                    sleep(hold / 3).await;
                }
            }
            CutClients => stage.seawalls[index].down.cut(),
            DelayClients => {
                stage.seawalls[index].down.set(Fault::Delay(hold / 10));
                sleep(2 * hold).await;
            }
            CompactBeneath => compact_beneath(stage, index, hold).await?,
        }
        stage.heal().await.with_context(|| format!("after {self:?}"))
    }
}

async fn ended(stage: &Stage, index: usize) -> Result<()> {
    stage.seawalls[index].seawall.wait(END_MAX).await.map(drop)
}

/// As when the disk of every member is as full as its quota allows.
async fn alarm(stage: &Stage, owner: Owner, action: AlarmAction) -> Result<()> {
    for member in stage.cluster(owner).members() {
        let request = AlarmRequest {
            action: action.into(),
            member_id: member.id().await?,
            alarm: AlarmType::Nospace.into(),
        };
        let client = Client::connect(member.address()).await?;
        let reply = client.unary(Method::Alarm.path(), &[], &request.encode_to_vec()).await?;
        ensure!(reply.status.code() == Some(tonic::Code::Ok), "alarm: {}", reply.status);
    }
    Ok(())
}

/// Switches protections, one way or the other.
fn reload(stage: &mut Stage, index: usize, random: &mut StdRng) -> Result<()> {
    let mut one_of = |of: [&'static str; 3]| of[random.random_range(0..of.len())];
    let settings = Settings {
        mirror: one_of(["enforce", "observe", "off"]),
        // Of 64 KiB nearly nothing is left when somebody comes back.
        history: one_of(["16MiB", "1MiB", "64KiB"]),
        coalesces: random.random_bool(0.7),
    };
    stage.seawalls[index].reload(&stage.pki, settings)
}

/// Has collections given up and loaded again.
async fn evict(stage: &mut Stage, index: usize, hold: Duration) -> Result<()> {
    // With the mirror at work, whatever it was before.
    let front = &mut stage.seawalls[index];
    front.reload(&stage.pki, Settings::default())?;
    let admin = front.seawall.admin()?;
    for mode in ["off", "on"] {
        for (cluster, collection) in [("main", "pods"), ("events", "events")] {
            let path = format!("/mirror/{cluster}?collection=/registry/{collection}&mode={mode}");
            // It refuses while nobody has asked for the collection since the start.
            operator::post(admin, &path).await.ok();
        }
        sleep(hold).await;
    }
    Ok(())
}

/// Keeps a Seawall from etcd while its other clients write and compact.
async fn compact_beneath(stage: &Stage, index: usize, hold: Duration) -> Result<()> {
    let front = &stage.seawalls[index];
    front.set_links(Fault::Refuse);
    front.links().for_each(|link| link.cut());
    // The clients compact in the meantime what was written when this began.
    sleep(4 * hold).await;
    Ok(())
}
