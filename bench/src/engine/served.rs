use crate::result::Served;
use anyhow::Result;
use seawall_testkit::{Cluster, Member};
use std::collections::BTreeMap;

/// What each process of etcd had to do so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counters(BTreeMap<u32, Served>);

impl Counters {
    /// Of the members that run.
    pub(super) async fn read(cluster: &Cluster) -> Result<Self> {
        let mut counters = BTreeMap::new();
        for member in cluster.members() {
            if let Some(pid) = member.pid() {
                counters.insert(pid, Self::of(member).await?);
            }
        }
        Ok(Self(counters))
    }

    async fn of(member: &Member) -> Result<Served> {
        Ok(parse(&member.metrics().await?))
    }

    /// What they did since `before`; none if it is not known of all, since some were not there at
    /// both times.
    pub(super) fn since(&self, before: &Self) -> Option<Served> {
        if !self.0.keys().eq(before.0.keys()) {
            return None;
        }
        let mut all = Served::default();
        for (now, then) in self.0.values().zip(before.0.values()) {
            all.ranges += now.ranges.saturating_sub(then.ranges);
            all.writes += now.writes.saturating_sub(then.writes);
            all.sent_bytes += now.sent_bytes.saturating_sub(then.sent_bytes);
            all.received_bytes += now.received_bytes.saturating_sub(then.received_bytes);
        }
        Some(all)
    }
}

/// One that etcd has not counted yet is not there.
fn parse(metrics: &str) -> Served {
    let handled = |method: &str| {
        let method = format!(r#"grpc_method="{method}"#);
        sum(metrics, "grpc_server_handled_total", &[&method, r#"grpc_code="OK""#])
    };
    Served {
        // RangeStream begins with the same letters.
        ranges: handled("Range"),
        writes: handled("Txn\"") + handled("Put\""),
        sent_bytes: sum(metrics, "etcd_network_client_grpc_sent_bytes_total", &[]),
        received_bytes: sum(metrics, "etcd_network_client_grpc_received_bytes_total", &[]),
    }
}

/// Of all series of this name that have these labels, or begin so.
fn sum(metrics: &str, name: &str, labels: &[&str]) -> u64 {
    let value = |line: &str| {
        let series = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
        let (series, value) = series.rsplit_once(' ')?;
        let chosen = labels.iter().all(|label| series.contains(label));
        value.parse::<f64>().ok().filter(|_| chosen)
    };
    metrics.lines().filter_map(value).sum::<f64>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_ranges_are_summed_and_others_left_out() {
        let metrics = r#"
# TYPE etcd_network_client_grpc_sent_bytes_total counter
etcd_network_client_grpc_sent_bytes_total 1.048576e+06
grpc_server_handled_total{grpc_code="OK",grpc_method="Range",grpc_service="etcdserverpb.KV"} 40
grpc_server_handled_total{grpc_code="OK",grpc_method="RangeStream",grpc_service="etcdserverpb.KV"} 2
grpc_server_handled_total{grpc_code="Unavailable",grpc_method="Range"} 7
grpc_server_handled_total{grpc_code="OK",grpc_method="DeleteRange"} 9
grpc_server_handled_total{grpc_code="OK",grpc_method="Txn"} 5
grpc_server_handled_total_of_another{grpc_code="OK",grpc_method="Range"} 100
"#;
        let served = parse(metrics);
        assert_eq!((served.ranges, served.writes, served.sent_bytes), (42, 5, 1 << 20));
    }

    #[test]
    fn a_process_that_is_another_makes_the_sum_unknown() {
        let of = |pid, ranges| Counters([(pid, Served { ranges, ..Served::default() })].into());
        assert_eq!(of(7, 9).since(&of(7, 4)).map(|served| served.ranges), Some(5));
        assert_eq!(of(8, 9).since(&of(7, 4)), None);
    }
}
