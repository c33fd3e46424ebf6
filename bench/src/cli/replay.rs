use super::{endpoints::Certification, interrupted};
use crate::{
    client::Dial,
    measure::Figures,
    replay::{Manner, Outcome, Replayed, Watched, read, replay},
    report::number,
};
use anyhow::{Context, Result, ensure};
use clap::Args;
use indicatif::ProgressBar;
use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

#[derive(Args, Debug)]
pub(super) struct Replay {
    /// What `seawall run --record` wrote
    trace: PathBuf,

    /// URLs of an etcd, or of what stands in front of one
    #[arg(long, value_delimiter = ',', required = true)]
    endpoint: Vec<String>,

    #[command(flatten)]
    certification: Certification,

    /// 2 is twice as fast as it was recorded
    #[arg(long, default_value_t = 1.0)]
    speed: f64,

    /// Also writes, over the keys that were written then: only where nobody needs them
    #[arg(long)]
    write: bool,
}

impl Replay {
    pub(super) async fn run(self) -> Result<ExitCode> {
        ensure!(self.speed > 0.0 && self.speed <= 1000.0, "a speed is above 0 and at most 1000");
        let name = self.trace.display();
        let text = fs::read_to_string(&self.trace).with_context(|| format!("reading {name}"))?;
        let calls = read(&text).with_context(|| format!("reading {name}"))?;
        let dial = Dial::of_urls(&self.endpoint, &self.certification.certificates())?;
        let manner = Manner { speed: self.speed, writes: self.write };
        let bar = ProgressBar::new_spinner().with_message(format!("{} calls", calls.len()));
        bar.enable_steady_tick(Duration::from_millis(200));
        let outcome = tokio::select! {
            replayed = Box::pin(replay(calls, &dial, manner)) => replayed?,
            ended = interrupted() => return ended.map(|()| ExitCode::FAILURE),
        };
        bar.finish_and_clear();
        print(&outcome);
        let figures = outcome.shapes.iter().map(|each| &each.figures);
        let mut figures = figures.chain(outcome.watched.as_ref().map(|watched| &watched.figures));
        let failed = figures.any(|figures| !figures.errors.is_empty());
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn print(Outcome { shapes, watched, left_out }: &Outcome) {
    println!("| shape | calls | p50 ms then | p50 ms now | p99 ms then | p99 ms now | errors |");
    println!("|---|---|---|---|---|---|---|");
    for Replayed { shape, recorded_ms, figures } in shapes {
        print_row(shape, recorded_ms.map(number), figures);
    }
    if let Some(Watched { figures, events }) = watched {
        // A record says how long watches lasted, and not how long it took to create them.
        print_row("watch", ["–", "–"].map(str::to_owned), figures);
        println!("\n- {events} events came to those who watched");
    }
    let watches = watched.iter().map(|watched| ("watch", &watched.figures));
    let shapes = shapes.iter().map(|each| (&*each.shape, &each.figures));
    for (shape, figures) in shapes.chain(watches) {
        for (reason, count) in &figures.errors {
            println!("- {shape}: {count} × {reason}");
        }
    }
    for (shape, count) in left_out {
        println!("- {count} of shape {shape} were left out");
    }
}

fn print_row(shape: &str, [p50, p99]: [String; 2], figures: &Figures) {
    let errors = figures.error_count();
    let calls = figures.operations + errors;
    let [now_p50, now_p99] = [figures.p50_ms, figures.p99_ms].map(number);
    println!("| {shape} | {calls} | {p50} | {now_p50} | {p99} | {now_p99} | {errors} |");
}
