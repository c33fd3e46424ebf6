//! Who may do what, what is written down of it, and what is never written down.

mod access;
mod audit;
mod secrets;

// Each of the test programs that share them uses a part.
#[allow(dead_code)]
#[path = "../conformance/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "../failover/operator.rs"]
mod operator;
#[allow(dead_code)]
#[path = "../conformance/schema.rs"]
mod schema;

use anyhow::{Context, Result, ensure};
use client::{Client, Reply, Status};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use seawall_testkit::{Cluster, Pki, SeawallProcess, eventually};
use std::{env, fs, path::PathBuf, sync::Arc};
use tonic::Code;

/// One etcd behind a Seawall that asks for certificates.
struct Stage {
    etcd: Cluster,
    pki: Pki,
    seawall: SeawallProcess,
    config: PathBuf,
}

/// A client with a certificate.
struct Named {
    client: Client,
}

impl Stage {
    /// `rest` is the YAML beside the listener and the cluster.
    async fn start(rest: &str) -> Result<Self> {
        Self::with(rest, &[]).await
    }

    async fn with(rest: &str, args: &[&str]) -> Result<Self> {
        Self::with_pki(Pki::new()?, rest, args).await
    }

    async fn with_pki(pki: Pki, rest: &str, args: &[&str]) -> Result<Self> {
        let etcd = Cluster::single().await?;
        let config = etcd.dir().join("seawall.yaml");
        fs::write(&config, text(&etcd, &pki, rest)?)?;
        let binary = env::var_os("SEAWALL_BIN")
            .map_or_else(|| env!("CARGO_BIN_EXE_seawall").into(), PathBuf::from);
        let builder = SeawallProcess::builder().binary(binary);
        let builder = builder.args(["--config".as_ref(), config.as_os_str()]).args(args);
        Ok(Self { etcd, pki, seawall: builder.start().await?, config })
    }

    /// Changes the configuration and waits until it is taken over.
    async fn reload(&self, rest: &str) -> Result<()> {
        let reloads = || {
            let log = self.seawall.log();
            log.iter().filter(|line| line.message() == "configuration reloaded").count()
        };
        let before = reloads();
        fs::write(&self.config, text(&self.etcd, &self.pki, rest)?)?;
        self.seawall.reload()?;
        eventually(client::DEADLINE, "a reload", async || {
            ensure!(reloads() > before, "seawall logged {:?}", self.seawall.log().last());
            Ok(())
        })
        .await
    }

    /// A client of this name.
    async fn named(&self, name: &str) -> Result<Named> {
        let client = Client::connect_tls(self.seawall.address("main")?, self.shows(name)?).await?;
        Ok(Named { client })
    }

    /// What a client shows who has a certificate of this name.
    fn shows(&self, name: &str) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.pki.ca())?)?;
        let shown = self.pki.client(name)?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(&shown.cert)?],
                PrivateKeyDer::from_pem_file(&shown.key)?,
            )?;
        Ok(config)
    }
}

fn text(etcd: &Cluster, pki: &Pki, rest: &str) -> Result<String> {
    let shown = pki.server()?;
    Ok(format!(
        "listeners: [{{tls: {{cert_file: {}, key_file: {}, trusted_ca_file: {}}}}}]
clusters: {{main: {{endpoints: [{}]}}}}
{rest}",
        shown.cert.display(),
        shown.key.display(),
        pki.ca().display(),
        etcd.endpoints().join(", "),
    ))
}

impl Named {
    /// What comes of a request in protobuf's text format: `KV/Range`, `key: '/a'`.
    async fn call(&self, method: &str, request: &str) -> Result<Reply> {
        self.call_with(method, &[], request).await
    }

    async fn call_with(
        &self,
        method: &str,
        metadata: &[(&str, &str)],
        request: &str,
    ) -> Result<Reply> {
        let kind = schema::method(method)?;
        let bytes = schema::encode(kind.input(), request)?;
        self.client.unary(&schema::path(&kind), metadata, &bytes).await
    }

    /// The one message of a call that ends well.
    async fn ok(&self, method: &str, request: &str) -> Result<bytes::Bytes> {
        let reply = self.call(method, request).await?;
        ensure!(reply.status.code() == Some(Code::Ok), "{method} {request}: {}", reply.status);
        reply.messages.first().cloned().with_context(|| format!("{method} has no answer"))
    }
}

/// What etcd says to who may not.
const DENIED: (Code, &str) = (Code::PermissionDenied, "etcdserver: permission denied");

fn is_denied(reply: &Reply) -> bool {
    let Status::Grpc { code, message, .. } = &reply.status else { return false };
    (*code, &message[..]) == DENIED
}
