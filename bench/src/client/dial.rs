use super::Connection;
use anyhow::{Context, Result, ensure};
use http::uri::{Authority, Scheme};
use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{net::TcpStream, sync::Mutex};
use tokio_rustls::TlsConnector;

/// Where a target serves: one address, or those of several members.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    authorities: Arc<[Authority]>,
    tls: Option<Tls>,
}

/// What a client needs to know for TLS.
#[derive(Clone)]
pub(crate) struct Tls(Arc<ClientConfig>);

/// Files with certificates.
#[derive(Clone, Debug, Default)]
pub(crate) struct Certificates {
    pub(crate) ca: Option<PathBuf>,
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

impl Dial {
    pub(crate) fn plain(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let authority = |address: SocketAddr| {
            address.to_string().parse().expect("an address and a port are an authority")
        };
        Self { authorities: addresses.into_iter().map(authority).collect(), tls: None }
    }

    /// Of URLs, all with `https` or all without.
    pub(crate) fn of_urls(urls: &[String], certificates: &Certificates) -> Result<Self> {
        let mut authorities = Vec::new();
        let mut secure = Vec::new();
        for url in urls {
            let uri: http::Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
            authorities
                .push(uri.authority().with_context(|| format!("{url} names no host"))?.clone());
            secure.push(uri.scheme_str() == Some("https"));
        }
        ensure!(!authorities.is_empty(), "an endpoint needs a URL");
        ensure!(
            secure.iter().all(|each| *each == secure[0]),
            "TLS for some URLs and not for others"
        );
        let tls = secure[0].then(|| Tls::of(certificates)).transpose()?;
        Ok(Self { authorities: authorities.into(), tls })
    }

    /// The `n`-th connection; those of several members take turns.
    pub(crate) async fn open(&self, n: usize) -> Result<Connection> {
        let authority = &self.authorities[n % self.authorities.len()];
        let connecting = || format!("connecting to {authority}");
        let port = authority.port_u16().unwrap_or(2379);
        let stream = TcpStream::connect((authority.host(), port)).await.with_context(connecting)?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Connection::over(stream, Scheme::HTTP, authority.clone()).await,
            Some(Tls(config)) => {
                let name = ServerName::try_from(authority.host().to_owned())?;
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name, stream).await;
                let stream = stream.map_err(explained).with_context(connecting)?;
                Connection::over(stream, Scheme::HTTPS, authority.clone()).await
            }
        }
    }
}

impl Tls {
    fn of(certificates: &Certificates) -> Result<Self> {
        let ca = certificates.ca.as_ref().context("https needs --ca")?;
        let mut roots = RootCertStore::empty();
        for certificate in chain(ca)? {
            roots.add(certificate).with_context(|| format!("reading {}", ca.display()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match &certificates.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let named = || format!("reading {}", key.display());
                let private = PrivateKeyDer::from_pem_file(key).with_context(named)?;
                builder.with_client_auth_cert(chain(certificate)?, private).with_context(named)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

/// All certificates of a file, of which there is at least one.
fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let reading = || format!("reading {}", file.display());
    let chain = CertificateDer::pem_file_iter(file).with_context(reading)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().with_context(reading)?;
    ensure!(!chain.is_empty(), "there is no certificate in {}", file.display());
    Ok(chain)
}

/// rustls' words do not say which flag to look at.
fn explained(error: io::Error) -> anyhow::Error {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let is_strange = match cause {
        // An authority of the same name has another key.
        Some(rustls::Error::InvalidCertificate(why)) => {
            matches!(why, CertificateError::UnknownIssuer | CertificateError::BadSignature)
        }
        _ => false,
    };
    let error = anyhow::Error::from(error);
    if is_strange { error.context("its certificate is not of --ca") } else { error }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// A connection that is opened again, at the next address, when it was lost. Any number of loops
/// share it.
#[derive(Clone, Debug)]
pub(crate) struct Channel(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// None for a connection that cannot be had again.
    dial: Option<Dial>,
    attempts: AtomicUsize,
    /// Held while one of those who share it connects; the others wait for that.
    current: Mutex<Option<Connection>>,
}

impl Channel {
    /// The `n`-th to these addresses.
    pub(crate) async fn open(dial: &Dial, n: usize) -> Result<Self> {
        let connection = dial.open(n).await?;
        Ok(Self(Arc::new(Shared {
            dial: Some(dial.clone()),
            attempts: AtomicUsize::new(n + 1),
            current: Mutex::new(Some(connection)),
        })))
    }

    #[cfg(test)]
    pub(crate) fn once(connection: Connection) -> Self {
        let (attempts, current) = (AtomicUsize::new(0), Mutex::new(Some(connection)));
        Self(Arc::new(Shared { dial: None, attempts, current }))
    }

    /// # Errors
    ///
    /// When there is none and none can be opened now.
    pub(crate) async fn connection(&self) -> Result<Connection> {
        let mut current = self.0.current.lock().await;
        if let Some(connection) = &*current {
            return Ok(connection.clone());
        }
        let dial = self.0.dial.as_ref().context("the connection is gone")?;
        let connection = dial.open(self.0.attempts.fetch_add(1, Ordering::Relaxed)).await?;
        Ok(current.insert(connection).clone())
    }

    /// Gives up `connection`, unless another has given it up already.
    pub(crate) async fn give_up(&self, connection: &Connection) {
        let mut current = self.0.current.lock().await;
        current.take_if(|current| current.is(connection));
    }

    pub(crate) fn can_reopen(&self) -> bool {
        self.0.dial.is_some()
    }
}
