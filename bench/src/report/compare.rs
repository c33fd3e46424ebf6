use super::{
    figure,
    figures::{Spread, number},
};
use crate::{
    result::Results,
    scenario::{Headline, Scenario},
};
use std::fmt;

/// What became of each headline of each target.
#[derive(Debug)]
pub(crate) struct Comparison {
    changes: Vec<Change>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Change {
    what: String,
    before: Spread,
    after: Spread,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Worse,
    Better,
    /// The rounds of one run differ as much.
    Same,
}

/// Below this a difference means nothing, however little the rounds differ.
const LEAST: f64 = 0.1;
/// What one round alone may be off by.
const UNKNOWN_NOISE: f64 = 0.3;

/// `relative` compares what is a multiple of the first target in the same round.
pub(crate) fn compare(before: &Results, after: &Results, relative: bool) -> Comparison {
    let mut changes = Vec::new();
    for scenario in &after.scenarios {
        for target in after.targets(&scenario.name) {
            for headline in &scenario.headlines {
                let spread = |results| spread(results, scenario, target, headline, relative);
                if let (Some(before), Some(after)) = (spread(before), spread(after)) {
                    let what = format!("{} of {target}: {}", scenario.name, headline.says);
                    let verdict = verdict(before, after, headline.figure.more_is_better());
                    changes.push(Change { what, before, after, verdict });
                }
            }
        }
    }
    changes.sort_by_key(|change| change.verdict);
    Comparison { changes, notes: notes(before, after) }
}

fn spread(
    results: &Results,
    scenario: &Scenario,
    target: &str,
    headline: &Headline,
    relative: bool,
) -> Option<Spread> {
    let samples = results.of(&scenario.name, Some(target));
    if !relative {
        return Spread::of(samples.filter_map(|sample| figure(sample, headline)));
    }
    let first = *results.targets(&scenario.name).first()?;
    let ratios = samples.filter_map(|sample| {
        let mut of_round = results.of(&scenario.name, Some(first));
        let base = of_round.find(|base| base.round == sample.round)?;
        let base = figure(base, headline).filter(|base| *base > 0.0)?;
        Some(figure(sample, headline)? / base)
    });
    Spread::of(ratios)
}

/// A change counts if the medians differ by more than what either run is unsure of by itself.
fn verdict(before: Spread, after: Spread, more_is_better: bool) -> Verdict {
    let noise = before.noise(UNKNOWN_NOISE).max(after.noise(UNKNOWN_NOISE)).max(LEAST);
    let (before, after) = (before.median(), after.median());
    let (low, high) = (before / (1.0 + noise), before * (1.0 + noise));
    if (low..=high).contains(&after) {
        return Verdict::Same;
    }
    if (after > before) == more_is_better { Verdict::Better } else { Verdict::Worse }
}

fn notes(before: &Results, after: &Results) -> Vec<String> {
    let (one, other) = (&before.environment, &after.environment);
    let mut notes = Vec::new();
    if (&one.cpu, one.cores, one.memory_bytes) != (&other.cpu, other.cores, other.memory_bytes) {
        notes.push("They were measured on different machines: use --relative".to_owned());
    }
    if one.seed != other.seed || (one.scale - other.scale).abs() > f64::EPSILON {
        notes.push("They were measured with different data".to_owned());
    }
    for scenario in &after.scenarios {
        let same = |known: &&Scenario| known.name == scenario.name;
        let known = before.scenarios.iter().find(same);
        if known.is_some_and(|known| format!("{known:?}") != format!("{scenario:?}")) {
            notes.push(format!("{} is not what it was: other loads or phases", scenario.name));
        }
    }
    if one.versions != other.versions {
        notes.push(format!(
            "Versions: {} / {}",
            one.versions.join(", "),
            other.versions.join(", ")
        ));
    }
    for sample in after.samples.iter().filter(|sample| sample.violation_count() > 0) {
        let (scenario, target) = (&sample.scenario, &sample.target);
        notes.push(format!("{scenario} of {target} has violations: {:?}", sample.violations));
    }
    notes
}

impl Comparison {
    pub(crate) fn has_regressions(&self) -> bool {
        self.changes.iter().any(|change| change.verdict == Verdict::Worse)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "- {note}")?;
        }
        let count =
            |verdict| self.changes.iter().filter(|change| change.verdict == verdict).count();
        let (worse, better) = (count(Verdict::Worse), count(Verdict::Better));
        let same = count(Verdict::Same);
        writeln!(
            f,
            "{worse} figures are worse, {better} are better, {same} differ by noise at most"
        )?;
        for Change { what, before, after, verdict } in &self.changes {
            let verdict = match verdict {
                Verdict::Worse => "WORSE",
                Verdict::Better => "better",
                Verdict::Same => continue,
            };
            let ratio = number(after.median() / before.median());
            writeln!(f, "{verdict:<6}  {what}: {before} to {after}, ×{ratio}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(values: &[f64]) -> Spread {
        Spread::of(values.iter().copied()).expect("there are some")
    }

    #[test]
    fn only_what_exceeds_the_noise_of_both_runs_is_a_change() {
        let of = |before: &[f64], after: &[f64]| verdict(spread(before), spread(after), false);
        assert_eq!(of(&[10.0, 10.1, 10.2], &[13.0, 13.1, 13.2]), Verdict::Worse);
        assert_eq!(of(&[13.0, 13.1, 13.2], &[10.0, 10.1, 10.2]), Verdict::Better);
        // Quiet rounds, but a tenth is a tenth.
        assert_eq!(of(&[10.0, 10.0, 10.0], &[10.9, 10.9, 10.9]), Verdict::Same);
        // Rounds that differ by half say nothing of a third.
        assert_eq!(of(&[7.0, 10.0, 15.0], &[13.0, 13.1, 13.2]), Verdict::Same);
        // Nor does one round of a quarter.
        assert_eq!(of(&[10.0], &[12.5]), Verdict::Same);
        assert_eq!(of(&[10.0], &[14.0]), Verdict::Worse);
        let rate = verdict(spread(&[10.0; 3]), spread(&[14.0; 3]), true);
        assert_eq!(rate, Verdict::Better);
    }
}
