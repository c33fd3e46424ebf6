//! Watch streams whose watchers are of both clusters.

use crate::{DEADLINE, Routed, refusal};
use anyhow::{Context, Result, ensure};
use etcd_client::{WatchOptions, WatchResponse, WatchStream};
use std::collections::BTreeMap;
use tokio::time::timeout;

const PODS: &str = "/registry/pods/";
const EVENTS: &str = "/registry/events/";

fn below() -> WatchOptions {
    WatchOptions::new().with_prefix()
}

async fn next(stream: &mut WatchStream) -> Result<WatchResponse> {
    let message = timeout(DEADLINE, stream.message()).await.context("no answer of the watch")?;
    message?.context("the watch stream ends")
}

fn revision(response: &WatchResponse) -> Result<i64> {
    Ok(response.header().context("no header")?.revision())
}

#[tokio::test]
async fn one_stream_watches_both_clusters() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    let (mut main, mut events) = routed.direct().await?;
    // Revisions that tell the clusters apart.
    for _ in 0..5 {
        main.put("elsewhere", "", None).await?;
    }
    let mut stream = client.watch(PODS, Some(below())).await?;
    stream.watch(EVENTS, Some(below())).await?;
    stream.watch("/registry/pods/a", None).await?;
    let cluster = |r: &WatchResponse| r.header().map(|header| header.cluster_id());
    let of_main = main.get("a", None).await?.header().map(|header| header.cluster_id());
    let of_events = events.get("a", None).await?.header().map(|header| header.cluster_id());
    for (id, owner) in [(0, of_main), (1, of_events), (2, of_main)] {
        let created = next(&mut stream).await?;
        ensure!(created.created() && !created.canceled(), "{created:?}");
        assert_eq!((created.watch_id(), cluster(&created)), (id, owner));
    }

    let pod = client.put("/registry/pods/a", "v", None).await?;
    let pod = pod.header().context("no header")?.revision();
    let event = client.put("/registry/events/a", "v", None).await?;
    let event = event.header().context("no header")?.revision();
    ensure!(pod != event, "the clusters are at the same revision");
    let mut told = BTreeMap::new();
    while told.len() < 3 {
        let response = next(&mut stream).await?;
        for change in response.events() {
            let kv = change.kv().context("an event without its key")?;
            let what = (kv.key_str()?.to_owned(), kv.mod_revision(), cluster(&response));
            ensure!(told.insert(response.watch_id(), what).is_none(), "told twice: {response:?}");
        }
    }
    let of_pod = ("/registry/pods/a".to_owned(), pod, of_main);
    let of_event = ("/registry/events/a".to_owned(), event, of_events);
    assert_eq!(told, BTreeMap::from([(0, of_pod.clone()), (1, of_event), (2, of_pod)]));

    stream.request_progress().await?;
    let mut progress = BTreeMap::new();
    while progress.len() < 3 {
        let response = next(&mut stream).await?;
        ensure!(response.events().is_empty() && !response.canceled(), "{response:?}");
        progress.insert(response.watch_id(), (revision(&response)?, cluster(&response)));
    }
    let expected = [(0, (pod, of_main)), (1, (event, of_events)), (2, (pod, of_main))];
    assert_eq!(progress, BTreeMap::from(expected));

    stream.cancel(1).await?;
    let cancelled = next(&mut stream).await?;
    ensure!(cancelled.canceled() && cancelled.watch_id() == 1, "{cancelled:?}");
    client.put("/registry/events/b", "v", None).await?;
    client.put("/registry/pods/b", "v", None).await?;
    let response = next(&mut stream).await?;
    assert_eq!((response.watch_id(), response.events().len()), (0, 1), "{response:?}");
    Ok(())
}

#[tokio::test]
async fn a_watch_id_that_is_taken_is_refused_as_by_etcd() -> Result<()> {
    let routed = Routed::start().await?;
    let (mut main, _) = routed.direct().await?;
    let chosen = || Some(below().with_watch_id(7));
    let mut direct = main.watch(PODS, chosen()).await?;
    next(&mut direct).await?;
    direct.watch(PODS, chosen()).await?;
    let expected = next(&mut direct).await?;
    assert_eq!(expected.watch_id(), -1);

    let mut client = routed.client().await?;
    for (first, second) in [(PODS, PODS), (PODS, EVENTS), (EVENTS, PODS), (EVENTS, EVENTS)] {
        let mut stream = client.watch(first, chosen()).await?;
        assert_eq!(next(&mut stream).await?.watch_id(), 7);
        stream.watch(second, chosen()).await?;
        let refused = next(&mut stream).await?;
        let shape = |r: &WatchResponse| {
            (r.watch_id(), r.created(), r.canceled(), r.cancel_reason().to_owned())
        };
        assert_eq!(shape(&refused), shape(&expected), "{first} and {second}");
        // The first watcher lives on.
        stream.request_progress().await?;
        let progress = next(&mut stream).await?;
        ensure!(!progress.canceled(), "{progress:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_watch_from_a_compacted_revision_ends_as_at_its_own_etcd() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    let (_, mut events) = routed.direct().await?;
    for _ in 0..4 {
        events.put("/registry/events/a", "", None).await?;
    }
    events.compact(4, None).await?;
    let status = refusal(events.compact(3, None).await)?;
    ensure!(status.message().contains("compacted"), "{status:?}");
    let mut stream = client.watch(EVENTS, Some(below().with_start_revision(2))).await?;
    ensure!(next(&mut stream).await?.created(), "it is created first");
    let ended = next(&mut stream).await?;
    assert_eq!((ended.canceled(), ended.compact_revision()), (true, 4), "{ended:?}");
    Ok(())
}

#[tokio::test]
async fn a_watch_over_both_clusters_is_refused_with_a_reason() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    let mut stream = client.watch("/registry/", Some(below())).await?;
    let refused = next(&mut stream).await?;
    assert_eq!((refused.created(), refused.canceled(), refused.watch_id()), (true, true, -1));
    let reason = refused.cancel_reason();
    ensure!(reason.contains("/registry/") && reason.contains("several etcd clusters"), "{reason}");
    // The stream and its numbers go on.
    stream.watch(PODS, Some(below())).await?;
    let created = next(&mut stream).await?;
    assert_eq!((created.created(), created.canceled(), created.watch_id()), (true, false, 0));
    Ok(())
}

/// A client that chose the id of a watcher it had just cancelled, for keys of the other cluster, took
/// the late answer about the old one for the end of the new one.
#[tokio::test]
async fn an_id_goes_to_the_other_cluster_once_its_watcher_has_ended() -> Result<()> {
    let routed = Routed::start().await?;
    let mut client = routed.client().await?;
    let chosen = |options: WatchOptions| Some(options.with_watch_id(7));
    let mut stream = client.watch("elsewhere", chosen(WatchOptions::new())).await?;
    next(&mut stream).await?;
    routed.main.member(0).pause()?;
    stream.cancel(7).await?;
    stream.watch(EVENTS, chosen(below())).await?;
    // Meanwhile the other cluster, which is well, could have answered.
    for _ in 0..5 {
        client.put("/registry/events/a", "v", None).await?;
    }
    routed.main.member(0).resume()?;
    let (ended, created) = (next(&mut stream).await?, next(&mut stream).await?);
    ensure!(ended.canceled() && ended.watch_id() == 7, "{ended:?}");
    ensure!(created.created() && created.watch_id() == 7, "{created:?}");
    Ok(())
}
