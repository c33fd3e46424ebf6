//! Leases with keys at both clusters, kept alive for a while and then left or given up.

use super::Client;
use crate::history::{Answer, Change, Request};
use rand::Rng;

/// Seconds. Shorter than what a run takes, so that a lease that is not kept is seen to end.
const TTL: i64 = 4;

/// Milliseconds between keep-alives: several fit into what a lease's copy may miss of them.
const PAUSE_MAX: u64 = 300;

const RENEWALS: usize = 40;

pub(super) async fn run(mut client: Client) {
    let mut number = 0;
    while client.goes_on(PAUSE_MAX).await {
        let Some(Answer::Lease { lease, .. }) =
            client.caller.call(Request::Grant { ttl: TTL }).await
        else {
            continue;
        };
        number += 1;
        for prefix in ["/registry/events/leased/", "/leased/"] {
            let value = client.value();
            let key = format!("{prefix}{}-{number}", client.caller.client);
            client.caller.call(Request::Write { key, change: Change::Put { value, lease } }).await;
        }
        client.keep(lease).await;
        if client.random.random_bool(0.5) {
            client.caller.call(Request::Revoke { lease }).await;
        }
    }
}

impl Client {
    /// Until it has had enough of it, or the lease is gone.
    async fn keep(&mut self, lease: i64) {
        for _ in 0..RENEWALS {
            if !self.goes_on(PAUSE_MAX).await {
                return;
            }
            if let Some(Answer::Lease { ttl: ..=0, .. }) =
                self.caller.call(Request::KeepAlive { lease }).await
            {
                return;
            }
        }
    }
}
