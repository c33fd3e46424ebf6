//! What is written.

use crate::{KEYS, client::Client, key, unary};
use anyhow::Result;
use bytes::Bytes;
use rand::{Rng, rngs::StdRng};
use seawall::etcd::{
    method::Method,
    proto::etcdserverpb::{
        DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RequestOp,
        TxnRequest, request_op::Request,
    },
};

/// Puts, updates, deletes, transactions, and leases that come and go.
pub(crate) async fn change(client: &Client, random: &mut StdRng, times: usize) -> Result<()> {
    let mut lease = random.random_range(1..i64::MAX);
    unary(client, Method::LeaseGrant, &LeaseGrantRequest { ttl: 9000, id: lease }).await?;
    for _ in 0..times {
        match random.random_range(0..20) {
            0 => {
                unary(client, Method::LeaseRevoke, &LeaseRevokeRequest { id: lease }).await?;
                lease = random.random_range(1..i64::MAX);
                let grant = LeaseGrantRequest { ttl: 9000, id: lease };
                unary(client, Method::LeaseGrant, &grant).await?;
            }
            1 => {
                let (first, number) = (random.random_range(0..KEYS), random.random_range(0..4));
                let range_end = key(first + number);
                let request = DeleteRangeRequest { key: key(first), range_end, prev_kv: false };
                unary(client, Method::DeleteRange, &request).await?;
            }
            2..8 => drop(unary(client, Method::Txn, &transaction(random, lease)).await?),
            _ => drop(unary(client, Method::Put, &put(random, random_key, lease)).await?),
        }
    }
    Ok(())
}

pub(crate) fn random_key(random: &mut StdRng) -> Bytes {
    key(random.random_range(0..KEYS))
}

fn put(random: &mut StdRng, key: impl Fn(&mut StdRng) -> Bytes, lease: i64) -> PutRequest {
    let size = match random.random_range(0..20) {
        0 => random.random_range(60_000..80_000),
        1 => 0,
        _ => random.random_range(1..200),
    };
    let value = vec![random.random_range(b'a'..=b'z'); size].into();
    let lease = if random.random_bool(0.3) { lease } else { 0 };
    PutRequest { key: key(random), value, lease, ..PutRequest::default() }
}

/// Some keys, each of them at most once.
fn transaction(random: &mut StdRng, lease: i64) -> TxnRequest {
    let first = random.random_range(0..KEYS);
    let ops = (0..random.random_range(1..5)).map(|step| {
        let key = key((first + 7 * step) % KEYS);
        let request = match random.random_bool(0.7) {
            true => Request::RequestPut(put(random, |_| key.clone(), lease)),
            false => Request::RequestDeleteRange(DeleteRangeRequest { key, ..Default::default() }),
        };
        RequestOp { request: Some(request) }
    });
    TxnRequest { success: ops.collect(), ..TxnRequest::default() }
}
