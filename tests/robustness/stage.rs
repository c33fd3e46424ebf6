//! Two clusters, two Seawalls before both, and a proxy on every link that may fail.

use crate::{
    history::Owner,
    map::{BY_TLS, Map},
    operator,
    run::Plan,
};
use anyhow::{Context, Result, ensure};
use seawall::sabotage::Sabotage;
use seawall_testkit::{Cluster, Fault, FaultProxy, Pki, SeawallProcess, eventually};
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) struct Stage {
    // Before the clusters, which they would miss otherwise.
    pub(crate) seawalls: Vec<Front>,
    pub(crate) clusters: BTreeMap<Owner, Cluster>,
    pub(crate) pki: Pki,
    pub(crate) map: Arc<Map>,
}

/// A Seawall, with the links on both of its sides.
pub(crate) struct Front {
    pub(crate) seawall: SeawallProcess,
    pub(crate) down: FaultProxy,
    /// One for each member.
    pub(crate) up: BTreeMap<Owner, Vec<FaultProxy>>,
    /// What those before it have logged.
    pub(crate) logged: String,
    index: usize,
    config: PathBuf,
    settings: Settings,
    sabotage: Option<Sabotage>,
}

/// What a reload changes.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) mirror: &'static str,
    pub(crate) coalesces: bool,
    /// Bytes of the past of each collection.
    pub(crate) history: &'static str,
}

impl Default for Settings {
    fn default() -> Self {
        Self { mirror: "enforce", coalesces: true, history: "16MiB" }
    }
}

impl Stage {
    pub(crate) async fn start(plan: &Plan) -> Result<Self> {
        let cluster = |members| {
            Cluster::builder().members(members).binaries(&plan.binaries).peer_proxies().start()
        };
        let (main, events) = tokio::try_join!(cluster(plan.members), cluster(1))?;
        let clusters = BTreeMap::from([(Owner::Main, main), (Owner::Events, events)]);
        let pki = Pki::new()?;
        let map = Arc::new(Map::new(&clusters, &pki)?);
        let mut seawalls = Vec::new();
        for index in 0..2 {
            let front = Front::start(index, &clusters, &pki, plan.sabotage).await?;
            map.set(index, front.down.address());
            seawalls.push(front);
        }
        Ok(Self { seawalls, clusters, pki, map })
    }

    pub(crate) fn cluster(&self, owner: Owner) -> &Cluster {
        &self.clusters[&owner]
    }

    /// Ends every fault of the network, and waits until both Seawalls serve both clusters.
    pub(crate) async fn heal(&self) -> Result<()> {
        for (owner, cluster) in &self.clusters {
            cluster.heal();
            cluster.serving().await.with_context(|| format!("{owner:?}"))?;
        }
        for front in &self.seawalls {
            front.down.heal();
            front.up.values().flatten().for_each(FaultProxy::heal);
        }
        eventually(DEADLINE, "members that serve, as both Seawalls see them", async || {
            for front in &self.seawalls {
                let status = operator::status(front.seawall.admin()?).await?;
                let clusters = status["clusters"].as_object().context("clusters")?;
                let members = clusters.values().filter_map(|cluster| cluster["members"].as_array());
                let sick = members.flatten().find(|member| member["state"] != "healthy");
                ensure!(sick.is_none(), "{sick:?}");
            }
            Ok(())
        })
        .await
    }

    /// Starts a Seawall that has ended; its clients find it at another address.
    pub(crate) async fn start_again(&mut self, index: usize) -> Result<()> {
        let front = &mut self.seawalls[index];
        front.logged += &front.seawall.log_text();
        front.seawall = front.launch().await?;
        front.down = FaultProxy::start(front.seawall.address(NAME)?).await?;
        self.map.set(index, front.down.address());
        Ok(())
    }
}

/// A member that is well again is found to be so within moments.
const QUICK: &str = "backoff_max: 500ms, probe: {interval: 200ms}";

/// Of the one listener.
const NAME: &str = "main";

impl Front {
    async fn start(
        index: usize,
        clusters: &BTreeMap<Owner, Cluster>,
        pki: &Pki,
        sabotage: Option<Sabotage>,
    ) -> Result<Self> {
        let mut up = BTreeMap::new();
        for (owner, cluster) in clusters {
            let mut links = Vec::new();
            for member in cluster.members() {
                links.push(FaultProxy::start(member.address()).await?);
            }
            up.insert(*owner, links);
        }
        let config = clusters[&Owner::Main].dir().join(format!("seawall-{index}.yaml"));
        let settings = Settings::default();
        fs::write(&config, yaml(index, &up, pki, &settings)?)?;
        let seawall = launch(&config, sabotage).await?;
        let down = FaultProxy::start(seawall.address(NAME)?).await?;
        Ok(Self { seawall, down, up, logged: String::new(), index, config, settings, sabotage })
    }

    async fn launch(&self) -> Result<SeawallProcess> {
        launch(&self.config, self.sabotage).await
    }

    /// Has it read its configuration again, with other settings, and its certificates.
    pub(crate) fn reload(&mut self, pki: &Pki, settings: Settings) -> Result<()> {
        self.settings = settings;
        fs::write(&self.config, yaml(self.index, &self.up, pki, &self.settings)?)?;
        self.seawall.reload()
    }

    pub(crate) fn settings(&self) -> Settings {
        self.settings.clone()
    }

    /// The links to all members.
    pub(crate) fn links(&self) -> impl Iterator<Item = &FaultProxy> {
        self.up.values().flatten()
    }

    pub(crate) fn set_links(&self, fault: Fault) {
        self.links().for_each(|link| link.set(fault));
    }
}

async fn launch(config: &Path, sabotage: Option<Sabotage>) -> Result<SeawallProcess> {
    let binary = env::var_os("SEAWALL_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_seawall").into(), PathBuf::from);
    let builder = SeawallProcess::builder().binary(binary).listeners_from_config();
    let builder = builder.args(["--config".as_ref(), config.as_os_str()]);
    match sabotage {
        Some(sabotage) => builder.env("SEAWALL_SABOTAGE", sabotage.as_str()).start().await,
        None => builder.start().await,
    }
}

fn yaml(
    index: usize,
    up: &BTreeMap<Owner, Vec<FaultProxy>>,
    pki: &Pki,
    settings: &Settings,
) -> Result<String> {
    let tls = match index {
        BY_TLS => {
            let shown = pki.server()?;
            format!(
                "tls: {{cert_file: {}, key_file: {}}}",
                shown.cert.display(),
                shown.key.display()
            )
        }
        _ => "# plaintext".to_owned(),
    };
    let urls = |owner| {
        let links: &Vec<FaultProxy> = &up[&owner];
        let urls = links.iter().map(|link| format!("http://{}", link.address()));
        urls.collect::<Vec<_>>().join(", ")
    };
    let Settings { mirror, coalesces, history } = settings;
    Ok(format!(
        "listeners:
  - name: {NAME}
    address: 127.0.0.1:0
    default: main
    routes: [{{prefix: /registry/events, cluster: events}}]
    {tls}
clusters:
  main: {{endpoints: [{}], {QUICK}}}
  events: {{endpoints: [{}], {QUICK}}}
mirror: {{mode: {mirror}, history: {history}, verify_interval: 1s}}
protection: {{coalescing: {{enabled: {coalesces}}}}}
drain: {{grace: 2s}}
",
        urls(Owner::Main),
        urls(Owner::Events),
    ))
}
