//! Health, version and metrics over plain HTTP, as probes and scrapers ask for them.

use crate::{
    arena::{Arena, Target, binary, version},
    client::{Client, in_time},
};
use anyhow::{Context, Result, ensure};
use http::Method;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use seawall_testkit::{Cluster, Pki, SeawallProcess};
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

/// What a prober sees of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Page {
    status: u16,
    kind: String,
    body: String,
}

const CHECKS: [&str; 17] = [
    "/health",
    "/health?serializable=true",
    "/health?exclude=NOSPACE",
    "/health?serializable=false&exclude=CORRUPT",
    "/livez",
    "/livez?verbose",
    "/livez/serializable_read",
    "/livez?exclude=serializable_read",
    "/livez/nonsense",
    "/readyz",
    "/readyz?verbose=true",
    "/readyz/linearizable_read",
    "/readyz/data_corruption",
    "/readyz?exclude=linearizable_read&verbose",
    "/version",
    "/nonsense",
    "/",
];

#[tokio::test]
async fn http_over_plaintext() -> Result<()> {
    let arena = Arena::start().await?;
    let mut differences = Vec::new();
    for verb in [Method::GET, Method::POST] {
        for path in paths()? {
            if verb == Method::POST && path.matches('/').count() > 1 {
                continue;
            }
            let expected = plaintext(&arena.targets[0], &verb, path).await?;
            for target in &arena.targets[1..] {
                let over_1 = plaintext(target, &verb, path).await?;
                let over_2 = page_of(target.client.http(verb.clone(), path).await?)?;
                for (version, got) in [("1.1", over_1), ("2", over_2)] {
                    let what = format!("{verb} {path} of {} over HTTP/{version}", target.name);
                    compare(&what, &expected, &got, &mut differences);
                }
            }
        }
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n\n"));
    Ok(())
}

/// Patroni found nothing but `404 page not found`, as if etcd were broken.
#[tokio::test]
async fn a_client_of_the_json_gateway_is_told_where_it_is() -> Result<()> {
    let arena = Arena::start().await?;
    let target = &arena.targets[1];
    for path in ["/v3/kv/range", "/v3beta/kv/put", "/v2/keys/service"] {
        let page = plaintext(target, &Method::POST, path).await?;
        ensure!(page.status == 404 && page.body.contains("point this client at etcd"), "{page:?}");
    }
    Ok(())
}

#[tokio::test]
async fn http_over_tls() -> Result<()> {
    let pki = Pki::new()?;
    let cluster = Cluster::builder().tls(&pki).start().await?;
    let server = pki.server()?;
    let seawall = SeawallProcess::builder()
        .binary(binary())
        .args(["--upstream", &cluster.endpoints().join(",")])
        .args(["--upstream-cacert".as_ref(), pki.ca().as_path()])
        .args(["--cert-file".as_ref(), server.cert.as_path()])
        .args(["--key-file".as_ref(), server.key.as_path()])
        .start()
        .await?;
    let (etcd, seawall) = (cluster.member(0).address(), seawall.address("main")?);
    let mut differences = Vec::new();
    let clients = (
        Client::connect_tls(etcd, trusting(&pki)?).await?,
        Client::connect_tls(seawall, trusting(&pki)?).await?,
    );
    for path in paths()? {
        let (expected, got) = (tls(etcd, &pki, path).await?, tls(seawall, &pki, path).await?);
        compare(&format!("GET {path} over HTTP/1.1"), &expected, &got, &mut differences);
        let expected = page_of(clients.0.http(Method::GET, path).await?)?;
        let got = page_of(clients.1.http(Method::GET, path).await?)?;
        compare(&format!("GET {path} over HTTP/2"), &expected, &got, &mut differences);
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n\n"));
    Ok(())
}

#[tokio::test]
async fn metrics_are_there_for_prometheus() -> Result<()> {
    let arena = Arena::start().await?;
    for target in &arena.targets {
        let page = plaintext(target, &Method::GET, "/metrics").await?;
        let kind = page.kind.split(';').next().unwrap_or_default();
        ensure!(page.status == 200, "{page:?}");
        ensure!(["text/plain", "application/openmetrics-text"].contains(&kind), "{kind}");
        ensure!(page.body.contains("# TYPE "), "{}", page.body);
    }
    Ok(())
}

/// The checks of `?verbose` come in any order; 3.4 gives no reason and has no probes of its own.
impl Page {
    fn level(mut self) -> Self {
        let mut lines: Vec<_> = self.body.split_inclusive('\n').collect();
        lines.sort();
        self.body = lines.concat();
        // Changes some seconds after the first start.
        if let Some((before, _)) = self.body.split_once(",\"storage\"") {
            self.body = before.to_owned();
        }
        self
    }
}

fn paths() -> Result<Vec<&'static str>> {
    let probes = version()? >= (3, 5);
    let of_3_4 =
        |path: &&str| probes || !path.starts_with("/livez") && !path.starts_with("/readyz");
    Ok(CHECKS.into_iter().filter(of_3_4).collect())
}

fn compare(what: &str, expected: &Page, got: &Page, differences: &mut Vec<String>) {
    let mut expected = expected.clone().level();
    if expected.body == "{\"health\":\"true\"}" {
        // As of 3.5.
        expected.body = "{\"health\":\"true\",\"reason\":\"\"}".into();
    }
    let got = got.clone().level();
    if expected != got {
        differences.push(format!("{what}\n  expected {expected:?}\n  got      {got:?}"));
    }
}

fn page_of((response, body): (http::Response<()>, bytes::Bytes)) -> Result<Page> {
    let kind = response.headers().get("content-type").map(|kind| kind.to_str()).transpose()?;
    Ok(Page {
        status: response.status().as_u16(),
        kind: kind.unwrap_or_default().to_owned(),
        body: String::from_utf8(body.to_vec())?,
    })
}

async fn plaintext(target: &Target, verb: &Method, path: &str) -> Result<Page> {
    let address = target.endpoint.strip_prefix("http://").context("a plaintext endpoint")?;
    exchange(TcpStream::connect(address).await?, verb, path).await
}

async fn tls(address: SocketAddr, pki: &Pki, path: &str) -> Result<Page> {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(trusting(pki)?));
    let stream = TcpStream::connect(address).await?;
    let stream = connector.connect(ServerName::from(address.ip()), stream).await?;
    exchange(stream, &Method::GET, path).await
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    verb: &Method,
    path: &str,
) -> Result<Page> {
    let request = format!(
        "{verb} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    in_time("a page", stream.write_all(request.as_bytes())).await??;
    let mut answer = String::new();
    in_time("a page", stream.read_to_string(&mut answer)).await??;
    parse(&answer)
}

fn parse(answer: &str) -> Result<Page> {
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("a status line")?;
    let header = |name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
        line.and_then(|line| line.split_once(": ")).map_or("", |(_, value)| value)
    };
    let body = match header("transfer-encoding:") {
        "chunked" => unchunked(body)?,
        _ => body.to_owned(),
    };
    Ok(Page { status: status.parse()?, kind: header("content-type:").to_owned(), body })
}

fn unchunked(mut rest: &str) -> Result<String> {
    let mut body = String::new();
    loop {
        let (length, after) = rest.split_once("\r\n").context("the length of a chunk")?;
        let length = usize::from_str_radix(length, 16)?;
        if length == 0 {
            return Ok(body);
        }
        body.push_str(after.get(..length).context("a whole chunk")?);
        rest = after.get(length + 2..).context("the end of a chunk")?;
    }
}

fn trusting(pki: &Pki) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.ca())?)?;
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
