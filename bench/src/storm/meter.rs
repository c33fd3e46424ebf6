use crate::{
    measure::{Costs, Processes, Readings, forget_peak},
    target::Running,
};
use anyhow::{Context, Result};
use seawall_testkit::Member;
use serde::Serialize;

/// Reads what etcd and the peer spend on a load, and what of it etcd came to see.
pub(super) struct Meter<'a> {
    etcd: &'a Member,
    processes: Processes,
    before: Readings,
    served: Served,
}

impl<'a> Meter<'a> {
    pub(super) async fn start(etcd: &'a Member, running: &Running) -> Result<Self> {
        let pid = etcd.pid().context("etcd has ended")?;
        let processes = Processes::new(pid, running.peer_pid());
        for pid in [Some(pid), running.peer_pid()].into_iter().flatten() {
            forget_peak(pid)?;
        }
        let served = Served::so_far(etcd).await?;
        Ok(Self { etcd, processes, before: processes.read()?, served })
    }

    pub(super) async fn read(self) -> Result<(Costs, Served)> {
        let costs = self.processes.read()?.since(&self.before);
        Ok((costs, Served::so_far(self.etcd).await?.since(self.served)))
    }
}

/// What etcd itself had to do, as its metrics say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Served {
    /// Ranges of any size that it answered.
    pub(crate) ranges: u64,
    /// All that it sent to its clients.
    pub(crate) sent_bytes: u64,
}

impl Served {
    async fn so_far(etcd: &Member) -> Result<Self> {
        Ok(Self::read(&etcd.metrics().await?))
    }

    /// One that etcd has not counted yet is not there.
    fn read(metrics: &str) -> Self {
        let range = r#"grpc_method="Range"#;
        Self {
            ranges: sum(metrics, "grpc_server_handled_total", &[range, r#"grpc_code="OK""#]),
            sent_bytes: sum(metrics, "etcd_network_client_grpc_sent_bytes_total", &[]),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            ranges: self.ranges.saturating_sub(before.ranges),
            sent_bytes: self.sent_bytes.saturating_sub(before.sent_bytes),
        }
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
grpc_server_handled_total_of_another{grpc_code="OK",grpc_method="Range"} 100
"#;
        assert_eq!(Served::read(metrics), Served { ranges: 42, sent_bytes: 1 << 20 });
    }
}
