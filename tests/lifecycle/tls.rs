//! Certificates on both sides.

use crate::{Args, DEADLINE, builder, configure, configured, operator};
use anyhow::{Context, Result, ensure};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use seawall_testkit::{Cluster, Etcdctl, Identity, Pki, SeawallProcess, eventually};
use std::{fs, path::Path, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Seawall whose listener has this `tls` section, before a cluster without TLS.
async fn with_tls(cluster: &Cluster, shown: &Identity, rest: &str) -> Result<SeawallProcess> {
    let text = format!(
        "listeners: [{{tls: {{cert_file: {}, key_file: {}, {rest}}}}}]
clusters: {{main: {{endpoints: [{{main}}]}}}}\n",
        shown.cert.display(),
        shown.key.display(),
    );
    configured(&configure(cluster, &text)?).await
}

fn ctl(cluster: &Cluster, seawall: &SeawallProcess) -> Result<Etcdctl> {
    let endpoint = format!("https://{}", seawall.address("main")?);
    Ok(Etcdctl::new(cluster.binaries(), [endpoint]))
}

/// A connection of TLS that trusts `pki` and speaks this version.
async fn connect(
    seawall: &SeawallProcess,
    pki: &Pki,
    shown: Option<&Identity>,
    version: &'static SupportedProtocolVersion,
) -> Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.ca())?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])?
        .with_root_certificates(roots);
    let config = match shown {
        Some(Identity { cert, key }) => config.with_client_auth_cert(
            vec![CertificateDer::from_pem_file(cert)?],
            PrivateKeyDer::from_pem_file(key)?,
        )?,
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(seawall.address("main")?).await?;
    let connecting =
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost")?, stream);
    Ok(timeout(DEADLINE, connecting).await.context("the handshake hangs")??)
}

/// The answer to a plain request for the version; with TLS 1.3 only this shows whether the client's
/// certificate was taken.
async fn asks(stream: &mut TlsStream<TcpStream>) -> Result<String> {
    stream.write_all(b"GET /version HTTP/1.1\r\nhost: seawall\r\n\r\n").await?;
    let mut answer = vec![0; 4096];
    let length = timeout(DEADLINE, stream.read(&mut answer)).await.context("no answer")??;
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    ensure!(answer.contains("etcdserver"), "it answers {answer:?}");
    Ok(answer)
}

/// Waits for a warning that names a certificate's subject and the reason.
async fn warns(seawall: &SeawallProcess, what: &str, whose: &str, why: &str) -> Result<()> {
    let found = seawall.log_contains(DEADLINE, what, |line| {
        let text = format!("{} {}", line.message(), line.text("reason").unwrap_or_default());
        text.contains(what) && text.contains(whose) && text.to_lowercase().contains(why)
    });
    found.await.map(drop)
}

#[tokio::test]
async fn clients_come_in_by_tls() -> Result<()> {
    let (pki, cluster) = (Pki::new()?, Cluster::single().await?);
    let seawall = with_tls(&cluster, &pki.server()?, "").await?;
    let ctl = ctl(&cluster, &seawall)?;
    ctl.clone().ca(&pki.ca()).run(&["put", "k", "v"]).await?.success()?;
    let other = Pki::new()?;
    let distrusting = ctl.ca(&other.ca()).run(&["--command-timeout=1s", "get", "k"]).await?;
    ensure!(!distrusting.status.success(), "it trusts an authority it does not know");
    Ok(())
}

