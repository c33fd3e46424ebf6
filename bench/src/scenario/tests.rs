use super::*;
use std::time::Duration;

const SMALL: &str = "
title: Two pods
story: >
  Nothing
  happens.
data: {pods: 2}
phases: [{name: quiet, lasts: 250ms}, {name: storm, lasts: 5s}]
workloads:
  - name: lists
    ask: {list: {of: pods}}
    load: {in_flight: 16}
    phases: [storm]
  - name: health
    ask: health
    load: {per_second: 1}
headlines:
  - {says: Lists, of: lists, phase: storm, figure: p99_ms}
";

fn parse(text: &str) -> Result<Scenario> {
    Scenario::parse("small", "small.yaml", text)
}

fn refused(text: &str) -> String {
    format!("{:#}", parse(text).expect_err("it is refused"))
}

#[test]
fn a_file_says_all_there_is_to_know() -> Result<()> {
    let scenario = parse(SMALL)?;
    assert_eq!((&*scenario.name, &*scenario.story), ("small", "Nothing happens."));
    assert_eq!(scenario.phases[0].lasts, Span(Duration::from_millis(250)));
    let [lists, health] = &scenario.workloads[..] else { panic!("there are two") };
    assert_eq!(lists.ask, Ask::List { of: Resource::Pods, own: false });
    assert_eq!(lists.load, Load::Closed { in_flight: 16, operations: None });
    assert!(!lists.runs_in(&scenario.phases[0]) && health.runs_in(&scenario.phases[0]));
    Ok(())
}

#[test]
fn what_is_wrong_is_named_with_line_and_column() {
    let wrong = |from: &str, to: &str| refused(&SMALL.replacen(from, to, 1));
    let text = wrong("load: {in_flight: 16}", "lode: {in_flight: 16}");
    assert!(text.starts_with("small.yaml:11:5: ") && text.contains("lode"), "{text}");
    let text = wrong("of: pods}}", "of: pod}}");
    assert!(text.starts_with("small.yaml:10:") && text.contains("`pod`"), "{text}");
    let text = wrong("lasts: 5s", "lasts: 5");
    assert!(text.starts_with("small.yaml:7:") && text.contains("no length of time"), "{text}");
    let text = wrong("{in_flight: 16}", "{in_flight: 16, burst: 3}");
    assert!(text.starts_with("small.yaml:11:") && text.contains("a load is"), "{text}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let wrong = |from: &str, to: &str| refused(&SMALL.replacen(from, to, 1));
    assert!(wrong("phases: [storm]", "phases: [strom]").contains("no phase strom"));
    assert!(wrong("name: health", "name: lists").contains("the same name"));
    assert!(wrong("{pods: 2}", "{nodes: 2}").contains("no data of pods"));
    assert!(wrong("of: lists", "of: list").contains("no workload list"));
}

#[test]
fn a_scale_changes_loads_and_not_durations() -> Result<()> {
    let scenario = parse(SMALL)?.scaled(0.25);
    assert_eq!(scenario.workloads[0].load, Load::Closed { in_flight: 4, operations: None });
    assert_eq!(scenario.data[&Resource::Pods].count, 1);
    assert_eq!(scenario.stretched(2.0).phases[1].lasts, Span(Duration::from_secs(10)));
    Ok(())
}

#[test]
fn all_that_are_built_in_make_sense_and_survive_json() -> Result<()> {
    for scenario in builtins()? {
        assert!(scenario.story.len() > 100, "{} has hardly a story", scenario.name);
        assert!(!scenario.headlines.is_empty(), "{} says nothing", scenario.name);
        let json = serde_json::to_string(&scenario)?;
        serde_json::from_str::<Scenario>(&json)?;
    }
    Ok(())
}
