use super::{endpoints::EndpointFlags, interrupted, programs::ProgramFlags};
use crate::{
    engine::{self, Plan},
    report::{self, Outputs},
    result::{FORMAT, Results},
    scenario::{Scenario, Storage, builtins},
    target::{Endpoint, Programs, Subject, Target},
};
use anyhow::{Result, ensure};
use clap::Args;
use std::process::ExitCode;

#[derive(Args, Debug)]
pub(super) struct Run {
    /// Names of `seawall-bench list`, or files [default: all that are built in, but those of `by_name`]
    scenarios: Vec<String>,

    #[command(flatten)]
    programs: ProgramFlags,

    #[command(flatten)]
    outputs: Outputs,

    /// Measures what runs already, instead of starting anything: NAME=URL,URL; may be repeated, and the
    /// first is what the others are compared with. Data is written through it, and left there
    #[arg(long = "endpoint", value_name = "NAME=URLS", conflicts_with = "targets")]
    endpoints: Vec<String>,

    #[command(flatten)]
    endpoint_flags: EndpointFlags,

    /// How often each scenario is measured, each time in another order [default: 3]
    #[arg(long)]
    rounds: Option<usize>,

    /// What rates and numbers of objects, lists and watchers are multiplied by
    #[arg(long, default_value_t = 1.0)]
    scale: f64,

    /// What the length of each phase is multiplied by [default: 1]
    #[arg(long)]
    stretch: Option<f64>,

    /// The same seed makes the same data
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Where etcd keeps its data, instead of where the scenario says
    #[arg(long)]
    storage: Option<Storage>,

    /// How many members etcd has, instead of what the scenario says
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(["1", "3", "5"]))]
    members: Option<String>,

    /// A first impression in ten minutes: where nothing else is said, one round with half as long
    /// phases, of direct, seawall and seawall-mirror
    #[arg(long)]
    quick: bool,
}

struct Measured {
    subjects: Vec<Subject>,
    /// What they say they are.
    versions: Vec<String>,
    /// What is not measured, and why.
    notes: Vec<String>,
}

const DEFAULT: [Target; 5] =
    [Target::Direct, Target::GrpcProxy, Target::HaproxyH2, Target::Seawall, Target::SeawallMirror];
const QUICK: [Target; 3] = [Target::Direct, Target::Seawall, Target::SeawallMirror];

impl Run {
    /// Measures until the end or a signal, and writes what there is by then.
    pub(super) async fn run(self) -> Result<ExitCode> {
        // Whoever measures what runs already needs no etcd here.
        let starts = self.endpoints.is_empty();
        let programs = starts.then(|| self.programs.programs()).transpose()?;
        let Measured { subjects, versions, notes } = match &programs {
            Some(programs) => self.started(programs)?,
            None => self.running()?,
        };
        let plan = Plan {
            scenarios: self.chosen()?,
            rounds: self.rounds.unwrap_or(if self.quick { 1 } else { 3 }),
            root: self.endpoint_flags.root()?,
            seed: self.seed,
            storage: self.storage,
            members: self.members.as_ref().map(|members| members.parse()).transpose()?,
            programs,
            subjects,
        };
        let mut environment = report::environment(versions)?;
        (environment.seed, environment.scale) = (self.seed, self.scale);
        let mut results = Results {
            format: FORMAT,
            environment,
            notes,
            failures: Vec::new(),
            scenarios: plan.scenarios.clone(),
            samples: Vec::new(),
        };
        results.environment.ceiling = Some(engine::ceiling().await?);
        let ended = tokio::select! {
            ended = Box::pin(engine::run(&plan, &mut results)) => ended,
            ended = interrupted() => ended,
        };
        if let Err(error) = ended {
            results.failures.push(format!("The run is not complete: {error:#}"));
        }
        self.outputs.write(&results)?;
        Ok(if results.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn running(&self) -> Result<Measured> {
        let certificates = self.endpoint_flags.certificates();
        let endpoint = |text: &String| Endpoint::parse(text, &certificates).map(Subject::Endpoint);
        let subjects = self.endpoints.iter().map(endpoint).collect::<Result<Vec<_>>>()?;
        Ok(Measured { subjects, versions: self.endpoints.clone(), notes: Vec::new() })
    }

    fn started(&self, programs: &Programs) -> Result<Measured> {
        let default: &[Target] = if self.quick { &QUICK } else { &DEFAULT };
        let (targets, notes) = self.programs.targets(programs, default)?;
        let versions = programs.versions(&targets)?;
        Ok(Measured {
            subjects: targets.into_iter().map(Subject::Started).collect(),
            versions,
            notes,
        })
    }

    fn chosen(&self) -> Result<Vec<Scenario>> {
        ensure!(self.scale > 0.0 && self.scale <= 100.0, "a scale is above 0 and at most 100");
        let stretch = self.stretch.unwrap_or(if self.quick { 0.5 } else { 1.0 });
        ensure!(stretch > 0.0 && stretch <= 100.0, "a stretch is above 0 and at most 100");
        let scenarios: Vec<Scenario> = match self.scenarios.as_slice() {
            [] => builtins()?.into_iter().filter(|scenario| !scenario.by_name).collect(),
            names => names.iter().map(|name| Scenario::find(name)).collect::<Result<_>>()?,
        };
        let adapt = |scenario: Scenario| scenario.scaled(self.scale).stretched(stretch);
        Ok(scenarios.into_iter().map(adapt).collect())
    }
}