#[tokio::test]
async fn clients_need_a_certificate_that_is_trusted_and_valid() -> Result<()> {
    let (pki, cluster) = (Pki::new()?, Cluster::single().await?);
    let ask = format!("trusted_ca_file: {}", pki.ca().display());
    let seawall = with_tls(&cluster, &pki.server()?, &ask).await?;
    let apiserver = pki.client("apiserver")?;
    let ctl = ctl(&cluster, &seawall)?.ca(&pki.ca()).identity(&apiserver);
    ctl.run(&["put", "k", "v"]).await?.success()?;

    let other = Pki::new()?;
    let stranger = other.client("stranger")?;
    let expired = pki.expired_client("yesterday")?;
    for version in [&TLS12, &TLS13] {
        asks(&mut connect(&seawall, &pki, Some(&apiserver), version).await?).await?;
        for shown in [None, Some(&stranger), Some(&expired)] {
            let answer = match connect(&seawall, &pki, shown, version).await {
                Ok(mut stream) => asks(&mut stream).await,
                Err(error) => Err(error),
            };
            ensure!(answer.is_err(), "{shown:?} came in: {answer:?}");
        }
    }
    warns(&seawall, "client refused", "stranger", "invalid").await?;
    warns(&seawall, "client refused", "yesterday", "expired").await
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() -> Result<()> {
    let (pki, cluster) = (Pki::new()?, Cluster::single().await?);
    let shown = pki.server()?;
    let seawall = with_tls(&cluster, &shown, "reload_interval: 1s").await?;
    let of = |stream: &TlsStream<TcpStream>| {
        let chain = stream.get_ref().1.peer_certificates();
        chain.map(|chain| chain[0].clone()).context("no certificate was shown")
    };
    let mut before = connect(&seawall, &pki, None, &TLS13).await?;
    pki.renew_server()?;
    let renewed = CertificateDer::from_pem_file(&shown.cert)?;
    ensure!(of(&before)? != renewed, "the renewed certificate is another one");
    eventually(DEADLINE, "the new certificate", async || {
        ensure!(of(&connect(&seawall, &pki, None, &TLS13).await?)? == renewed, "it is the old one");
        Ok(())
    })
    .await?;
    asks(&mut before).await.context("an old connection stays")?;
    Ok(())
}

/// The first listener showed its new certificate while the log said that all had stayed as it was.
#[tokio::test]
async fn certificates_change_at_all_listeners_or_at_none() -> Result<()> {
    let (pki, other, cluster) = (Pki::new()?, Pki::new()?, Cluster::single().await?);
    let text = |first: &Identity, second: &Identity| {
        let tls = |shown: &Identity| {
            format!("{{cert_file: {}, key_file: {}}}", shown.cert.display(), shown.key.display())
        };
        format!(
            "listeners:
- {{name: main, address: 127.0.0.1:0, tls: {}}}
- {{name: second, address: 127.0.0.2:0, tls: {}}}
clusters: {{main: {{endpoints: [{{main}}]}}}}\n",
            tls(first),
            tls(second)
        )
    };
    let (before, after) = (pki.server()?, other.server()?);
    let file = configure(&cluster, &text(&before, &before))?;
    let seawall = builder().listeners_from_config().arg("--config", &file).start().await?;
    let broken = Identity { cert: cluster.dir().join("broken.crt"), key: after.key.clone() };
    fs::write(&broken.cert, "no certificate")?;
    configure(&cluster, &text(&after, &broken))?;
    seawall.reload()?;
    let kept = "configuration not reloaded; the last good one stays";
    seawall.log_contains(DEADLINE, "a refusal", |line| line.message() == kept).await?;
    let mut first = connect(&seawall, &pki, None, &TLS13).await.context("the first has changed")?;
    asks(&mut first).await?;
    Ok(())
}

/// What a reload begins that is refused in the end would stay in the metrics.
#[tokio::test]
async fn a_reload_that_is_refused_leaves_nothing_to_count() -> Result<()> {
    let (pki, cluster) = (Pki::new()?, Cluster::single().await?);
    let shown = pki.server()?;
    let seawall = with_tls(&cluster, &shown, "").await?;
    let broken = cluster.dir().join("broken.crt");
    fs::write(&broken, "no certificate")?;
    let text = fs::read_to_string(cluster.dir().join("seawall.yaml"))?
        .replace(&*shown.cert.to_string_lossy(), &broken.to_string_lossy())
        .replace("[{tls", "[{default: main, tls")
        .replace("{main:", "{more: {endpoints: [http://127.0.0.1:1]}, main:");
    configure(&cluster, &text)?;
    seawall.reload()?;
    let kept = "configuration not reloaded; the last good one stays";
    let line = seawall.log_contains(DEADLINE, "a refusal", |line| line.message() == kept).await?;
    let error = line.text("error").context("it tells why")?;
    ensure!(error.contains("broken.crt"), "it is refused before: {error}");
    let (_, text) = operator::get(seawall.admin()?, "/metrics").await?;
    let ours = ["seawall_upstream_", "seawall_mirror_"];
    let mut lines = text.lines().filter(|line| ours.iter().any(|name| line.starts_with(name)));
    let left = lines.find(|line| line.contains("cluster=\"more\""));
    ensure!(left.is_none(), "it is counted: {left:?}");
    Ok(())
}

/// The files of every listener were loaded anew at every reload, whatever had changed.
#[tokio::test]
async fn a_broken_key_stands_in_the_way_of_no_other_change() -> Result<()> {
    let (pki, cluster) = (Pki::new()?, Cluster::single().await?);
    let shown = pki.server()?;
    let seawall = with_tls(&cluster, &shown, "").await?;
    fs::write(&shown.key, "no key")?;
    let file = cluster.dir().join("seawall.yaml");
    let text = fs::read_to_string(file)?;
    let rule = "{name: one, match: {prefixes: [/a]}, limit: {requests: 1/s}}";
    configure(&cluster, &format!("{text}protection: {{rules: [{rule}]}}\n"))?;
    seawall.reload()?;
    let reloaded = "configuration reloaded";
    seawall.log_contains(DEADLINE, "a reload", |line| line.message() == reloaded).await?;
    asks(&mut connect(&seawall, &pki, None, &TLS13).await?).await?;
    Ok(())
}

#[tokio::test]
async fn only_the_newest_version_where_that_is_asked_for() -> Result<()> {
    let (pki, cluster) = (Pki::new()?, Cluster::single().await?);
    let seawall = with_tls(&cluster, &pki.server()?, "min_version: 1.3").await?;
    asks(&mut connect(&seawall, &pki, None, &TLS13).await?).await?;
    ensure!(connect(&seawall, &pki, None, &TLS12).await.is_err(), "it speaks TLS 1.2");
    Ok(())
}

#[tokio::test]
async fn a_client_that_says_nothing_is_disconnected() -> Result<()> {
    let (pki, cluster) = (Pki::new()?, Cluster::single().await?);
    let seawall = with_tls(&cluster, &pki.server()?, "handshake_timeout: 300ms").await?;
    let mut silent = TcpStream::connect(seawall.address("main")?).await?;
    // A reset is as good an end as an orderly one.
    let ended = timeout(DEADLINE, silent.read(&mut [0])).await.context("it stays connected")?;
    ensure!(!matches!(ended, Ok(1..)), "it was told something");
    eventually(DEADLINE, "the failure to be counted", async || {
        let name = "seawall_listener_handshake_failures_total";
        ensure!(operator::metric(seawall.admin()?, name).await? == 1.0, "it is not counted");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_expired_certificate_of_ours_is_reported() -> Result<()> {
    let (pki, cluster) = (Pki::new()?, Cluster::single().await?);
    let seawall = with_tls(&cluster, &pki.expired_server()?, "").await?;
    warns(&seawall, "certificate", "seawall test server", "expired").await
}

/// Seawall before a cluster that asks for certificates.
async fn before_tls(cluster: &Cluster, ca: &Path, shown: &Identity) -> Result<SeawallProcess> {
    let builder = builder().args(["--upstream", &cluster.endpoints().join(",")]);
    builder
        .arg("--upstream-cacert", ca)
        .arg("--upstream-cert", &shown.cert)
        .arg("--upstream-key", &shown.key)
        .start()
        .await
}

#[tokio::test]
async fn etcd_is_reached_by_tls_with_a_certificate() -> Result<()> {
    let pki = Pki::new()?;
    let cluster = Cluster::builder().tls(&pki).client_cert_auth().start().await?;
    let seawall = before_tls(&cluster, &pki.ca(), &pki.client("seawall")?).await?;
    let ctl = Etcdctl::new(cluster.binaries(), [seawall.endpoint()?]);
    ctl.run(&["put", "k", "v"]).await?.success()?;
    Ok(())
}

#[tokio::test]
async fn an_etcd_that_is_not_trusted_is_named() -> Result<()> {
    let (pki, other) = (Pki::new()?, Pki::new()?);
    let cluster = Cluster::builder().tls(&pki).client_cert_auth().start().await?;
    let seawall = before_tls(&cluster, &other.ca(), &pki.client("seawall")?).await?;
    warns(&seawall, "server refused", "seawall test server", "").await?;
    let endpoint = cluster.member(0).endpoint();
    eventually(DEADLINE, "the reason in /status", async || {
        let status = operator::status(seawall.admin()?).await?;
        let member = &status["clusters"]["main"]["members"][0];
        ensure!(member["endpoint"] == endpoint.as_str(), "{member}");
        let error = member["error"].as_str().context("no reason")?;
        ensure!(error.to_lowercase().contains("certificate"), "it is {error}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_expired_certificate_shown_to_etcd_is_reported() -> Result<()> {
    let pki = Pki::new()?;
    let cluster = Cluster::builder().tls(&pki).client_cert_auth().start().await?;
    let seawall = before_tls(&cluster, &pki.ca(), &pki.expired_client("seawall")?).await?;
    warns(&seawall, "certificate", "seawall", "expired").await?;
    let (code, text) = operator::get(seawall.admin()?, "/readyz").await?;
    ensure!(code == 503, "etcd has let it in: {text}");
    Ok(())
}
