//! A member of which some connections work and others do not, under a clock that stands still until
//! everybody waits.

use super::*;
use crate::{
    etcd::{
        method::Method,
        proto::etcdserverpb::{RangeRequest, RangeResponse},
    },
    grpc,
    upstream::{
        Endpoint, Lane, LaneConfig, Lanes, ProbeConfig, RetryConfig, TlsConfig, loopback, outbound,
    },
};
use h2::server;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicUsize;
use tokio::io::DuplexStream;
use tonic::Status;

/// As they are by default.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

fn config(host: &str) -> Config {
    let lane = LaneConfig {
        connections_max: 4,
        streams_spread: 100,
        streams_max: 100,
        stream_window: 1 << 16,
        connection_window: 1 << 16,
    };
    Config {
        name: "main".into(),
        endpoints: vec![Endpoint { tls: false, host: host.into(), port: 2379 }],
        tls: TlsConfig::default(),
        connect_timeout: Duration::from_secs(3),
        backoff_min: BACKOFF_MIN,
        backoff_max: BACKOFF_MAX,
        keepalive_interval: Duration::from_secs(10),
        keepalive_timeout: Duration::from_secs(5),
        probe: ProbeConfig {
            interval: PROBE_INTERVAL,
            timeout: Duration::from_secs(1),
            failures: 3,
        },
        retry: RetryConfig { budget_percent: 20 },
        lanes: Lanes { watch: lane.clone(), light: lane.clone(), heavy: lane },
    }
}

/// Answers probes on one connection, and counts them.
async fn serve(stream: DuplexStream, probes: Arc<AtomicUsize>) {
    let mut connection = server::handshake(stream).await.expect("a connection");
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let header =
            Some(ResponseHeader { cluster_id: 1, member_id: 1, revision: 1, raft_term: 1 });
        let message = if Method::from_path(request.uri().path()) == Some(Method::Status) {
            grpc::encode(&StatusResponse { header, leader: 1, ..Default::default() })
        } else {
            probes.fetch_add(1, Relaxed);
            grpc::encode(&RangeResponse { header, ..Default::default() })
        };
        let mut body = respond.send_response(grpc::head(), false).expect("it is asked");
        body.send_data(message, false).expect("it is asked");
        body.send_trailers(grpc::trailers(&Status::ok(""))).expect("it is asked");
    }
}

/// Where the connection of the probes worked and no other could be made, each call that waited for one
/// had hundreds of connections tried in a second, and the member probed after each.
#[tokio::test(start_paused = true)]
async fn what_fails_beside_a_sound_connection_is_tried_seldom() {
    let mut incoming = loopback::listen("half");
    let metrics = Metrics::register(&mut Registry::default());
    let connector = Cluster::connector(&config("half")).expect("it needs no files");
    let cluster = Cluster::start(config("half"), connector, &metrics, 2);
    let first = incoming.recv().await.expect("the connection of the probes");
    // Whoever dials from now on is refused.
    drop(incoming);
    let probes = Arc::new(AtomicUsize::new(0));
    tokio::spawn(serve(first, Arc::clone(&probes)));
    cluster.healthy().await;

    let list = outbound(Method::Range, &RangeRequest::default(), 1, Lane::Heavy);
    let failed = cluster.call(&list, Effect::Read).await.expect_err("there is no connection");
    assert!(matches!(failed, Error::Unreachable { .. }), "{failed}");
    // Pauses double from 50 to 100 ms, of which 5 s hold six, or five with the longest.
    let dials = cluster.members[0].metrics.connection_failures.get();
    assert!((6..=7).contains(&dials), "{dials} connections were tried");
    let (regular, probes) = (WAIT_MAX.as_secs() as usize + 1, probes.load(Relaxed));
    assert!(probes <= regular + dials as usize, "{probes} probes for {dials} connections");
}
