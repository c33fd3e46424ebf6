use super::*;
use crate::{
    client::Certificates, measure::Group, result::FORMAT, scenario::builtins, target::Endpoint,
};
use anyhow::Context;
use seawall_testkit::{Binaries, Cluster, Identity, Pki};

/// All kinds of workloads, watchers and steps that one member bears, in two short phases.
const SMALL: &str = "
title: A little of everything
story: It is short.
data: {pods: {count: 300, bytes: 400}, config_maps: 20, services: 8, events: 5, widgets: 5}
warm_up: 100ms
phases: [{name: first, lasts: 500ms}, {name: second, lasts: 1s}]
workloads:
  - {name: gets, ask: {get: {of: pods}}, load: {per_second: 50}}
  - {name: revisions, ask: {revision: {of: pods}}, load: {per_second: 20}}
  - {name: lists, ask: {list: {of: pods, own: true}}, load: {in_flight: 2}}
  - {name: pages, ask: {pages: {of: pods, limit: 50}}, load: {in_flight: 1, operations: 2}}
  - {name: checks, ask: {pages: {of: pods, limit: 100, pinned: true}}, load: {per_second: 5}}
  - {name: counts, ask: {count: {of: pods}}, load: {per_second: 10}}
  - {name: updates, ask: {update: {of: config_maps}}, load: {per_second: 50}}
  - {name: puts, ask: {put: {of: services}}, load: {in_flight: 2}, phases: [second]}
  - {name: events, ask: {create: {of: events}}, load: {burst: 20, within: 200ms}, phases: [second]}
  - {name: churn, ask: {churn: {of: widgets}}, load: {per_second: 20}}
  - {name: grants, ask: {grant: {ttl: 60}}, load: {per_second: 5}}
  - {name: health, ask: health, load: {per_second: 5}}
  - {name: counter, ask: {counter: {of: pods}}, load: {per_second: 20}}
watchers:
  - {name: watchers, of: config_maps, count: 6, streams: 2, relist_limit: 10}
  - {name: slow, of: config_maps, count: 1, streams: 1, rests: 20ms}
steps:
  - {phase: first, at: 100ms, do: compact}
  - {phase: second, at: 100ms, do: break_watches}
  - {phase: second, at: 200ms, do: defragment}
headlines:
  - {says: Updates, of: updates, phase: second, figure: p99_ms}
";

fn plan(scenario: Scenario) -> Result<Plan> {
    let etcd = Binaries::selected()?;
    let nothing = std::path::PathBuf::new();
    Ok(Plan {
        programs: Some(Programs {
            etcd,
            haproxy: nothing.clone(),
            seawall: nothing,
            seawall_args: Vec::new(),
        }),
        subjects: vec![Subject::Started(Target::Direct)],
        scenarios: vec![scenario],
        rounds: 2,
        root: "/registry".to_owned(),
        seed: 1,
        storage: None,
        members: None,
    })
}

fn results(plan: &Plan) -> Results {
    Results {
        format: FORMAT,
        environment: Default::default(),
        notes: Vec::new(),
        failures: Vec::new(),
        scenarios: plan.scenarios.clone(),
        samples: Vec::new(),
    }
}

/// At etcd itself, which answers rightly: whatever the harness finds wrong there is its own mistake.
#[tokio::test]
async fn etcd_itself_is_found_right_and_everything_is_measured() -> Result<()> {
    let plan = plan(Scenario::parse("small", "small.yaml", SMALL)?)?;
    let mut results = results(&plan);
    Box::pin(run(&plan, &mut results)).await?;
    assert!(results.is_clean(), "{:?} {:?}", results.failures, results.samples);
    assert_eq!(results.samples.len(), 2);
    for sample in &results.samples {
        let errors = sample.happened.iter().filter_map(|happened| happened.error.as_ref());
        assert_eq!(errors.collect::<Vec<_>>(), Vec::<&String>::new());
        assert_eq!(sample.happened.len(), 3);
        let second = sample.phase("second").context("it was measured")?;
        for workload in &plan.scenarios[0].workloads {
            let figures = second.part(&workload.name).context("it was measured")?;
            assert!(figures.operations > 0, "{} did nothing", workload.name);
        }
        let cost = |group| second.costs.get(&group).context("it runs");
        let (etcd, client) = (cost(Group::Etcd)?.wire, cost(Group::Client)?.wire);
        let (etcd, client) = etcd.zip(client).context("the kernel tells")?;
        assert!(etcd.sent_bytes > etcd.received_bytes && etcd.received_bytes > 0, "{etcd:?}");
        assert!(client.received_bytes > client.sent_bytes, "{client:?}");
        let heard = |name| second.part(name).map(|figures| figures.operations);
        assert!(heard("watchers") > Some(0) && heard("slow") > Some(0), "{second:?}");
        // On a slow machine they are through with it only after the phase.
        assert!(heard("watchers relist").is_some(), "{second:?}");
    }
    let page = crate::report::page(&results);
    assert!(page.contains("A little of everything") && page.contains("watches break"), "{page}");
    for elsewhere in ["http:", "https:", "src=", "@import", "url("] {
        assert!(!page.contains(elsewhere), "the page needs what {elsewhere} leads to");
    }
    // What came of it survives its own file.
    let json = serde_json::to_string(&results)?;
    let again: Results = serde_json::from_str(&json)?;
    assert_eq!(again.samples.len(), 2);
    Ok(())
}

