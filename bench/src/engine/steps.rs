use super::{stage::Stage, watch::Audience};
use crate::{
    client::etcd::{
        self, CompactionRequest, CompactionResponse, DefragmentRequest, DefragmentResponse,
    },
    result::Happened,
    scenario::{Action, Step},
};
use anyhow::{Context, Result};
use seawall_testkit::{Cluster, Member};
use tokio::time::{Instant, sleep_until};

/// Does what happens in a phase, and says when it did.
pub(super) struct Steps<'a> {
    pub(super) stage: &'a Stage,
    /// From which times count.
    pub(super) epoch: Instant,
    pub(super) audiences: &'a [Audience],
    /// History before this may be compacted: what was there when the phase began.
    pub(super) revision: i64,
}

impl Steps<'_> {
    pub(super) async fn happen(&self, steps: &[&Step], begin: Instant) -> Vec<Happened> {
        let mut happened = Vec::new();
        for step in steps {
            sleep_until(begin + step.at.0).await;
            let start = Instant::now();
            let error = self.take(step.action).await.err();
            happened.push(Happened {
                at: (start - self.epoch).as_secs_f64(),
                what: step.action.says().to_owned(),
                took: start.elapsed().as_secs_f64(),
                error: error.map(|error| format!("{error:#}")),
            });
        }
        happened
    }

    async fn take(&self, action: Action) -> Result<()> {
        if action == Action::BreakWatches {
            self.audiences.iter().for_each(Audience::break_connections);
            return Ok(());
        }
        let cluster = self.stage.cluster.as_ref();
        let cluster = cluster.context("only an etcd that was started for this can be told to")?;
        match action {
            Action::Compact => self.compact(cluster).await,
            Action::Defragment => self.defragment(cluster).await,
            Action::KillLeader => cluster.leader().await?.kill().await,
            Action::KillFollower => follower(cluster).await?.kill().await,
            Action::StartMembers => start_members(cluster).await,
            Action::MoveLeader => cluster.move_leader(follower(cluster).await?.index()).await,
            Action::BreakWatches => Ok(()),
        }
    }

    async fn compact(&self, cluster: &Cluster) -> Result<()> {
        let dial = crate::client::Dial::plain([cluster.leader().await?.address()]);
        let request = CompactionRequest { revision: self.revision, physical: false };
        let connection = dial.open(0).await?;
        let answer = connection.unary::<CompactionResponse>(etcd::COMPACT, &request).await;
        answer.map(drop).context("compacting")
    }

    async fn defragment(&self, cluster: &Cluster) -> Result<()> {
        for member in cluster.members().iter().filter(|member| member.pid().is_some()) {
            let connection = crate::client::Dial::plain([member.address()]).open(0).await?;
            let request = DefragmentRequest {};
            let answer = connection.unary::<DefragmentResponse>(etcd::DEFRAGMENT, &request).await;
            answer.with_context(|| format!("defragmenting {}", member.name()))?;
        }
        Ok(())
    }
}

async fn follower(cluster: &Cluster) -> Result<&Member> {
    let leader = cluster.leader().await?.index();
    let mut followers = cluster
        .members()
        .iter()
        .filter(|member| member.index() != leader && member.pid().is_some());
    followers.next().context("there is no follower")
}

async fn start_members(cluster: &Cluster) -> Result<()> {
    for member in cluster.members().iter().filter(|member| member.pid().is_none()) {
        member.launch()?;
    }
    cluster.serving().await
}

impl Action {
    fn says(self) -> &'static str {
        match self {
            Self::Compact => "compaction",
            Self::Defragment => "defragmentation",
            Self::KillLeader => "the leader is killed",
            Self::KillFollower => "a follower is killed",
            Self::StartMembers => "members start again",
            Self::MoveLeader => "the leader moves",
            Self::BreakWatches => "watches break",
        }
    }
}
