//! Two etcd clusters, Seawall in front of them, and the keys Kubernetes would write: shows which
//! key ends up where. `make demo` runs it; `make demo KEEP=1` leaves everything up to be tried.

use anyhow::{Context, Result, ensure};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp};
use seawall_testkit::{Cluster, Etcdctl, SeawallProcess};
use std::{env, time::Duration};

const EVENTS: &str = "/registry/events/";
const EVENT_COUNT: usize = 120;
const EVENT_TTL_SECONDS: i64 = 3600;
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);

/// What is written: how many keys below which prefix.
const COLLECTIONS: [(&str, usize); 4] = [
    ("/registry/pods/", 40),
    ("/registry/minions/", 3),
    ("/registry/leases/", 5),
    (EVENTS, EVENT_COUNT),
];

struct Demo {
    main: Cluster,
    events: Cluster,
    seawall: SeawallProcess,
}

#[tokio::main]
async fn main() -> Result<()> {
    println!("Seawall in front of two etcd clusters\n");
    let demo = Demo::start().await?;
    let lease = demo.write().await?;
    demo.show_keys().await?;
    demo.show_lease(lease).await?;
    demo.show_addresses()?;
    if env::var_os("KEEP").is_some_and(|keep| !keep.is_empty()) {
        println!("\nEverything stays up until Ctrl-C.");
        tokio::signal::ctrl_c().await?;
        println!();
    } else {
        println!("\nTo keep it running and try them: make demo KEEP=1");
    }
    demo.end().await
}

impl Demo {
    async fn start() -> Result<Self> {
        let main = Cluster::single().await?;
        println!("etcd \"main\"    {}", main.member(0).endpoint());
        let events = Cluster::single().await?;
        println!("etcd \"events\"  {}", events.member(0).endpoint());
        let (upstream, route) =
            (main.member(0).endpoint(), format!("{EVENTS}={}", events.member(0).endpoint()));
        let seawall = SeawallProcess::builder()
            .args(["--upstream", &upstream, "--route", &route])
            .start()
            .await?;
        println!("seawall        {}", seawall.endpoint()?);
        println!("  run with     --upstream {upstream} --route {route}\n");
        Ok(Self { main, events, seawall })
    }

    /// Writes all collections through Seawall as kube-apiserver does: each key is created in a
    /// transaction, and events hang on a lease. Returns that lease.
    async fn write(&self) -> Result<i64> {
        let mut client = Client::connect([self.seawall.endpoint()?], None).await?;
        let lease = client.lease_grant(EVENT_TTL_SECONDS, None).await?.id();
        for (prefix, count) in COLLECTIONS {
            let options = (prefix == EVENTS).then(|| PutOptions::new().with_lease(lease));
            for number in 0..count {
                let key = format!("{prefix}default/object-{number:03}");
                let value = format!(r#"{{"metadata":{{"name":"object-{number:03}"}}}}"#);
                let created = client
                    .txn(
                        Txn::new()
                            .when([Compare::mod_revision(key.clone(), CompareOp::Equal, 0)])
                            .and_then([TxnOp::put(key.clone(), value, options.clone())]),
                    )
                    .await?;
                ensure!(created.succeeded(), "{key} exists already");
            }
        }
        Ok(lease)
    }

    /// Counts the keys with etcdctl: at each etcd directly, and through Seawall.
    async fn show_keys(&self) -> Result<()> {
        let through = self.through()?;
        let mut table = table(["keys", "written", "etcd main", "etcd events", "through Seawall"]);
        for (prefix, written) in COLLECTIONS {
            let counts = [
                count(&self.main.ctl(self.main.endpoints())?, prefix).await?,
                count(&self.events.ctl(self.events.endpoints())?, prefix).await?,
                count(&through, prefix).await?,
            ];
            let expected =
                if prefix == EVENTS { [0, written, written] } else { [written, 0, written] };
            ensure!(counts == expected, "{prefix}: counted {counts:?}, expected {expected:?}");
            let numbers = [written].into_iter().chain(counts).map(|number| number.to_string());
            table.add_row([prefix.to_owned()].into_iter().chain(numbers));
        }
        println!("Where the keys are, counted with etcdctl\n{table}\n");
        Ok(())
    }

    /// The lease was granted by the main cluster, which knows no key of it. Seawall made it on the
    /// other cluster too, with the same id, when the first event needed it there.
    async fn show_lease(&self, lease: i64) -> Result<()> {
        let mut table = table(["lease", "cluster", "TTL granted", "seconds left", "keys"]);
        for (name, cluster, keys) in
            [("main", &self.main, 0), ("events", &self.events, EVENT_COUNT)]
        {
            let id = format!("{lease:x}");
            let args = ["lease", "timetolive", &id, "--keys", "-w", "json"];
            let answer = cluster.etcdctl(&args).await?.json()?;
            let attached = answer["keys"].as_array().map_or(0, Vec::len);
            ensure!(attached == keys, "{attached} keys hang on the lease at etcd {name}");
            let (granted, left) = (&answer["granted-ttl"], &answer["ttl"]);
            table.add_row([
                id,
                format!("etcd {name}"),
                granted.to_string(),
                left.to_string(),
                attached.to_string(),
            ]);
        }
        println!("Where the lease of the events is\n{table}\n");
        Ok(())
    }

    fn show_addresses(&self) -> Result<()> {
        let etcdctl = self.main.binaries().etcdctl();
        let etcdctl = etcdctl.display();
        let (seawall, admin) = (self.seawall.endpoint()?, self.seawall.admin()?);
        println!(
            "To try\n  \
             {etcdctl} --endpoints={seawall} get /registry/ --prefix --keys-only\n  \
             {etcdctl} --endpoints={seawall} watch /registry/events/ --prefix\n  \
             {etcdctl} --endpoints={main} get /registry/ --prefix --keys-only\n  \
             {etcdctl} --endpoints={events} get /registry/ --prefix --keys-only\n  \
             curl -s http://{admin}/metrics\n  \
             curl -s http://{admin}/status\n  \
             curl -s 'http://{admin}/readyz?verbose'",
            main = self.main.member(0).endpoint(),
            events = self.events.member(0).endpoint(),
        );
        Ok(())
    }

    /// Ends the proxy in order; the clusters go with their values.
    async fn end(self) -> Result<()> {
        self.seawall.terminate()?;
        let status = self.seawall.wait(DRAIN_DEADLINE).await?;
        ensure!(status.success(), "seawall ended with {status}");
        println!("\nStopped, nothing is left behind.");
        Ok(())
    }

    fn through(&self) -> Result<Etcdctl> {
        Ok(Etcdctl::new(self.main.binaries(), [self.seawall.endpoint()?]))
    }
}

async fn count(etcdctl: &Etcdctl, prefix: &str) -> Result<usize> {
    let args = ["get", prefix, "--prefix", "--keys-only", "-w", "json"];
    let answer = etcdctl.run(&args).await?.json()?;
    // JSON leaves a zero out.
    let count = answer.get("count").map_or(Some(0), serde_json::Value::as_u64);
    Ok(count.context("a count is a number")?.try_into()?)
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    table
}