const TINY: &str = "
title: A read and a watch
story: It is short.
data: {pods: {count: 20, bytes: 400}}
phases: [{name: all, lasts: 300ms}]
workloads:
  - {name: gets, ask: {get: {of: pods}}, load: {in_flight: 1}}
  - {name: updates, ask: {update: {of: pods}}, load: {in_flight: 1}}
watchers:
  - {name: watchers, of: pods, count: 1, streams: 1}
headlines:
  - {says: Reads, of: gets, phase: all, figure: p99_ms}
";

/// Measures an etcd that runs already as `--endpoint`, `--ca`, `--cert` and `--key` say.
async fn measured(cluster: &Cluster, certificates: Certificates) -> Result<Results> {
    let scenario = Scenario::parse("tiny", "tiny.yaml", TINY)?;
    let endpoint = format!("etcd={}", cluster.endpoints().join(","));
    let endpoint = Endpoint::parse(&endpoint, &certificates)?;
    let subjects = vec![Subject::Endpoint(endpoint)];
    let plan = Plan { programs: None, subjects, rounds: 1, ..plan(scenario)? };
    let mut results = results(&plan);
    Box::pin(run(&plan, &mut results)).await?;
    Ok(results)
}

#[tokio::test]
async fn an_etcd_with_tls_is_measured_by_who_shows_and_knows_certificates() -> Result<()> {
    let (pki, other) = (Pki::new()?, Pki::new()?);
    let cluster = Cluster::builder().tls(&pki).client_cert_auth().start().await?;
    let Identity { cert, key } = pki.client("bench")?;
    let identity = Some((cert, key));
    let distrusting = Certificates { ca: Some(other.ca()), identity: identity.clone() };
    let failed = measured(&cluster, distrusting).await?.failures.join("\n");
    let address = cluster.member(0).address();
    let expected = format!("tiny: connecting to {address}: its certificate is not of --ca: ");
    assert!(failed.starts_with(&expected), "{failed}");

    let results = measured(&cluster, Certificates { ca: Some(pki.ca()), identity }).await?;
    assert!(results.is_clean(), "{:?} {:?}", results.failures, results.samples);
    let sample = results.samples.first().context("it was measured")?;
    let all = sample.phase("all").context("it was measured")?;
    for part in ["gets", "updates", "watchers"] {
        assert!(all.part(part).is_some_and(|figures| figures.operations > 0), "{part}: {all:?}");
    }
    Ok(())
}

#[test]
fn certificates_that_are_not_there_are_named() -> Result<()> {
    let pki = Pki::new()?;
    let missing = std::path::PathBuf::from("/nowhere/ca.crt");
    let error = |ca| {
        let certificates = Certificates { ca, identity: None };
        let parsed = Endpoint::parse("etcd=https://127.0.0.1:1", &certificates);
        parsed.err().map(|error| format!("{error:#}")).unwrap_or_default()
    };
    assert_eq!(error(None), "endpoint etcd: https needs --ca");
    assert!(error(Some(missing)).starts_with("endpoint etcd: reading /nowhere/ca.crt: "));
    // A key is no certificate.
    let key = pki.server()?.key;
    let expected = format!("endpoint etcd: there is no certificate in {}", key.display());
    assert_eq!(error(Some(key)), expected);
    Ok(())
}

#[test]
fn everybody_is_the_first_in_turn() -> Result<()> {
    let all = [Target::Direct, Target::Seawall, Target::SeawallMirror].map(Subject::Started);
    let names = |turn| in_turn(&all, turn).map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(names(0), "direct seawall seawall-mirror");
    assert_eq!(names(4), "seawall seawall-mirror direct");
    assert!(builtins()?.len() > 15);
    Ok(())
}
