//! Where everything is reached, which changes when something is started again.

use crate::{
    client::Client,
    history::{Owner, Via},
};
use anyhow::{Context, Result};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use seawall_testkit::{Cluster, Member, Pki};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

#[derive(Debug)]
pub(crate) struct Map {
    members: BTreeMap<Owner, Vec<SocketAddr>>,
    /// Held for moments, never over an await.
    seawalls: Mutex<[Option<SocketAddr>; 2]>,
    tls: ClientConfig,
}

/// The Seawall that clients reach by TLS; the other one speaks plaintext.
pub(crate) const BY_TLS: usize = 1;

impl Map {
    pub(crate) fn new(clusters: &BTreeMap<Owner, Cluster>, pki: &Pki) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(pki.ca())?)?;
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let addresses =
            |cluster: &Cluster| cluster.members().iter().map(Member::address).collect::<Vec<_>>();
        let members = clusters.iter().map(|(owner, cluster)| (*owner, addresses(cluster)));
        Ok(Self { members: members.collect(), seawalls: Mutex::default(), tls })
    }

    pub(crate) fn set(&self, seawall: usize, address: SocketAddr) {
        self.seawalls.lock().unwrap_or_else(PoisonError::into_inner)[seawall] = Some(address);
    }

    /// A connection to a Seawall, or to the member of a cluster whose turn it is.
    pub(crate) async fn connect(&self, via: Via, owner: Owner, turn: usize) -> Result<Client> {
        match via {
            Via::Direct => {
                let members = &self.members[&owner];
                Client::connect(members[turn % members.len()]).await
            }
            Via::Seawall(index) => {
                let known = self.seawalls.lock().unwrap_or_else(PoisonError::into_inner)[index];
                let address = known.context("it was never started")?;
                match index {
                    BY_TLS => Client::connect_tls(address, self.tls.clone()).await,
                    _ => Client::connect(address).await,
                }
            }
        }
    }
}
